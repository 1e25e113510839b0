"""The agent: one supervised run of Redis, workers and lookout over one catalogue."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from ops.agent_identity import settle_identity
from ops.catalogue_wait import wait_for_catalogue
from ops.clock import Clock, machine_now, parse_clock
from ops.folder_place import known_path, refuse_missing, refuse_overlap
from ops.redis_server import check_redis_url, embed_redis, keep_address
from ops.remembered import Remembered, bring_back, remember
from ops.settings import Settings
from ops.state_dir import LOCK_NAME, make_state_dir, prepare_catalogue, unusable
from ops.supervisor import ChildPlan, Supervisor
from ops.tether import tethered
from policies.errors import BusyError, CatalogError
from storage.catalog.database import Catalog
from storage.catalog.folders import add_folder, all_folders, find_folder
from storage.catalog.holders import Holder

_log = structlog.get_logger("agent")

_REMEMBER_EVERY_S: Final = 60.0
"""How often the agent takes note of what it was told, should its catalogue be deleted."""

_RECONNECT_AFTER_MS: Final = "500"
"""A worker that lost Redis tries again after so long."""


def run_agent(settings: Settings, folders: Sequence[Path], *, rezone: bool = False) -> None:
    """Run the agent until it is asked to stop.

    Args:
        settings: as chosen.
        folders: folders to be managed from now on, besides those in the catalogue.
        rezone: whether those of them that are managed already get the time zone of the settings.

    Raises:
        ConfigurationError: a setting cannot be used.
        BusyError: another agent runs on this state directory.
        CatalogError: the catalogue cannot be used.

    Crash: nothing is left running; the next start goes on with what the folders and the catalogue hold.
    """
    clock = parse_clock(settings.clock)
    settings = replace(settings, clock=str(clock))  # children share its anchor
    with _only_agent(settings):
        wait_for_catalogue(settings.catalogue_url)
        keeper = _CatalogueKeeper(settings, clock, [known_path(path) for path in folders], rezone=rezone)
        plans = _plan_children(settings)
        _log.info(
            "agent starts", state=str(settings.state_dir), clock=settings.clock, zone=settings.time_zone
        )
        Supervisor(plans, stop_within_s=settings.stop_s, on_tick=keeper.was_replaced).run()
        _log.info("agent stopped")


def _plan_children(settings: Settings) -> list[ChildPlan]:
    plans = []
    if settings.redis_url is None:
        embedded = embed_redis(settings.state_dir)
        keep_address(settings.state_dir, embedded.url)
        settings = replace(settings, redis_url=embedded.url)
        plans.append(
            ChildPlan(
                "redis",
                embedded.command,
                dict(os.environ),
                configuration=embedded.configuration,
                is_ready=embedded.is_ready,
                is_silent=True,
                is_kept=True,
            )
        )
    else:
        check_redis_url(settings.redis_url)
    environment = os.environ | settings.to_environment() | {"dramatiq_restart_delay": _RECONNECT_AFTER_MS}
    for number in range(1, settings.workers + 1):
        plans.append(ChildPlan(f"worker {number}", _program("ops.worker"), environment))
    plans.append(ChildPlan("lookout", _program("ops.lookout"), environment))
    plans.append(ChildPlan("herald", _program("ops.herald"), environment))
    return plans


def _program(module: str) -> list[str]:
    return tethered(sys.executable, "-P", "-m", module)


class _CatalogueKeeper:
    """Prepares the catalogue, and prepares it again should somebody delete it while the agent runs.

    Args:
        settings: where it is.
        clock: calendar time.
        folders: folders to be managed from now on.
        rezone: whether those that are managed already get the time zone of the settings.
    """

    def __init__(self, settings: Settings, clock: Clock, folders: Sequence[Path], *, rezone: bool) -> None:
        self._settings = settings
        self._clock = clock
        self._known = Remembered()
        self._remembered_at = 0.0
        self._identity: tuple[int, int] | None = None
        self._prepare(folders, rezone=rezone)

    def was_replaced(self) -> bool:
        """Tell whether the catalogue was deleted; a new one is then in place."""
        if self._identity is None or self._find_identity() == self._identity:
            self._remember_now_and_then()
            return False
        _log.warning("the catalogue is gone, a new one is built from the folders")
        self._prepare()
        return True

    def _prepare(self, folders: Sequence[Path] = (), *, rezone: bool = False) -> None:
        catalog = prepare_catalogue(self._settings.catalogue_url)
        settle_identity(catalog, self._settings.state_dir, self._clock())
        now, zone = self._clock(), self._settings.time_zone
        with catalog.write() as session:
            bring_back(session, self._known, now=now, machine_now=machine_now())
            for path in folders:
                if find_folder(session, path) is None:
                    refuse_missing(path)  # one that is managed already may come later
                    refuse_overlap(path, [Path(folder.path) for folder in all_folders(session)])
                elif not rezone:
                    continue
                add_folder(session, path, zone, now=now, machine_now=machine_now())
            self._known = remember(session)
        catalog.close()
        self._remembered_at = time.monotonic()
        self._identity = self._find_identity()
        if not self._known.folders:
            _log.warning("no folder is managed yet", hint="rollforward folder add PATH")

    def _remember_now_and_then(self) -> None:
        """Take note of what is told by now; a catalogue that cannot be read just now is read the next time."""
        if time.monotonic() - self._remembered_at < _REMEMBER_EVERY_S:
            return
        self._remembered_at = time.monotonic()
        catalog = Catalog(self._settings.catalogue_url)
        try:
            with catalog.read() as session:
                self._known = remember(session)
        except CatalogError as error:
            _log.warning("the catalogue cannot be read", reason=str(error))
        finally:
            catalog.close()

    def _find_identity(self) -> tuple[int, int] | None:
        path = Catalog(self._settings.catalogue_url).path
        if path is None:
            return None
        try:
            status = path.stat()
        except FileNotFoundError:
            return 0, 0
        return status.st_dev, status.st_ino


@contextmanager
def _only_agent(settings: Settings) -> Iterator[None]:
    """Make the state directory, and hold its lock: one agent at a time."""
    make_state_dir(settings.state_dir)
    try:
        fd = os.open(settings.state_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unusable(settings.state_dir, error) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                "another agent runs on this state directory",
                path=str(settings.state_dir),
                hint="Stop it first, or choose another directory with --state.",
            ) from None
        os.truncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n{settings.clock}\n{Holder.of_this_process()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)
