"""An agent under test: real processes, a real Redis on its own socket, real files, and a clock moved by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from sqlalchemy import select

from ops.clock import FileClock
from policies.attempts import must_be_alone
from storage.catalog import Attempt, Catalog, Chain, Event, EventKind, Folder, Image, ImageState, sqlite_url
from storage.catalog.folders import all_folders, set_folder_settings
from storage.catalog.models import Layer

PATIENCE_S = 120.0
"""A condition that takes longer is taken as failed; far more than any takes on a busy machine."""

SETTLE_S = 1.0
_PACE = {
    "ROLLFORWARD_TICK_S": "0.1",
    "ROLLFORWARD_SETTLE_S": str(SETTLE_S),
    "ROLLFORWARD_RESCAN_S": "1",
    "ROLLFORWARD_HINT_AGAIN_S": "0.5",
    "ROLLFORWARD_LEASE_S": "4",
    "ROLLFORWARD_STOP_S": "5",
}


def wait_for(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until a condition holds; fail with `what` if it does not in time."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience_s:.0f} s in vain for {what}")
        time.sleep(0.01)


def _on_host(name: str | None) -> list[str]:
    """Begin a command line that runs a program, by the same process, on a machine of another name."""
    if name is None:
        return []
    return ["unshare", "--uts", "sh", "-c", f'hostname {name} && exec "$@"', "sh"]


class AgentRun:
    """Runs `rollforward up` on one folder. A context manager that stops it and checks that nothing is left.

    Args:
        work_dir: where its state, its log and its folder go.
        environment: further variables.
        working_dir: where it is started.
        more_folders: managed besides its own.
        beside: another agent, whose folder and clock are this one's too.
        catalogue_url: of its catalogue, if that is not in its state directory.
        host: name of the machine that it is to run on; None for this one's. Needs root.
    """

    def __init__(
        self,
        work_dir: Path,
        environment: dict[str, str] | None = None,
        *,
        working_dir: Path | None = None,
        more_folders: Sequence[Path] = (),
        beside: AgentRun | None = None,
        catalogue_url: str | None = None,
        host: str | None = None,
    ) -> None:
        self.work_dir = work_dir
        work_dir.mkdir(parents=True, exist_ok=True)
        self.folder = work_dir / "images" if beside is None else beside.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.catalogue_url = catalogue_url
        self._host = host
        self.state_dir = work_dir / "state"
        self.log = work_dir / "agent.log"
        self.clock = FileClock(work_dir / "now") if beside is None else beside.clock
        if beside is None:
            self.clock.set(datetime(2026, 3, 2, 6, tzinfo=UTC))
        self._environment = environment or {}
        if catalogue_url is not None:
            self._environment = self._environment | {"ROLLFORWARD_CATALOGUE": catalogue_url}
        self._working_dir = working_dir
        self._more_folders = more_folders
        self._log_from = 0
        self.running: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("ROLLFORWARD_", "REDIS_"))
        }
        command = [
            *_on_host(self._host),
            sys.executable,
            *(["-P"] if self._working_dir else []),
            "-m",
            "ops",
            "up",
            "--state",
            str(self.state_dir),
            *(word for folder in (self.folder, *self._more_folders) for word in ("--folder", str(folder))),
        ]
        self._log_from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                [*command, "--clock", str(self.clock), "--time-zone", "Europe/Berlin", "--json"],
                env=kept | _PACE | self._environment,
                cwd=self._working_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def wait_until_ready(self) -> Self:
        wait_for(lambda: len(self.log_events("ready")) >= 2, "worker and lookout")
        return self

    def stop(self) -> int:
        """Ask it to stop; return its exit status."""
        assert self.running is not None
        self.running.send_signal(signal.SIGTERM)
        return self.running.wait(PATIENCE_S)

    def kill(self) -> None:
        """Kill its main process with -9."""
        assert self.running is not None
        self.running.kill()
        self.running.wait()

    def __enter__(self) -> Self:
        return self.start().wait_until_ready()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running is not None and self.running.poll() is None:
            self.stop()
        if kind is not None:
            print(self.log.read_text())
        wait_for(lambda: not self.processes(), "the end of all processes")

    # --- what is running

    def processes(self) -> dict[int, str]:
        """Return the living processes that belong to this run, by pid: known by their state directory."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                environment = (entry / "environ").read_bytes()
                dead = (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
            except (OSError, UnicodeDecodeError):
                continue
            ours = (
                str(self.state_dir) in line or f"ROLLFORWARD_STATE={self.state_dir}".encode() in environment
            )
            if ours and not dead:
                found[int(entry.name)] = line
        return found

    def pid_of(self, word: str) -> int:
        """Return the pid of the one child whose command line holds a word (ops.worker, ops.lookout, server)."""
        found: list[int] = []

        def is_there() -> bool:
            found.extend(pid for pid, line in self.processes().items() if word in line)
            return bool(found)

        wait_for(is_there, word)
        return found[0]

    def kill_child(self, word: str) -> int:
        """Kill a child with -9; return the pid that it had."""
        pid = self.pid_of(word)
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_verifying(self, name: str) -> int:
        """Kill the worker with -9 while it verifies an image; return the pid that it had.

        The catalogue is held meanwhile: what the worker found out cannot have been recorded.
        """
        pid = self.pid_of("ops.worker")  # verification may end while /proc is looked through
        wait_for(lambda: self.states().get(name) is ImageState.VERIFYING, f"verification of {name} to begin")
        with self.catalog() as catalog, catalog.write() as session:
            image = session.scalars(select(Image).where(Image.name == name)).one()
            assert image.state is ImageState.VERIFYING, "it was verified before the worker could be killed"
            os.kill(pid, signal.SIGKILL)
        return pid

    def log_lines(self) -> list[dict[str, object]]:
        """Return what was logged since the last start."""
        if not self.log.exists():
            return []
        lines = []
        for line in self.log.read_bytes()[self._log_from :].decode().splitlines():
            if line.startswith("{") and line.endswith("}"):
                lines.append(json.loads(line))
        return lines

    def log_events(self, event: str) -> list[dict[str, object]]:
        return [line for line in self.log_lines() if line.get("event") == event]

    def redis(self) -> redis.Redis:
        """Return a client of the agent's own Redis."""
        return redis.Redis(unix_socket_path=str(self.state_dir / "redis.sock"))

    # --- what it knows

    @contextmanager
    def catalog(self) -> Iterator[Catalog]:
        catalog = Catalog(self.catalogue_url or sqlite_url(self.state_dir / "catalogue.sqlite"))
        try:
            yield catalog
        finally:
            catalog.close()

    def images(self) -> dict[str, Image]:
        if self.catalogue_url is None and not (self.state_dir / "catalogue.sqlite").exists():
            return {}
        with self.catalog() as catalog, catalog.read() as session:
            return {image.name: image for image in session.scalars(select(Image))}

    def states(self) -> dict[str, ImageState]:
        return {name: image.state for name, image in self.images().items()}

    def is_good(self, *names: str) -> bool:
        states = self.states()
        return all(states.get(name) is ImageState.GOOD for name in names)

    def events(self, kind: EventKind, subject: str | None = None) -> list[Event]:
        with self.catalog() as catalog, catalog.read() as session:
            query = select(Event).where(Event.kind == kind).order_by(Event.id)
            return [event for event in session.scalars(query) if subject in (None, event.subject)]

    def chains(self) -> list[Chain]:
        with self.catalog() as catalog, catalog.read() as session:
            return list(session.scalars(select(Chain)))

    def attempts(self) -> list[Attempt]:
        with self.catalog() as catalog, catalog.read() as session:
            return list(session.scalars(select(Attempt)))

    def one_more_crash_sets_aside(self) -> bool:
        """Tell whether some work met two kills: as it should, the agent would lay it aside after a third."""
        return any(must_be_alone(attempt.crashes) for attempt in self.attempts())

    def folders(self) -> list[Folder]:
        with self.catalog() as catalog, catalog.read() as session:
            return list(session.scalars(select(Folder)))

    def advance_until(self, condition: Callable[[], object], patience_s: float = 300.0) -> None:
        """Wait for a condition while the calendar runs: pauses after trouble follow it."""

        def holds() -> bool:
            self.clock.set(self.clock() + timedelta(seconds=10))
            return bool(condition())

        wait_for(holds, "what the calendar should bring", patience_s)

    def take_time(self, cpu_percent: int = 5, path: Path | None = None) -> None:
        """Have images in its folder, or another, verified slowly, so that what happens meanwhile can be looked at."""
        self.set({"verification": {"cpu_percent": cpu_percent}}, path)

    def set(self, settings: Layer, path: Path | None = None) -> None:
        """Give its folder, or another, these settings of its own."""
        with self.catalog() as catalog, catalog.write() as session:
            folder = next(found for found in all_folders(session) if found.path == str(path or self.folder))
            set_folder_settings(session, folder, settings)

    def wait_good(self, *names: str, patience_s: float = PATIENCE_S) -> None:
        what = f"{', '.join(names)} to be good, not {self.states()}"
        wait_for(lambda: self.is_good(*names), what, patience_s)
