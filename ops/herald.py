"""The herald process: tells people and programs how the agent stands. It does no other work.

It looks for trouble, sends letters, answers those who ask for status, metrics and health, and calls the dead-man's
switch. Its settings are read again when their file changes; while the file is wrong, what was read before holds.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import structlog

from actors.outage import Outage
from ops.catalogue_access import Desk
from ops.clock import Clock, machine_now, parse_clock
from ops.ending import Ending
from ops.logs import set_up_logging
from ops.notify.secret_file import read_secret
from ops.notify.sending import Sender
from ops.notify.settings import HeraldSettings, herald_file, parse_herald_settings, read_herald_settings
from ops.notify.telling import Teller
from ops.observe.alive import AliveCaller
from ops.observe.endpoint import Endpoint
from ops.observe.event_counts import EventCounter
from ops.observe.health import Health, check_health
from ops.observe.metrics import Sources, make_registry, metrics_text
from ops.observe.queues import queue_lengths
from ops.observe.space import SpaceGauge
from ops.settings import Settings
from ops.status_screen import told
from ops.status_socket import Answerer
from policies.errors import CatalogAwayError, ConfigurationError, RollforwardError
from storage.catalog.database import Catalog
from storage.catalog.folders import all_folders
from storage.catalog.holders import Holder

_log = structlog.get_logger("herald")

_SHARE: Final = 20
"""It rests so many times as long as it took to look: with thousands of folders it does not become a load of its own."""


@dataclass(slots=True)
class _Running:
    """What the herald runs on its present settings."""

    settings: HeraldSettings
    endpoint: Endpoint | None = None
    alive: AliveCaller | None = None

    def stop(self) -> None:
        if self.endpoint is not None:
            self.endpoint.stop()
        if self.alive is not None:
            self.alive.stop()


class Herald:
    """All of it, for one process.

    Args:
        settings: of the agent.
        catalog: the catalogue.
        clock: calendar time.
    """

    def __init__(self, settings: Settings, catalog: Catalog, clock: Clock) -> None:
        self._settings = settings
        self._catalog = catalog
        self._clock = clock
        self._path = herald_file(settings.state_dir)
        self._gauge = SpaceGauge(again_s=max(settings.herald_s, 1.0) * 3)
        self._events = EventCounter()
        self._stamp: object = ()
        self._running = _Running(parse_herald_settings({}, settings.time_zone, where="the defaults"))
        self._said = ""
        self._outage = Outage("herald")
        self.stopping = threading.Event()

    @property
    def port(self) -> int | None:
        """The port on which it answers; None if it does not."""
        endpoint = self._running.endpoint
        return endpoint.port if endpoint is not None else None

    def tick(self) -> None:
        """Read the settings if they changed, look for trouble, send what waits; what fails stops nothing else."""
        problems = []
        for step in (self._refresh, self._serve, self._work):
            begun_s = time.monotonic()
            try:
                step()
                if step == self._work:
                    self._outage.end(begun_s)
            except CatalogAwayError as error:
                self._outage.begin(error, begun_s)
            except RollforwardError as error:
                problems.append(str(error))
        self._say("; ".join(problems))

    def stop(self) -> None:
        """End what runs beside."""
        self.stopping.set()
        self._running.stop()

    def _work(self) -> None:
        settings = self._running.settings
        with self._catalog.read() as session:
            paths = [folder.path for folder in all_folders(session) if folder.problem is None]
        spaces = self._gauge.spaces(paths)
        Teller(self._catalog, settings, self._clock, machine_now).look(spaces)
        sender = Sender(
            self._catalog,
            settings,
            self._clock,
            machine_now,
            version("rollforward"),
            Holder.of_this_process(),
        )
        sender.send_waiting(self.stopping.is_set)

    def _refresh(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        settings = read_herald_settings(self._path, self._settings.time_zone)
        self._running.stop()
        self._running = _Running(settings)
        self._stamp = stamp

    def _serve(self) -> None:
        """Begin what runs beside, where it does not run yet."""
        running = self._running
        if running.settings.alive is not None and running.alive is None:
            running.alive = AliveCaller(running.settings.alive, self._health)
            running.alive.start()
        asked = running.settings.endpoint
        if asked is None or running.endpoint is not None:
            return
        registry = make_registry(
            Sources(
                self._catalog,
                self._clock,
                version("rollforward"),
                self._health,
                lambda: queue_lengths(self._settings.redis_url, self._settings.namespace),
                self._gauge.spaces,
                self._events,
            )
        )
        token = read_secret(asked.token_file) if asked.token_file else ""
        running.endpoint = Endpoint(
            asked.address, asked.port, token, metrics=lambda: metrics_text(registry), health=self._health
        )
        running.endpoint.start()
        _log.info("answers", address=asked.address, port=running.endpoint.port)

    def _health(self) -> Health:
        return check_health(self._settings, self._catalog, machine_now())

    def _say(self, trouble: str) -> None:
        """Log what is wrong once, not at each tick."""
        if trouble and trouble != self._said:
            _log.warning("the herald cannot do its work, the next tick tries again", reason=trouble)
        self._said = trouble


def main() -> None:
    """Tell until SIGTERM or SIGINT."""
    settings = Settings.from_environment(os.environ)
    set_up_logging(settings.log_format)
    ending = Ending.prepared(settings.stop_s)
    catalog = Catalog(settings.catalogue_url)
    clock = parse_clock(settings.clock)
    herald = Herald(settings, catalog, clock)
    answerer = _answerer(settings, Desk(catalog, clock, settings))
    _log.info("tells")
    while True:
        begun = time.monotonic()
        herald.tick()
        pause_s = max(settings.herald_s, _SHARE * (time.monotonic() - begun))
        if ending.wait(pause_s):
            break
    herald.stop()
    if answerer is not None:
        answerer.stop()
    catalog.close()
    ending.leave()


def _answerer(settings: Settings, desk: Desk) -> Answerer | None:
    """Begin to answer `rollforward status`, which reads the catalogue itself where that cannot be."""
    try:
        answerer = Answerer(
            settings.state_dir,
            lambda question: told(desk, machine_now(), question),
            lambda error: _log.warning("status was not answered here", reason=f"{error!r}"),
        )
    except OSError as error:
        _log.warning("status cannot be asked for here, it is read from the catalogue", reason=error.strerror)
        return None
    answerer.start()
    return answerer


def _stamp(path: Path) -> object:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", path=str(path)) from error
    return status.st_mtime_ns, status.st_size, status.st_ino


if __name__ == "__main__":
    main()
