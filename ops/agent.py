"""The agent: one supervised run of Redis, workers and lookout over one catalogue."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from ops.clock import Clock, machine_now, parse_clock
from ops.redis_server import check_redis_url, embed_redis, keep_address
from ops.settings import Settings
from ops.state_dir import LOCK_NAME, make_state_dir, prepare_catalogue, unusable
from ops.supervisor import ChildPlan, Supervisor
from ops.tether import tethered
from policies.errors import BusyError
from storage.catalog.database import Catalog
from storage.catalog.folders import add_folder, all_folders
from storage.catalog.holders import Holder

_log = structlog.get_logger("agent")

_RECONNECT_AFTER_MS: Final = "500"
"""A worker that lost Redis tries again after so long."""


def run_agent(settings: Settings, folders: Sequence[Path]) -> None:
    """Run the agent until it is asked to stop.

    Args:
        settings: as chosen.
        folders: folders to be managed from now on, besides those in the catalogue.

    Raises:
        ConfigurationError: a setting cannot be used.
        BusyError: another agent runs on this state directory.
        CatalogError: the catalogue cannot be used.

    Crash: nothing is left running; the next start goes on with what the folders and the catalogue hold.
    """
    clock = parse_clock(settings.clock)
    settings = replace(settings, clock=str(clock))  # children share its anchor
    with _only_agent(settings):
        keeper = _CatalogueKeeper(settings, clock, [path.resolve() for path in folders])
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
    """Prepares the catalogue, and prepares it again should somebody delete it while the agent runs."""

    def __init__(self, settings: Settings, clock: Clock, folders: Sequence[Path]) -> None:
        self._settings = settings
        self._clock = clock
        self._folders = {str(path): settings.time_zone for path in folders}
        self._identity: tuple[int, int] | None = None
        self._prepare()

    def was_replaced(self) -> bool:
        """Tell whether the catalogue was deleted; a new one is then in place."""
        if self._identity is None or self._find_identity() == self._identity:
            return False
        _log.warning("the catalogue is gone, a new one is built from the folders")
        self._prepare()
        return True

    def _prepare(self) -> None:
        catalog = prepare_catalogue(self._settings.catalogue_url)
        with catalog.write() as session:
            for path, zone in self._folders.items():
                add_folder(session, Path(path), zone, now=self._clock(), machine_now=machine_now())
            self._folders |= {folder.path: folder.time_zone for folder in all_folders(session)}
        catalog.close()
        self._identity = self._find_identity()
        if not self._folders:
            _log.warning("no folder is managed yet", hint="rollforward up --folder PATH")

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
