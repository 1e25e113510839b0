"""The demonstration's agent: a real one, in its own process, on a clock that the story moves."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ops.clock import FileClock, machine_now
from ops.settings import NUMBERS
from ops.tether import tethered
from policies.errors import CatalogError, RollforwardError
from storage.catalog.database import Catalog, sqlite_url
from storage.catalog.events import events_after
from storage.catalog.folders import all_folders
from storage.catalog.models import Event

_PACE: Final = {"tick_s": "0.1", "settle_s": "2", "hint_again_s": "2", "stop_s": "8"}
_STOP_WITHIN_S: Final = 20.0
_LOG_LINES: Final = 15


class DemoAgent:
    """Runs `rollforward up` on a folder, and reads its event log. A context manager.

    Args:
        work_dir: where its state and its log go.
        folder: the folder to be managed.
        start: first time of its clock.
        time_zone: IANA name; its days follow it.

    Crash: the agent dies with this process, by the kernel's hand.
    """

    def __init__(self, work_dir: Path, folder: Path, start: datetime, time_zone: str) -> None:
        self.clock = FileClock(work_dir / "now")
        self.clock.set(start)
        self._state = work_dir / "state"
        self._log = work_dir / "agent.log"
        self._folder = folder
        self._zone = time_zone
        self._catalog = Catalog(sqlite_url(self._state / "catalogue.sqlite"))
        self._last_event = 0
        self._running: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        pace = {NUMBERS[name].variable: value for name, value in _PACE.items()}
        command = ["-P", "-m", "ops", "up", "--state", str(self._state), "--folder", str(self._folder)]
        chosen = ["--clock", str(self.clock), "--time-zone", self._zone, "--json"]
        with self._log.open("wb") as log:
            self._running = subprocess.Popen(
                tethered(sys.executable, *command, *chosen),
                env=_surroundings() | pace,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._catalog.close()
        if self._running is None:
            return
        self._running.terminate()
        try:
            self._running.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()

    def is_ready(self) -> bool:
        """Tell whether it has looked at its folder for the first time."""
        try:
            with self._catalog.read() as session:
                return any(folder.rescan_at > machine_now() for folder in all_folders(session))
        except CatalogError:
            return False  # its tables are still being made

    def new_events(self) -> list[Event]:
        """Return what the agent recorded since the last call.

        Raises:
            RollforwardError: the agent ended; the message holds its last words.
        """
        if self._running is not None and self._running.poll() is not None:
            raise RollforwardError(f"the agent ended by itself:\n{self.last_words()}")
        if not (self._state / "catalogue.sqlite").exists():
            return []
        try:
            with self._catalog.read() as session:
                events = events_after(session, self._last_event)
        except CatalogError:
            return []  # its tables are still being made
        if events:
            self._last_event = events[-1].id
        return events

    def command(self, *words: str | Path) -> str:
        """Give the agent a command, as a person would.

        Returns:
            What it printed.

        Raises:
            RollforwardError: it failed; the message is the command's.
        """
        given = [str(word) for word in words]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "ops", *given, "--state", str(self._state)],
            env=_surroundings(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RollforwardError(f"rollforward {shlex.join(given)}: {done.stderr.strip()}")
        return done.stdout

    def wait(self, pause_s: float = 0.03) -> None:
        """Give the agent a moment."""
        time.sleep(pause_s)

    def last_words(self) -> str:
        """Return the end of its log, for a message about what went wrong."""
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_LOG_LINES:])


def _surroundings() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("ROLLFORWARD_", "REDIS_"))
    }
