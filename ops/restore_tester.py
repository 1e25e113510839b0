"""Testing restores in processes of their own, which end with the worker, however that ends."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from hsr.testing_restore.order import Answer, Order
from ops.tether import tethered
from policies.errors import RestoreError, StorageError
from policies.packed_errors import unpack_error
from policies.restore_tests import Verdict
from storage.ledger_entries import KEPT_FOR
from storage.scratch import runtime_folder, sweep_scratch

SHOTS: Final = "screenshots"
"""Folder for last screens, in the state directory."""

LIMIT_S: Final = 12 * 3600.0
"""A test that takes longer is given up."""

_GLANCE_S: Final = 0.2
_ENDS_S: Final = 3.0
"""A test that is to end may clean up for so long."""


class ChildTester:
    """Tests one point after the other, each in a process of its own.

    Args:
        state_dir: where last screens are kept.
        limit_s: a test that takes longer is given up.
    """

    def __init__(self, state_dir: Path, *, limit_s: float = LIMIT_S) -> None:
        self._shots = state_dir / SHOTS
        self._limit_s = limit_s

    def __call__(self, order: Order, stopping: Callable[[], bool]) -> Answer | None:
        """Test a point.

        Args:
            order: what is tested, and how.
            stopping: asked a few times a second whether to stop.

        Returns:
            What was found; None if it was stopped.

        Raises:
            RollforwardError: what stands in the way of a test; `RestoreError` if it did not end by itself.

        Crash: the test ends with this process, all that it started with it; scratch folders, which are swept away when
            a worker begins, and by the next test.
        """
        order = replace(order, shot=str(self._shots / order.shot))
        with _file_in_memory("order") as told, _file_in_memory("answer") as answered:
            told.write(json.dumps(order.packed()).encode())
            told.seek(0)
            child = self._start(told, answered)
            deadline_s = time.monotonic() + self._limit_s
            try:
                while not _has_ended(child, _GLANCE_S):
                    if stopping():
                        return None
                    if time.monotonic() > deadline_s:
                        raise RestoreError(f"the test took longer than {self._limit_s / 3600:g} hours")
            finally:
                _end(child)
            answered.seek(0)
            return _answer(answered.read(), child.returncode)

    def _start(self, told: BinaryIO, answered: BinaryIO) -> subprocess.Popen[bytes]:
        try:
            self._shots.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._forget_old()
            return subprocess.Popen(
                tethered(sys.executable, "-P", "-m", "ops.restore_child"), stdin=told, stdout=answered
            )
        except OSError as error:
            raise StorageError(f"a test cannot be started: {error}", path=str(self._shots)) from error

    def _forget_old(self) -> None:
        """Remove screenshots whose tests are forgotten, too."""
        for path in self._shots.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another worker does the same
                if time.time() - path.stat().st_mtime > KEPT_FOR.total_seconds():
                    path.unlink()


def _file_in_memory(name: str) -> BinaryIO:
    """Return a file that nobody else can open: a password may be in it; and whoever holds it keeps nobody waiting."""
    return open(os.memfd_create(f"rollforward-{name}"), "w+b")  # noqa: PTH123 - it has no path


def sweep_tests() -> None:
    """Sweep away what tests of a worker that was killed have left.

    Crash: less is left for the next one.
    """
    for room in {runtime_folder(), Path(tempfile.gettempdir())}:
        sweep_scratch(room)


def _answer(told: bytes, status: int) -> Answer:
    """Read what the process said.

    Raises:
        RollforwardError: what stood in its way; `RestoreError` if it said nothing.
    """
    try:
        packed = json.loads(told)
    except ValueError:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise RestoreError(f"the process that tests {how}, and did not say what it found") from None
    if "error" in packed:
        raise unpack_error(packed["error"])
    return Answer(**{**packed, "verdict": Verdict(packed["verdict"])})


def _has_ended(child: subprocess.Popen[bytes], within_s: float) -> bool:
    try:
        child.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a process that still runs: asked first, so that it cleans up."""
    for end in (child.terminate, child.kill):
        if child.poll() is None:
            end()
            _has_ended(child, _ENDS_S)
