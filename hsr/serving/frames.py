"""Where the frames of a block are: the index of an overlay, looked up at random and kept within bounds."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from storage import layout
from storage.image import Records
from storage.overlay import Overlay, Window

STRETCH_BLOCKS: Final = 1024
"""The index is looked up in stretches of so many blocks: 64 MiB of a volume, or 512 MiB of a large one."""

_KEPT_RECORDS: Final = 1 << 19
"""Records of stretches that are kept: some 64 MiB."""

_EVERY_GRANULE: Final = np.uint64(0xFFFF_FFFF_FFFF_FFFF)

U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Stretch:
    """The frames of 1,024 blocks that a reader sees; those that are all zero are left out.

    Attributes:
        first_block: where it begins.
        starts: row of each block's first frame, and one more: where the last one's frames end.
        filled: whether each block has any frame; the others are zero.
        records: layout.RECORD, sorted by block, then newest first; `origin` counts through all layers.
        layer: which layer each comes from.
        need: masks of the granules that are seen of each, (low, high).
        is_covered: whether a block's frames together hold all of its granules.
        window: the same frames, as an overlay loads them.
    """

    first_block: int
    starts: list[int]
    filled: npt.NDArray[np.bool_]
    records: Records
    layer: list[int]
    need: list[tuple[np.uint64, np.uint64]]
    is_covered: list[bool]
    window: Window

    def rows(self, block: int) -> range:
        """Return the rows of a block's frames."""
        at = block - self.first_block
        return range(self.starts[at], self.starts[at + 1])

    def needed(self, row: int) -> int:
        """Return the granules that are seen of a frame: bit g for granule g."""
        low, high = self.need[row]
        return int(low) | int(high) << 64

    def covers(self, block: int) -> bool:
        """Tell whether a block's frames together hold all of its granules."""
        return self.is_covered[block - self.first_block]


class FrameIndex:
    """The index of an overlay, for reading at random. Safe to share between threads.

    Args:
        overlay: the images.
    """

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay
        self._kept: OrderedDict[int, Stretch] = OrderedDict()
        self._kept_records = 0
        self._lock = threading.Lock()

    def at_hand(self, block: int) -> Stretch | None:
        """Return the stretch of a block, if it is kept."""
        with self._lock:
            number = block // STRETCH_BLOCKS
            stretch = self._kept.get(number)
            if stretch is not None:
                self._kept.move_to_end(number)
            return stretch

    def stretch(self, block: int) -> Stretch:
        """Return the stretch of a block; it is read where it is not kept.

        Raises:
            FormatError: an index page is damaged.
            StorageError: one cannot be read.
        """
        stretch = self.at_hand(block)
        if stretch is None:
            number = block // STRETCH_BLOCKS
            stretch = _resolved(self._overlay, number * STRETCH_BLOCKS)
            self._keep(number, stretch)
        return stretch

    def _keep(self, number: int, stretch: Stretch) -> None:
        with self._lock:
            if number in self._kept:
                return
            self._kept[number] = stretch
            self._kept_records += len(stretch.records)
            while self._kept_records > _KEPT_RECORDS and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._kept_records -= len(oldest.records)


def _resolved(overlay: Overlay, first_block: int) -> Stretch:
    window = overlay.between(first_block, first_block + STRETCH_BLOCKS)
    overlay.refuse_seen_traces(window)
    keep = np.flatnonzero(window.seen & (window.records["flags"] != layout.FRAME_ZERO))
    kept = window.rows(keep)
    records, need_lo, need_hi = kept.records, kept.need_lo, kept.need_hi
    borders = np.arange(first_block, first_block + STRETCH_BLOCKS + 1)
    starts = np.searchsorted(records["block"], borders)
    filled = starts[1:] > starts[:-1]
    covered = filled.copy()
    if len(records):
        rows = starts[:-1][filled]
        lo, hi = np.bitwise_or.reduceat(need_lo, rows), np.bitwise_or.reduceat(need_hi, rows)
        covered[filled] = (lo & hi) == _EVERY_GRANULE
    return Stretch(
        first_block,
        starts.tolist(),
        filled,
        records,
        kept.layer.tolist(),
        list(zip(need_lo, need_hi, strict=True)),
        covered.tolist(),
        kept,
    )
