"""Several images laid one over the other, newest on top: what consolidation copies and restoring reads.

Memory is bounded by the number of images, whatever the size of the volume: the sorted indexes are merged in
windows of blocks, and each window's frames are loaded in batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from policies.errors import DigestMismatchError, FormatError, GeometryError
from storage import kernels, layout
from storage.digests import frame_digest
from storage.image import ImageReader, Records, join_records
from storage.part_check import told_by_part

_WINDOW_PAGES: Final = 256
"""Index pages of all layers together that a window aims at: 16 MiB."""

_REACH_BLOCKS: Final = 1 << 14
"""Blocks are looked up together within stretches of so many, whose records are 1 MiB of an index."""

_ORIGIN_LIMIT: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Window:
    """Frames of a range of blocks, from all layers.

    Attributes:
        first_block: where the range begins.
        stop_block: where it ends, exclusive.
        records: layout.RECORD, sorted by block, then newest first. `origin` counts through all layers; `offset`
            is the place in the layer's file.
        layer: int64, as long as `records`: which layer each comes from.
        need_lo: uint64, as long as `records`: granules 0 to 63 of the frame that a reader sees.
        need_hi: likewise, granules 64 to 127.
    """

    first_block: int
    stop_block: int
    records: Records
    layer: npt.NDArray[np.int64]
    need_lo: npt.NDArray[np.uint64]
    need_hi: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        """Whether any granule of each frame is seen."""
        seen: npt.NDArray[np.bool_] = (self.need_lo | self.need_hi) != 0
        return seen

    def batches(self, limit_bytes: int) -> Iterator[Window]:
        """Yield the window in parts of `limit_bytes` stored bytes each, exceeded by less than one frame."""
        lengths = self.records["length"].astype(np.int64)
        yield from self._split((np.cumsum(lengths) - lengths) // limit_bytes)

    def stripes(self, blocks: int) -> Iterator[Window]:
        """Yield the window in parts that each hold whole blocks of one stripe, `blocks` of them long and aligned."""
        yield from self._split(self.records["block"] // blocks)

    def parcels(self, blocks: int) -> Iterator[Window]:
        """Yield the window in parts that each hold all frames of so many blocks, however far these lie apart."""
        block = self.records["block"]
        yield from self._split(np.cumsum(np.append(0, block[1:] != block[:-1])[: len(block)]) // blocks)

    def _split(self, group: npt.NDArray[np.integer]) -> Iterator[Window]:
        if len(self):
            starts = np.flatnonzero(np.append(True, group[1:] != group[:-1])).tolist()
            for first, stop in zip(starts, [*starts[1:], len(self)], strict=True):
                yield self.part(first, stop)

    def part(self, first: int, stop: int) -> Window:
        """Return rows `first` to `stop` as a window of their own."""
        return self.rows(slice(first, stop))

    def rows(self, rows: slice | npt.NDArray[np.int64]) -> Window:
        """Return some rows, in ascending order, as a window of their own."""
        return Window(
            self.first_block,
            self.stop_block,
            self.records[rows],
            self.layer[rows],
            self.need_lo[rows],
            self.need_hi[rows],
        )


class Overlay:
    """Open images of one chain, oldest first, each to be applied onto the ones before it. A context manager.

    Args:
        paths: the images; each must be usable at the end of the one before it (the caller's plan sees to that).

    Raises:
        FormatError: one is not a good image.
        GeometryError: they differ in chain or block geometry; FormatError, if some are encrypted and others not.
        StorageError: one cannot be read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        with ExitStack() as stack:
            self.layers = tuple(stack.enter_context(ImageReader(path)) for path in paths)
            _check_alike(self.layers)
            self._stack = stack.pop_all()
        self.granule_bytes = self.layers[0].header.granule_bytes
        self.block_bytes = self.layers[0].header.block_bytes
        counts = [len(layer.header.covers) for layer in self.layers]
        self.origin_offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._cuts = _cuts(self.layers)
        self._page_ends = np.sort(np.concatenate([layer.pages["last_block"] for layer in self.layers]))
        self._cached: list[tuple[int, Records] | None] = [None] * len(self.layers)

    @property
    def encrypted(self) -> bool:
        """Whether the images are encrypted: all of them, or none."""
        return self.layers[-1].header.encrypted

    @property
    def frame_bytes_max(self) -> int:
        """How long the stored bytes of a frame may be."""
        return self.block_bytes + (layout.FRAME_TAG_BYTES if self.encrypted else 0)

    @property
    def end_bytes(self) -> int:
        """Size of the volume at the newest layer's end, in bytes."""
        return self.layers[-1].header.end.volume_bytes

    @property
    def block_count(self) -> int:
        """Number of blocks of the volume at the newest layer's end."""
        return -(-self.end_bytes // self.block_bytes)

    @property
    def frames_bytes(self) -> int:
        """Stored bytes of all frames of all layers."""
        return sum(layer.frames_bytes for layer in self.layers)

    def check_tables(self) -> None:
        """Check the segment tables too, so that damage anywhere in a layer is noticed once every frame was read.

        Raises:
            DigestMismatchError: one is damaged.
        """
        for layer in self.layers:
            layer.check_segment_table()

    def windows(self, align_blocks: int = 1, first_block: int = 0) -> Iterator[Window]:
        """Yield the whole overlay, every frame in exactly one window, in ascending order of blocks.

        Args:
            align_blocks: windows begin and end at multiples of it.
            first_block: frames of blocks before it are passed over; a multiple of `align_blocks`.

        Raises:
            FormatError: an index is damaged.
        """
        first = first_block
        while True:
            stop = self._window_stop(first)
            if stop is None:
                break
            stop = -(-stop // align_blocks) * align_blocks
            yield self.between(first, stop)
            first = stop

    def _window_stop(self, first: int) -> int | None:
        """Choose where the window that begins at `first` ends: so many pages of all layers lie before it."""
        done = int(np.searchsorted(self._page_ends, first))
        if done == len(self._page_ends):
            return None
        return int(self._page_ends[min(done + _WINDOW_PAGES, len(self._page_ends)) - 1]) + 1

    def between(self, first_block: int, stop_block: int) -> Window:
        """Return the frames of a range of blocks.

        Args:
            first_block: where it begins.
            stop_block: where it ends, exclusive.

        Raises:
            FormatError: an index page is damaged.
        """
        pieces = [self._layer_records(at, first_block, stop_block) for at in range(len(self.layers))]
        records = join_records(pieces)
        layer = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
        origin = records["origin"].astype(np.int64) + self.origin_offsets[layer]
        cuts = self._cuts[origin]
        key = (records["block"].astype(np.uint64) << np.uint64(32)) | (_ORIGIN_LIMIT - origin).astype(
            np.uint64
        )
        order = np.argsort(key, kind="stable")
        twice = np.flatnonzero(key[order[1:]] == key[order[:-1]])
        if len(twice):
            path = self.layers[int(layer[order[twice[0]]])].path
            raise FormatError("the index names a block and origin twice", path=str(path))
        records = records[order]
        records["origin"] = origin[order]
        need_lo, need_hi = np.empty(len(records), np.uint64), np.empty(len(records), np.uint64)
        kernels.overlay_masks(records, cuts[order], self.granule_bytes, need_lo, need_hi)
        return Window(first_block, stop_block, records, layer[order], need_lo, need_hi)

    def of_blocks(self, blocks: npt.NDArray[np.int64]) -> Window:
        """Return the frames of the given blocks (ascending, without repeats, at least one).

        Raises:
            FormatError: an index page is damaged.
        """
        groups = np.split(blocks, np.flatnonzero(np.diff(blocks // _REACH_BLOCKS)) + 1)
        windows = [self._of_near_blocks(group) for group in groups]
        return windows[0] if len(windows) == 1 else _joined(windows)

    def _of_near_blocks(self, blocks: npt.NDArray[np.int64]) -> Window:
        window = self.between(int(blocks[0]), int(blocks[-1]) + 1)
        return window.rows(np.flatnonzero(np.isin(window.records["block"], blocks)))

    def _layer_records(self, at: int, first_block: int, stop_block: int) -> Records:
        layer = self.layers[at]
        first = int(np.searchsorted(layer.pages["last_block"], first_block))
        stop = int(np.searchsorted(layer.pages["first_block"], stop_block))
        if first >= stop:
            return np.empty(0, layout.RECORD)
        records = self._pages(at, first, stop)
        low, high = np.searchsorted(records["block"], (first_block, stop_block))
        return records[low:high]

    def _pages(self, at: int, first: int, stop: int) -> Records:
        """Read pages of a layer; the last one is kept, since the next range mostly begins within it."""
        cached = self._cached[at]
        if cached is not None and cached[0] == first:
            records = cached[1]
            if stop > first + 1:
                records = join_records([records, self.layers[at].read_pages(first + 1, stop)])
        else:
            records = self.layers[at].read_pages(first, stop)
        tail = (stop - 1 - first) * layout.RECORDS_PER_PAGE
        self._cached[at] = (stop - 1, records[tail:].copy())
        return records

    def load(self, window: Window, rows: npt.NDArray[np.int64], buffer: memoryview) -> list[memoryview]:
        """Read stored frames and check their digests.

        Args:
            window: where the rows come from.
            rows: rows of the window in the order in which their bytes shall lie in the buffer.
            buffer: writable, large enough for all of them.

        Returns:
            A view of the buffer for each row, in the order of `rows`.

        Raises:
            DigestMismatchError: a frame is damaged.
            FormatError: a file ends too early.
            StorageError: a medium fails.
        """
        records, layer = window.records[rows], window.layer[rows]
        ends = np.cumsum(records["length"].astype(np.int64)).tolist()
        pieces = [buffer[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else []
        self._read_runs(records, layer, pieces)
        digests = [frame_digest(piece) for piece in pieces]
        for row in np.flatnonzero(is_trace(records)).tolist():
            digests[row] = records["digest"][row].tobytes()  # its bytes are gone: there is nothing to check
        found = b"".join(digests)
        if found != records["digest"].tobytes():
            self._name_damage(window, rows, found)
        return pieces

    def _read_runs(self, records: Records, layer: npt.NDArray[np.int64], pieces: list[memoryview]) -> None:
        """Read frames, those that touch each other in a file in one go."""
        offsets = records["offset"].astype(np.int64)
        order = np.lexsort((offsets, layer))
        layer, offsets, lengths = layer[order], offsets[order], records["length"][order]
        is_new = (layer[1:] != layer[:-1]) | (offsets[1:] != offsets[:-1] + lengths[:-1])
        starts = [0, *(np.flatnonzero(is_new) + 1).tolist()] if len(order) else []
        in_order = [pieces[row] for row in order.tolist()]
        for first, stop in pairwise([*starts, len(order)]):
            self.layers[layer[first]].file.read_into(int(offsets[first]), in_order[first:stop])

    def refuse_seen_traces(self, window: Window) -> None:
        """Make sure that whatever is seen is there.

        Raises:
            FormatError: a frame was left out, and nothing hides it.
        """
        rows = np.flatnonzero(is_trace(window.records) & window.seen)
        if len(rows):
            raise FormatError(
                f"a frame of block {int(window.records['block'][rows[0]]):,} is missing: nothing hides it",
                path=str(self.layers[int(window.layer[rows[0]])].path),
            )

    def _name_damage(self, window: Window, rows: npt.NDArray[np.int64], found: bytes) -> None:
        size = layout.FRAME_DIGEST_BYTES
        for at, row in enumerate(rows.tolist()):
            self._compare(window, row, found[at * size : (at + 1) * size])

    def check_frame(self, window: Window, row: int, stored: memoryview) -> None:
        """Hold a frame's stored bytes against its own digest.

        Raises:
            DigestMismatchError: it is damaged.
        """
        self._compare(window, row, frame_digest(stored))

    def _compare(self, window: Window, row: int, found: bytes) -> None:
        record = window.records[row]
        if found != record["digest"].tobytes():
            raise DigestMismatchError(
                f"the stored frame of block {int(record['block']):,} is damaged",
                path=str(self.layers[int(window.layer[row])].path),
                offset=int(record["offset"]),
                hint="Fetch a good copy of this file from a replica; `rollforward verify` tells which are bad.",
            )

    def close(self) -> None:
        """Close all images."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            if isinstance(error, FormatError):
                self._raise_told(error)
        finally:
            self.close()

    def _raise_told(self, error: FormatError) -> None:
        """Raise an error that names the part of a spanned set, in place of one that names the set."""
        for layer in self.layers:
            if str(layer.path) == error.path:
                told = told_by_part(layer, error)
                if told is not error:
                    raise told from error
                return


def is_trace(records: Records) -> npt.NDArray[np.bool_]:
    """Tell which records are traces: a consolidation of an encrypted chain left their frames out."""
    traces: npt.NDArray[np.bool_] = (records["flags"] & np.uint32(layout.FRAME_TRACE)) != 0
    return traces


def _joined(windows: Sequence[Window]) -> Window:
    return Window(
        windows[0].first_block,
        windows[-1].stop_block,
        join_records([window.records for window in windows]),
        np.concatenate([window.layer for window in windows]),
        np.concatenate([window.need_lo for window in windows]),
        np.concatenate([window.need_hi for window in windows]),
    )


def _check_alike(layers: Sequence[ImageReader]) -> None:
    first = layers[0]
    for layer in layers[1:]:
        if layer.header.chain_id != first.header.chain_id:
            raise GeometryError(f"belongs to another chain than {first.path.name}", path=str(layer.path))
        if layer.header.granule_bytes != first.header.granule_bytes:
            raise GeometryError(f"has another block geometry than {first.path.name}", path=str(layer.path))
        if layer.header.encrypted != first.header.encrypted:
            plain = first if layer.header.encrypted else layer
            raise FormatError("is not encrypted, though its chain is", path=str(plain.path))


def _cuts(layers: Sequence[ImageReader]) -> npt.NDArray[np.int64]:
    """For each origin of all layers: from which byte on its frames no longer count.

    That is the smallest volume size among the points after it: those covered later by its own image, and the
    from and covered points of the images above.
    """
    above = 1 << 62
    cuts: list[npt.NDArray[np.int64]] = []
    for layer in reversed(layers):
        later = np.minimum(np.append(layer.volume_sizes[1:], above), above)
        cuts.append(np.minimum.accumulate(later[::-1])[::-1])
        above = min(above, layer.header.zero_from_bytes)
    return np.concatenate(cuts[::-1]).astype(np.int64)
