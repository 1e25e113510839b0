"""Keeping work within a share of the machine's processors.

What a process has used of them, all its threads together, is held against what it might have used. Work that is ahead
of its share sleeps between two chunks until it no longer is. What it did not use it may catch up with, but only for
a moment: else an idle night would let it take everything in the morning.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Final

SAVED_UP_S: Final = 0.25
"""For so long at most unused time is saved up."""

OWED_S: Final = 30.0
"""Nor is more owed, whoever else in this process used the processors meanwhile: all work goes on some time."""

_LONGEST_SLEEP_S: Final = 1.0
"""No sleep is longer; it goes on after another look."""

Seconds = Callable[[], float]
"""Gives seconds since some moment."""


class Throttle:
    """Lets work of this process go on only while it is within its share. Safe from any thread.

    Args:
        percent: of all the machine's processors, what the agent may take: 1 to 100.
        workers: so many processes share it.
        cpu_s: processor time that this process has used, threads included.
        wall_s: time that has passed.
        processors: how many the machine has.
    """

    def __init__(
        self,
        percent: float = 100,
        workers: int = 1,
        *,
        cpu_s: Seconds = time.process_time,
        wall_s: Seconds = time.monotonic,
        processors: int | None = None,
    ) -> None:
        self._percent = percent
        self._rate = (processors or os.cpu_count() or 1) / 100 / workers
        self._cpu_s = cpu_s
        self._wall_s = wall_s
        self._lock = threading.Lock()
        self._free_at: dict[float, tuple[float, float]] = {}

    def set_percent(self, percent: float) -> None:
        """Give the agent another share from now on."""
        self._percent = percent

    def pause(self, percent: float | None, sleep: Callable[[float], object]) -> None:
        """Sleep until this process has not used more than its share, or for `OWED_S`.

        What else this process does may take all of the share: then work goes on little by little all the same.

        Args:
            percent: of all processors; None for the agent's share. More than that is never given.
            sleep: sleeps for some seconds; when it returns a true value, it is to be left at that.
        """
        allowed = self._percent if percent is None else min(percent, self._percent)
        if allowed >= 100:
            return
        until_s = self._wall_s() + OWED_S
        while (ahead_s := self._ahead_s(allowed)) > 0 and self._wall_s() < until_s:
            if sleep(min(ahead_s, _LONGEST_SLEEP_S)):
                return

    def _ahead_s(self, percent: float) -> float:
        """Tell for how long to sleep, so that what was used since the account began is within the share.

        An account is when, and at what processor time, use and share were even.
        """
        with self._lock:
            now_s, used_s = self._wall_s(), self._cpu_s()
            since_s, from_s = self._free_at.get(percent, (now_s, used_s))
            worth_s = (used_s - from_s) / (percent * self._rate)
            even_at_s = min(max(since_s + worth_s, now_s - SAVED_UP_S), now_s + OWED_S)
            self._free_at[percent] = (even_at_s, used_s)
            return even_at_s - now_s
