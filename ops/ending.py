"""How a child process of the agent ends: when it is asked to, within a limit, whatever it is at."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Final, Self

import structlog

_log = structlog.get_logger("agent")

SHARE: Final = 0.8
"""This share of the time after which it would be killed, a process takes for ending by itself."""

_ASKED_BY: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_DEEPEST: Final = 4


class Ending(threading.Thread):
    """Waits for SIGTERM or SIGINT, beside whatever the main thread is at, and sees that the process ends soon after.

    A tick may wait for a database, a thread for a folder that never answers, a start for a busy machine: none of them
    keeps the process from ending, and what each is at is told.

    Args:
        limit_s: so long after it was asked the process is gone.
    """

    def __init__(self, limit_s: float) -> None:
        super().__init__(name="ending", daemon=True)
        self._limit_s = limit_s
        self._asked = threading.Event()
        self._is_over = threading.Event()

    @classmethod
    def prepared(cls, stop_s: float) -> Self:
        """Begin to wait. Call it first of all, from the main thread: threads that run already would get the signals.

        Args:
            stop_s: the time after which the process would be killed.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _ASKED_BY)
        ending = cls(stop_s * SHARE)
        ending.start()
        return ending

    def run(self) -> None:
        """Wait to be asked, then for the limit; end the process if it is still there."""
        signal.sigwait(_ASKED_BY)
        self._asked.set()
        if not self._is_over.wait(self._limit_s):
            _log.warning("ends though work is under way", limit_s=self._limit_s, at=self._under_way())
            _leave(1)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the process is asked to end.

        Args:
            timeout_s: so long at most.

        Returns:
            Whether it was asked.
        """
        return self._asked.wait(timeout_s)

    def leave(self) -> None:
        """End the process now; threads that wait for something are left behind.

        Crash: the same.
        """
        self._is_over.set()
        _leave(0)

    def _under_way(self) -> dict[str, str]:
        """Tell what each other thread is at, innermost call first."""
        names = {thread.ident: thread.name for thread in threading.enumerate() if thread is not self}
        frames = sys._current_frames()
        return {f"{name} {ident}": _calls(frames[ident]) for ident, name in names.items() if ident in frames}


def _calls(frame: FrameType) -> str:
    calls = reversed(traceback.extract_stack(frame)[-_DEEPEST:])
    return " < ".join(f"{Path(call.filename).name}:{call.lineno} {call.name}" for call in calls)


def _leave(status: int) -> None:
    logging.shutdown()
    os._exit(status)
