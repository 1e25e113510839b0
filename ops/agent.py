"""The agent: one supervised run of Redis, workers and lookout over one catalogue."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from ops.clock import Clock, machine_now, parse_clock
from ops.redis_server import check_redis_url, embed_redis
from ops.settings import Settings
from ops.supervisor import ChildPlan, Supervisor
from ops.tether import tethered
from policies.errors import BusyError, ConfigurationError
from storage.catalog.database import Catalog
from storage.catalog.folders import add_folder, all_folders

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
    with _only_agent(settings.state_dir):
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
        catalog = Catalog(self._settings.catalogue_url)
        if catalog.path is not None:
            _make_private(catalog.path)
        catalog.prepare()
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


def _make_private(catalogue: Path) -> None:
    """Make the catalogue's file, readable by nobody else; SQLite gives the files beside it the same mode."""
    with suppress(OSError):  # there already; or what is in the way is said by whoever opens it next
        os.close(os.open(catalogue, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _refuse_strangers(state_dir: Path) -> None:
    status = state_dir.stat()
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise ConfigurationError(
            "others may write in the state directory",
            path=str(state_dir),
            hint="Make it your own with chown and chmod 700, or choose another with --state.",
        )


@contextmanager
def _only_agent(state_dir: Path) -> Iterator[None]:
    """Make the state directory, and hold its lock: one agent at a time."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_strangers(state_dir)
        fd = os.open(state_dir / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"the state directory cannot be used: {error.strerror}",
            path=str(state_dir),
            hint="Choose another with --state, or set ROLLFORWARD_STATE.",
        ) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                "another agent runs on this state directory",
                path=str(state_dir),
                hint="Stop it first, or choose another directory with --state.",
            ) from None
        os.truncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(fd)
