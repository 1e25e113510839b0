"""Where the content of a disk goes in its file: into slots, or to the same place."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np

from hsr.disks.form import I32, Slots
from hsr.disks.medium import DiskFile
from hsr.disks.pieces import I64, Pieces
from hsr.disks.side_files import DiskMap
from storage import kernels

_HOLE_BYTES: Final = 64 << 10
_BLOCKS_AT_ONCE: Final = 1 << 20
"""Blocks that are looked at together: the arrays of a large disk's would fill the memory."""


class Content(Protocol):
    """The content of a disk, its edges left out. All raise RestoreError where the medium refuses."""

    def write(self, pieces: Pieces) -> None:
        """Write pieces. Crash: any part of them is there."""

    def zero(self, start: int, stop: int) -> None:
        """Make a range read as zero. Crash: any part of it does."""

    def read(self, offset: int, size: int) -> bytes:
        """Return what was written; zeros, where nothing was."""

    def sync(self) -> None:
        """Make all durable: what was written, then where it lies."""

    def end_bytes(self) -> int:
        """Return the size of the file as long as the disk is none."""


class FlatContent:
    """Content that lies in its file as on the disk.

    Args:
        file: the file or device.
        disk_bytes: size of the disk.
    """

    def __init__(self, file: DiskFile, disk_bytes: int) -> None:
        self._file, self._disk_bytes = file, disk_bytes
        if file.size_bytes() < disk_bytes:
            file.truncate(disk_bytes)

    def write(self, pieces: Pieces) -> None:
        """Write pieces; zeros that fill a hole's worth are made one; see `Content`."""
        pieces = pieces.cut_every(_HOLE_BYTES)
        holes = pieces.lengths == _HOLE_BYTES
        if holes.any():
            rows = np.flatnonzero(holes)
            holes[rows] = ~kernels.filled_runs(pieces.buffer, pieces.starts[rows], pieces.lengths[rows])
            for offset, length in _joined(pieces.offsets[holes], pieces.lengths[holes]):
                self._file.zero(offset, length)
        self._file.write_pieces(pieces.where(~holes) if holes.any() else pieces)

    def zero(self, start: int, stop: int) -> None:
        """Zero a range; see `Content`."""
        if start < stop:
            self._file.zero(start, stop - start)

    def read(self, offset: int, size: int) -> bytes:
        """Read; see `Content`."""
        return self._file.read(offset, size).ljust(size, b"\0")

    def sync(self) -> None:
        """Sync the file; see `Content`."""
        self._file.sync()

    def end_bytes(self) -> int:
        """Return the disk's size; see `Content`."""
        return self._disk_bytes


class SlottedContent:
    """Content whose blocks get slots when they first hold something.

    What lies beyond the last recorded slot was never synced to an end, so it is cut off when a disk is opened: a slot
    that is given away reads as zero.

    Args:
        file: the disk's file.
        slots: how blocks lie in it.
        disk_map: which have slots.
    """

    def __init__(self, file: DiskFile, slots: Slots, disk_map: DiskMap) -> None:
        self._file = file
        self._slots = slots
        self._map = disk_map
        self._used: I32 = disk_map.state.used
        self._given = disk_map.state.slot_count
        self._unrecorded: list[I32] = []
        is_hidden = not disk_map.state.is_finalizing and not disk_map.state.is_lent
        if is_hidden and file.size_bytes() != self.end_bytes():
            file.truncate(self.end_bytes())
            file.sync()

    def write(self, pieces: Pieces) -> None:
        """Write pieces; see `Content`."""
        pieces = pieces.cut_every(self._slots.block_bytes)
        blocks = pieces.offsets // self._slots.block_bytes
        missing = self._used[blocks] < 0
        if missing.any():
            rows = np.flatnonzero(missing)
            filled = kernels.filled_runs(pieces.buffer, pieces.starts[rows], pieces.lengths[rows])
            self._give_slots(np.unique(blocks[rows[filled]]))
            kept = self._used[blocks] >= 0
            pieces, blocks = pieces.where(kept), blocks[kept]
        within = pieces.offsets - blocks * self._slots.block_bytes
        self._file.write_pieces(pieces.moved(self._places(self._used[blocks]) + within))

    def _places(self, slots: I32) -> I64:
        """Return where the blocks in some slots begin in the file."""
        first = self._slots.offset + len(self._slots.lead)
        places: I64 = first + slots.astype(np.int64) * self._slots.stride_bytes
        return places

    def _give_slots(self, blocks: I64) -> None:
        if not len(blocks):
            return
        self._used[blocks] = np.arange(self._given, self._given + len(blocks), dtype=np.int32)
        self._unrecorded.append(blocks.astype(np.int32))
        first, self._given = self._given, self._given + len(blocks)
        self._file.truncate(self._slots.end(self._given))
        if self._slots.lead:
            for slot in range(first, self._given):
                self._file.write(self._slots.lead, self._slots.end(slot))

    def zero(self, start: int, stop: int) -> None:
        """Zero a range; blocks without slots are zero already; see `Content`."""
        unit = self._slots.block_bytes
        for first in range(start // unit, -(-stop // unit) if start < stop else 0, _BLOCKS_AT_ONCE):
            low, high = max(start, first * unit), min(stop, (first + _BLOCKS_AT_ONCE) * unit)
            blocks = first + np.flatnonzero(self._used[first : -(-high // unit)] >= 0)
            lows, highs = np.maximum(blocks * unit, low), np.minimum((blocks + 1) * unit, high)
            offsets = self._places(self._used[blocks]) + lows - blocks * unit
            for offset, length in _joined(offsets, highs - lows):
                self._file.zero(offset, length)

    def read(self, offset: int, size: int) -> bytes:
        """Read, block by block; see `Content`."""
        found, unit = [], self._slots.block_bytes
        while size > 0:
            block, within = divmod(offset, unit)
            length = min(unit - within, size)
            slot = int(self._used[block])
            place = int(self._places(np.array([slot], np.int32))[0]) + within
            found.append(self._file.read(place, length).ljust(length, b"\0") if slot >= 0 else bytes(length))
            offset, size = offset + length, size - length
        return b"".join(found)

    def sync(self) -> None:
        """Sync the file, then record new slots; see `Content`."""
        self._file.sync()
        if self._unrecorded:
            self._map.add_blocks(np.concatenate(self._unrecorded))
            self._unrecorded = []

    def end_bytes(self) -> int:
        """Return where the last slot that is given away ends; see `Content`."""
        return self._slots.end(self._given) if self._given else 0


def _joined(offsets: I64, lengths: I64) -> list[tuple[int, int]]:
    """Join ranges that follow each other in a file."""
    order = np.argsort(offsets)
    offsets, lengths = offsets[order], lengths[order]
    if not len(offsets):
        return []
    breaks = np.flatnonzero(offsets[1:] != (offsets + lengths)[:-1]) + 1
    firsts = np.concatenate([[0], breaks])
    return list(zip(offsets[firsts].tolist(), np.add.reduceat(lengths, firsts).tolist(), strict=True))
