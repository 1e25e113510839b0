"""The first and the last MiB of a disk's content, kept apart until it is finalized.

File systems, partition tables and their backups show themselves there. They are bytes of the volume like others, so
what a crash leaves of them is mended in the same way: the span is applied again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from hsr.disks.form import HIDDEN_BYTES
from hsr.disks.medium import DiskFile
from hsr.disks.pieces import Pieces

FRONT_BYTES: Final = 4096
"""Of a disk that is its file, byte for byte, so much of the front is written last of all."""


class Edges:
    """Both edges of a disk.

    Args:
        file: where they are kept: the front one, and from 1 MiB on the other.
        size_bytes: size of the disk's content.
    """

    def __init__(self, file: DiskFile, size_bytes: int) -> None:
        self._file = file
        self._front_end = min(HIDDEN_BYTES, size_bytes)
        self._back = max(self._front_end, size_bytes - HIDDEN_BYTES)
        self._size_bytes = size_bytes
        self._is_dirty = False

    def write(self, pieces: Pieces) -> Pieces:
        """Write what belongs to the edges; return the other pieces.

        Raises:
            RestoreError: the medium refuses.
        """
        if not len(pieces.offsets):
            return pieces
        if pieces.offsets[0] >= self._front_end and pieces.stops[-1] <= self._back:
            return pieces
        pieces = pieces.cut_at(self._front_end).cut_at(self._back)
        is_front, is_back = pieces.offsets < self._front_end, pieces.offsets >= self._back
        edges = pieces.where(is_front | is_back)
        shift = np.where(edges.offsets < self._front_end, 0, HIDDEN_BYTES - self._back)
        self._is_dirty = True
        self._file.write_pieces(edges.moved(edges.offsets + shift))
        return pieces.where(~(is_front | is_back))

    def zero(self, start: int, stop: int) -> tuple[int, int]:
        """Zero what of a range belongs to the edges; return the rest of it.

        Raises:
            RestoreError: the medium refuses.
        """
        for first, end, shift in self._ranges():
            low, high = max(start, first), min(stop, end)
            if low < high:
                self._is_dirty = True
                self._file.zero(low + shift, high - low)
        return min(max(start, self._front_end), self._back), max(min(stop, self._back), self._front_end)

    def cut(self, start: int, stop: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Cut a range in three, any of them empty: of the front edge, between the edges, of the back one."""
        front = min(start, self._front_end), min(stop, self._front_end)
        back = max(start, self._back), max(stop, self._back)
        return front, (max(start, front[1]), max(min(stop, back[0]), front[1])), back

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes of a range within one edge.

        Raises:
            RestoreError: the medium refuses.
        """
        shift = 0 if start < self._front_end else HIDDEN_BYTES - self._back
        return self._file.read(start + shift, stop - start).ljust(stop - start, b"\0")

    def _ranges(self) -> Iterator[tuple[int, int, int]]:
        """Yield where each begins and ends, and how far it is moved in the file."""
        yield 0, self._front_end, 0
        yield self._back, self._size_bytes, HIDDEN_BYTES - self._back

    def content(self) -> Iterator[tuple[int, bytes]]:
        """Yield both, the last before the first, each with its offset."""
        for first, end, shift in reversed(tuple(self._ranges())):
            if first < end:
                yield first, self._file.read(first + shift, end - first)

    def sync(self) -> None:
        """Make them durable.

        Raises:
            RestoreError: the medium refuses.
        """
        if self._is_dirty:
            self._file.sync()
            self._is_dirty = False

    def close(self) -> None:
        """Close the file."""
        self._file.close()
