"""Threads that look at folders, so that one which does not answer holds up no other."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

THREADS_AT_ONCE: Final = 16
"""So many folders are looked at at once; those that do not answer come on top."""

SILENT_AFTER_S: Final = 10.0
"""A look that takes longer does not count among those: its folder may never answer."""

THREADS_IN_ALL: Final = 256
"""With so many that do not answer, all others wait."""

_IDLE_S: Final = 5.0


class Lookers:
    """Runs looks in threads, one at a time for each folder. Its threads never keep a process from ending."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._known: set[int] = set()
        self._begun: dict[int, float] = {}
        self._threads = 0
        self._idle = 0

    def begin(self, folder_id: int, look: Callable[[], None]) -> bool:
        """Have a folder looked at.

        Args:
            folder_id: the folder.
            look: does it; what goes wrong that can be foreseen, it deals with itself.

        Returns:
            False if the last look has not ended yet: then this one is dropped.
        """
        with self._changed:
            is_new = folder_id not in self._known
            if is_new:
                self._known.add(folder_id)
                self._waiting.append((folder_id, look))
                self._changed.notify()
            most = min(THREADS_AT_ONCE + len(self._silent()), THREADS_IN_ALL)
            if len(self._waiting) > self._idle and self._threads < most:
                self._threads += 1
                threading.Thread(target=self._work, name="looker", daemon=True).start()
        return is_new

    def silent(self) -> frozenset[int]:
        """Return the folders that do not answer."""
        with self._changed:
            return frozenset(self._silent())

    def _silent(self) -> list[int]:
        since = time.monotonic() - SILENT_AFTER_S
        return [folder_id for folder_id, begun in self._begun.items() if begun < since]

    def _work(self) -> None:
        try:
            while (task := self._next()) is not None:
                folder_id, look = task
                try:
                    look()
                finally:
                    with self._changed:
                        self._known.discard(folder_id)
                        del self._begun[folder_id]
        finally:
            with self._changed:
                self._threads -= 1

    def _next(self) -> tuple[int, Callable[[], None]] | None:
        with self._changed:
            self._idle += 1
            there = self._changed.wait_for(lambda: self._waiting, _IDLE_S)
            self._idle -= 1
            if not there:
                return None
            task = self._waiting.popleft()
            self._begun[task[0]] = time.monotonic()
            return task
