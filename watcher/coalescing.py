"""Many events, one word: what was marked within a moment is said once."""

from __future__ import annotations

import threading
from collections.abc import Callable

QUIET_S = 0.02
"""Events of one moment are gathered for so long."""

AGAIN_S = 1.0
"""What could not be said is tried again after so long."""


class Coalescer(threading.Thread):
    """A thread that passes marked folders on, each once however often it was marked meanwhile, in the order of marking.

    Args:
        say: passes a folder's id on; returns False if that failed and is to be tried again.
    """

    def __init__(self, say: Callable[[int], bool]) -> None:
        super().__init__(name="coalescer", daemon=True)
        self._say = say
        self._marked: dict[int, None] = {}
        self._changed = threading.Condition()
        self._stopping = threading.Event()

    def mark(self, folder_id: int) -> None:
        """Have a folder passed on soon. Safe from any thread."""
        with self._changed:
            self._marked.setdefault(folder_id)
            self._changed.notify()

    def stop(self) -> None:
        """End the thread; what is marked is dropped, for the next scan finds it."""
        self._stopping.set()
        with self._changed:
            self._changed.notify()
        self.join()

    def run(self) -> None:
        """Pass on what is marked until stopped."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._marked or self._stopping.is_set())
            if self._stopping.wait(QUIET_S):
                return
            with self._changed:
                folders, self._marked = list(self._marked), {}
            failed = [folder_id for folder_id in folders if not self._say(folder_id)]
            if failed:
                self._stopping.wait(AGAIN_S)
                with self._changed:
                    self._marked = dict.fromkeys(failed) | self._marked
