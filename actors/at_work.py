"""What a worker is really at, as against what the catalogue says that it holds.

A database server that crashed may come back with what it was like a moment ago; then it says that work is under way
which has ended. Only what is under way is renewed, so that everything else is free again before long.
"""

from __future__ import annotations

import threading
from collections.abc import Collection


class AtWork:
    """Attempts and leases that threads of this process are at. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attempt_ids: set[int] = set()
        self._chain_ids: set[int] = set()

    def begin(self, attempt_ids: Collection[int] = (), *, chain_id: int | None = None) -> None:
        """Take note of attempts that begin, or of a chain whose lease is held."""
        with self._lock:
            self._attempt_ids.update(attempt_ids)
            self._chain_ids.update([] if chain_id is None else [chain_id])

    def end(self, attempt_ids: Collection[int] = (), *, chain_id: int | None = None) -> None:
        """Take note that they are over."""
        with self._lock:
            self._attempt_ids.difference_update(attempt_ids)
            self._chain_ids.difference_update([] if chain_id is None else [chain_id])

    def now(self) -> tuple[frozenset[int], frozenset[int]]:
        """Return the attempts, and the chains whose leases are held."""
        with self._lock:
            return frozenset(self._attempt_ids), frozenset(self._chain_ids)
