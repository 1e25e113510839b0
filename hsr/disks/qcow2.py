"""qcow2, version 3: clusters in the order in which they came, all tables after them.

Source: docs/interop/qcow2.txt of QEMU; see docs/disks.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from hsr.disks import layout_qcow2 as layout
from hsr.disks.form import (
    HIDDEN_BYTES,
    I32,
    SECTOR_BYTES,
    DiskKind,
    Part,
    Slots,
    Stamp,
    count_used,
    rounded_up,
)

_BLOCKS_MAX: Final = 1 << 25
"""Clusters are so large that there are no more of them: what is known of each is kept in memory."""

_ENTRIES_AT_ONCE: Final = 1 << 19


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the tables lie, in clusters: second-level tables, first level, refcount table, refcount blocks.

    Attributes:
        seconds: int64, for each entry of the first level the cluster of its table; 0 where it has none.
        first_cluster: the first of the tables.
        l1: the first level.
        refcounts: the refcount table.
        blocks: the first refcount block.
        end: the end of the file.
    """

    seconds: np.ndarray[tuple[int], np.dtype[np.int64]]
    first_cluster: int
    l1: int
    refcounts: int
    blocks: int
    end: int


class Qcow2Form:
    """A disk of version 3.

    Args:
        size_bytes: what is to fit on it.
    """

    kind = DiskKind.QCOW2

    def __init__(self, size_bytes: int) -> None:
        self.disk_bytes = rounded_up(size_bytes, SECTOR_BYTES)
        bits = layout.CLUSTER_BITS_MIN
        while self.disk_bytes > _BLOCKS_MAX << bits:
            bits += 1
        self._bits = bits
        self._cluster = 1 << bits
        blocks = -(-self.disk_bytes // self._cluster)
        self.slots = Slots(self._cluster, blocks, max(HIDDEN_BYTES, self._cluster))

    def _places(self, used: I32) -> _Places:
        entries = self._cluster // 8
        rows = np.flatnonzero(np.add.reduceat(used >= 0, np.arange(0, len(used), entries)))
        first = self.slots.end(count_used(used)) // self._cluster
        seconds = np.zeros(-(-len(used) // entries), np.int64)
        seconds[rows] = first + np.arange(len(rows))
        l1 = first + len(rows)
        refcounts = l1 + -(-len(seconds) // entries)
        blocks = count = 0
        while True:
            table = max(-(-count * 8 // self._cluster), 1)
            blocks = refcounts + table
            enough = -(-(blocks + count) // (self._cluster // 2))
            if enough == count:
                return _Places(seconds, first, l1, refcounts, blocks, blocks + count)
            count = max(enough, count)

    def file_bytes(self, used: I32) -> int:
        """Return the size of the finalized file; see `DiskForm`."""
        return self._places(used).end << self._bits

    def tables(self, used: I32, stamp: Stamp) -> Iterator[Part]:
        """Yield both levels of tables, and the refcounts; see `DiskForm`."""
        places = self._places(used)
        entries = self._cluster // 8
        for row in np.flatnonzero(places.seconds).tolist():
            part = used[row * entries : (row + 1) * entries]
            offsets = self.slots.offset + part.astype(np.int64) * self._cluster
            table = np.where(part >= 0, _copied(offsets), np.uint64(0))
            yield (
                int(places.seconds[row]) << self._bits,
                _padded(table.astype(">u8").tobytes(), self._cluster),
            )
        first = np.where(places.seconds > 0, _copied(places.seconds << self._bits), np.uint64(0))
        yield places.l1 << self._bits, _padded(first.astype(">u8").tobytes(), self._cluster)
        blocks = np.arange(places.blocks, places.end, dtype=np.int64) << self._bits
        yield places.refcounts << self._bits, _padded(blocks.astype(">u8").tobytes(), self._cluster)
        yield from self._refcounts(places)

    def _refcounts(self, places: _Places) -> Iterator[Part]:
        """Yield the refcount blocks: 1 for the header and all from the first slot on, 0 for the hole between."""
        first_slot = self.slots.offset >> self._bits
        room = (places.end - places.blocks) * (self._cluster // 2)
        for start in range(0, room, _ENTRIES_AT_ONCE):
            clusters = np.arange(start, min(start + _ENTRIES_AT_ONCE, room), dtype=np.int64)
            owned = (clusters == 0) | ((clusters >= first_slot) & (clusters < places.end))
            yield (places.blocks << self._bits) + 2 * start, owned.astype(">u2").tobytes()

    def signatures(self, used: I32, stamp: Stamp) -> Sequence[Part]:
        """Return the header; see `DiskForm`."""
        places = self._places(used)
        header = np.zeros((), layout.HEADER)
        header["magic"] = layout.MAGIC
        header["version"] = layout.VERSION
        header["cluster_bits"] = self._bits
        header["disk_bytes"] = self.disk_bytes
        header["l1_entries"] = len(places.seconds)
        header["l1_offset"] = places.l1 << self._bits
        header["refcounts_offset"] = places.refcounts << self._bits
        header["refcounts_clusters"] = places.blocks - places.refcounts
        header["refcount_order"] = layout.REFCOUNT_ORDER
        header["header_bytes"] = layout.HEADER_BYTES
        return ((0, header.tobytes()),)


def _copied(
    offsets: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return offsets.astype(np.uint64) | np.uint64(layout.COPIED)


def _padded(table: bytes, unit: int) -> bytes:
    return table.ljust(rounded_up(len(table), unit), b"\0")
