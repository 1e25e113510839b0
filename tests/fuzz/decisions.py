"""Bytes as a row of decisions: whatever bytes a fuzzer comes up with, they say what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Choice = TypeVar("Choice")

EDGES = (
    0,
    1,
    2,
    63,
    64,
    127,
    128,
    511,
    512,
    1023,
    1024,
    65_535,
    65_536,
    2**20,
    2**31,
    2**32 - 1,
    2**53,
    2**62,
    2**63,
)
"""Numbers at which programs go wrong."""


class Decisions:
    """Takes decisions from bytes, front to back; where they end, every further one is the first choice.

    Args:
        content: the bytes.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return so many bytes."""
        taken = self._content[self._at : self._at + size]
        self._at += size
        return taken.ljust(size, b"\0")

    def below(self, limit: int) -> int:
        """Return a number from 0 to `limit` - 1."""
        size = max((limit.bit_length() + 7) // 8, 1)
        return int.from_bytes(self.take(size), "little") % limit

    def choose(self, choices: Sequence[Choice]) -> Choice:
        """Return one of some choices."""
        return choices[self.below(len(choices))]

    def number(self, bits: int, now: int) -> int:
        """Return a number for a field: at an edge, beside what it was, one bit of it flipped, or any."""
        top = 2**bits - 1
        kind = self.below(4)
        if kind == 0:
            return min(self.choose(EDGES), top)
        if kind == 1:
            return (now + self.below(255) - 127) & top
        if kind == 2:
            return now ^ (1 << self.below(bits))
        return int.from_bytes(self.take(bits // 8), "little")
