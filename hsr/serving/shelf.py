"""Buffers that are used again."""

from __future__ import annotations

from typing import Final


class Shelf:
    """Buffers of one size that are used again: the first use of fresh memory is slow on virtual machines.

    Args:
        size_bytes: size of each.
    """

    _KEPT: Final = 16

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._free: list[bytearray] = []

    def take(self) -> bytearray:
        """Return a buffer, contents undefined."""
        return self._free.pop() if self._free else bytearray(self._size_bytes)

    def give(self, buffer: bytearray) -> None:
        """Hand a buffer back that nobody reads any more."""
        if len(self._free) < self._KEPT:
            self._free.append(buffer)
