"""Pieces of a disk that are to be written: arrays that say where each lies in a buffer, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pieces:
    """Bytes and their places.

    Attributes:
        buffer: uint8, where the bytes lie.
        starts: int64, where each piece begins in the buffer.
        offsets: int64, where each goes: ascending, and no two overlap.
        lengths: int64, bytes of each; none is empty.
    """

    buffer: U8
    starts: I64
    offsets: I64
    lengths: I64

    @classmethod
    def single(cls, offset: int, content: bytes | bytearray | memoryview) -> Pieces:
        """Return one piece."""
        buffer = np.frombuffer(content, np.uint8)
        return cls(buffer, np.zeros(1, np.int64), np.array([offset]), np.array([len(buffer)]))

    @property
    def stops(self) -> I64:
        """Where each piece ends on the disk."""
        return self.offsets + self.lengths

    def are_sound(self, size_bytes: int) -> bool:
        """Tell whether all lie in the buffer and within a size, in order, without overlapping."""
        if not len(self.offsets):
            return True
        stops = self.stops
        inside = bool(self.offsets[0] >= 0 and stops[-1] <= size_bytes and (self.lengths > 0).all())
        in_order = bool((self.offsets[1:] >= stops[:-1]).all())
        in_buffer = bool(self.starts.min() >= 0 and (self.starts + self.lengths).max() <= len(self.buffer))
        return inside and in_order and in_buffer

    def where(self, chosen: Bools) -> Pieces:
        """Return the chosen ones."""
        return Pieces(self.buffer, self.starts[chosen], self.offsets[chosen], self.lengths[chosen])

    def moved(self, offsets: I64) -> Pieces:
        """Return the same pieces for other places, sorted by them."""
        if (np.diff(offsets) < 0).any():
            order = np.argsort(offsets)
            return Pieces(self.buffer, self.starts[order], offsets[order], self.lengths[order])
        return Pieces(self.buffer, self.starts, offsets, self.lengths)

    def cut_at(self, offset: int) -> Pieces:
        """Return the same, with the piece that reaches over an offset cut in two there."""
        row = int(np.searchsorted(self.offsets, offset)) - 1
        if row < 0 or self.offsets[row] + self.lengths[row] <= offset:
            return self
        head = offset - int(self.offsets[row])
        lengths = np.insert(self.lengths, row + 1, self.lengths[row] - head)
        lengths[row] = head
        return Pieces(
            self.buffer,
            np.insert(self.starts, row + 1, self.starts[row] + head),
            np.insert(self.offsets, row + 1, offset),
            lengths,
        )

    def cut_every(self, unit: int) -> Pieces:
        """Return the same, cut wherever a multiple of a unit lies within a piece."""
        first = self.offsets // unit
        counts = (self.stops - 1) // unit - first + 1
        if (counts == 1).all():
            return self
        rows = np.repeat(np.arange(len(counts)), counts)
        units = first[rows] + np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        offsets = np.maximum(self.offsets[rows], units * unit)
        lengths = np.minimum(self.stops[rows], (units + 1) * unit) - offsets
        return Pieces(self.buffer, self.starts[rows] + offsets - self.offsets[rows], offsets, lengths)

    def joined(self) -> Pieces:
        """Join neighbours on the disk that are neighbours in the buffer, too."""
        follows = (self.offsets[1:] == self.stops[:-1]) & (
            self.starts[1:] == self.starts[:-1] + self.lengths[:-1]
        )
        if not follows.any():
            return self
        firsts = np.concatenate([[0], np.flatnonzero(~follows) + 1])
        lengths = np.add.reduceat(self.lengths, firsts)
        return Pieces(self.buffer, self.starts[firsts], self.offsets[firsts], lengths)
