"""One pass over a volume: blocks are read and fingerprinted once, and what changed is coded as frames."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from storage import kernels, layout
from storage.codec import encode_frame
from storage.digests import EMPTY_FRAME_DIGEST, frame_digest
from storage.fingerprints import Fingerprints
from storage.header import ImageHeader
from storage.image import Records
from storage.marked import MarkedBlocks, batches_of, blocks_of, ranges_to_read, read_marked
from storage.overlay import Overlay, Window
from storage.pipeline import THREADS, BufferPool, Progress, ordered_map
from storage.replay import BlockReader
from storage.source import Ranges, Source

if TYPE_CHECKING:
    from storage.keys import ChainKey, FrameCipher

_BATCH_BYTES: Final = 4 << 20
_AHEAD: Final = 2 * THREADS
_READERS: Final = 2
"""Threads that read what is marked, and mostly wait for the source."""

_READ_AHEAD: Final = 3

_TAG_BYTES: Final = 16
"""What encryption adds to a frame."""

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Consecutive blocks of the source, read into a buffer of the pool.

    Attributes:
        first_block: number of the first.
        plain: uint8, shape (blocks, block bytes).
        prints: their fingerprints.
        changed: rows that are not known to be as they were.
        buffer: to be given back to the pool.
    """

    first_block: int
    plain: U8
    prints: Fingerprints
    changed: I64
    buffer: U8


@dataclass(frozen=True, slots=True)
class Frames:
    """Coded frames of some blocks.

    Attributes:
        records: their records, without offsets.
        stored: their stored bytes, one after the other; valid until the next frames are taken.
    """

    records: Records
    stored: memoryview


@dataclass(frozen=True, slots=True)
class _Coding:
    """How frames are coded: the size of granules, what encrypts, if anything does, and where the bytes go."""

    granule_bytes: int
    cipher: FrameCipher | None
    buffers: BufferPool


@dataclass(frozen=True, slots=True)
class _FrameMasks:
    """Which granules the frames hold (lo, hi), and which granules of their blocks are not all zero."""

    lo: U64
    hi: U64
    filled_lo: U64
    filled_hi: U64

    @property
    def holds_data(self) -> npt.NDArray[np.bool_]:
        """Whether each frame holds anything but zeros."""
        holds: npt.NDArray[np.bool_] = ((self.lo & self.filled_lo) | (self.hi & self.filled_hi)) != 0
        return holds

    def part(self, rows: slice) -> _FrameMasks:
        return _FrameMasks(self.lo[rows], self.hi[rows], self.filled_lo[rows], self.filled_hi[rows])


class VolumeScan:
    """One pass over a source. It is used for one of `whole`, `difference` and `marked`, once.

    Args:
        source: the volume.
        block_bytes: size of a block.
        progress: told how many bytes were read.
        key: the key of an encrypted chain; None of a plain one.

    Attributes:
        prints: fingerprints of the source's blocks, complete when the pass is.
        keeps_prints: whether they are being kept; not where only marked ranges are read, of a volume whose
            fingerprints are lost or whose size changed.
    """

    def __init__(
        self, source: Source, block_bytes: int, progress: Progress, key: ChainKey | None = None
    ) -> None:
        self._source = source
        self._key = key
        self._block_bytes = block_bytes
        self._progress = progress
        self._blocks = -(-source.size_bytes // block_bytes)
        self._blocks_at_once = max(_BATCH_BYTES // block_bytes, 1)
        self._buffers = BufferPool(_AHEAD, self._blocks_at_once * block_bytes)
        self.keeps_prints = True
        self.prints: Fingerprints = np.zeros((self._blocks, layout.FRAME_DIGEST_BYTES), np.uint8)

    def whole(self, header: ImageHeader) -> Generator[Frames, None, None]:
        """Yield everything but zeros, as frames of origin 0."""
        coding = self._coding(header)

        def encode(first: int) -> tuple[_Coded, _Batch]:
            batch = self._read(first, None)
            rows = batch.changed
            lo, hi = _nonzero(batch.plain, header.granule_bytes)
            masks = _FrameMasks(lo[rows], hi[rows], lo[rows], hi[rows])
            coded = _encode(batch.first_block + rows, batch.plain, rows, masks, coding)
            self._buffers.give(batch.buffer)  # the next batch finds it in the processor's cache
            return coded, batch

        with closing(ordered_map(encode, self._stored_batches(), ahead=_AHEAD)) as results:
            for coded, batch in results:
                self._note(batch)
                yield coded.frames
                coding.buffers.give(coded.buffer)

    def difference(
        self, header: ImageHeader, overlay: Overlay, before: Fingerprints
    ) -> Generator[Frames, None, None]:
        """Yield the granules that differ from the overlay's end, as frames of origin 0."""
        reader, coding = BlockReader(overlay, self._key), self._coding(header)
        for blocks, plain in self._changed(before):
            rows, masks = _differing(blocks, plain, reader.read(blocks), header)
            if len(rows):
                yield from _encode_in_threads(blocks[rows], plain, rows, masks, coding)

    def marked(
        self,
        header: ImageHeader,
        overlay: Overlay,
        ranges: Iterator[Ranges],
        before: Fingerprints | None,
    ) -> Generator[Frames, None, None]:
        """Yield the granules of marked ranges that differ from the overlay's end, as frames of origin 0.

        Args:
            header: header of the new image.
            overlay: leads to the parent point.
            ranges: all that may differ from it.
            before: fingerprints of the parent, which those of changed blocks are put into.
        """
        parent_bytes = overlay.layers[-1].header.end.volume_bytes
        self.keeps_prints = before is not None and parent_bytes == self._source.size_bytes
        if before is not None and self.keeps_prints:
            self.prints = before
        reader, coding = BlockReader(overlay, self._key), self._coding(header)
        wanted = ranges_to_read(ranges, parent_bytes, self._source.size_bytes)
        batches = batches_of(wanted, self._block_bytes, self._blocks_at_once)
        buffers = BufferPool(
            _READ_AHEAD + _AHEAD + 1, self._buffers.size_bytes
        )  # so many that none is waited for
        old_buffers = BufferPool(THREADS, self._buffers.size_bytes)

        def prepared() -> Iterator[tuple[Ranges, I64, Window]]:
            for some in batches:
                blocks = blocks_of(some, self._block_bytes)
                yield some, blocks, reader.frames_of(blocks)

        def read(item: tuple[Ranges, I64, Window]) -> tuple[MarkedBlocks, Window]:
            some, blocks, frames = item
            return read_marked(self._source, some, blocks, buffers.take(), self._block_bytes), frames

        def encode(item: tuple[MarkedBlocks, Window]) -> _MarkedChanges:
            got, frames = item
            old_buffer = old_buffers.take()
            try:
                old = old_buffer[: got.plain.size].reshape(got.plain.shape)
                reader.decode(frames, got.blocks, old)
                got.fill_gaps(old, self._source.size_bytes)
                rows, masks = _differing(got.blocks, got.plain, old, header)
                coded = _encode(got.blocks[rows], got.plain, rows, masks, coding)
                prints = _prints_of(got.plain, rows) if self.keeps_prints else None
                return _MarkedChanges(coded, got.blocks[rows], prints, got.end)
            finally:
                old_buffers.give(old_buffer)
                buffers.give(got.buffer)

        with (
            closing(ordered_map(read, prepared(), threads=_READERS, ahead=_READ_AHEAD)) as batches_read,
            closing(ordered_map(encode, batches_read, ahead=_AHEAD)) as results,
        ):
            for changes in results:
                if changes.prints is not None:
                    self.prints[changes.blocks] = changes.prints
                yield changes.coded.frames
                coding.buffers.give(changes.coded.buffer)
                self._progress(changes.end, self._source.size_bytes)
        self._progress(self._source.size_bytes, self._source.size_bytes)

    def _coding(self, header: ImageHeader) -> _Coding:
        cipher = self._key.frame_cipher(header.capture_ids[0]) if self._key else None
        buffers = BufferPool(_AHEAD + 1, self._blocks_at_once * (self._block_bytes + _TAG_BYTES))
        return _Coding(header.granule_bytes, cipher, buffers)

    def _changed(self, before: Fingerprints) -> Iterator[tuple[I64, U8]]:
        """Yield (blocks, plain) of blocks whose fingerprints changed, some 4 MiB at a time."""
        blocks: list[I64] = []
        plains: list[U8] = []
        held = 0
        with closing(
            ordered_map(lambda first: self._read(first, before), self._all_batches(), ahead=_AHEAD)
        ) as batches:
            for batch in batches:
                if len(batch.changed):
                    blocks.append(batch.first_block + batch.changed)
                    plains.append(batch.plain[batch.changed])
                    held += len(batch.changed)
                self._note(batch)
                self._buffers.give(batch.buffer)
                if held >= self._blocks_at_once:
                    yield np.concatenate(blocks), np.concatenate(plains)
                    blocks, plains, held = [], [], 0
        if held:
            yield np.concatenate(blocks), np.concatenate(plains)

    def _all_batches(self) -> Iterator[int]:
        return iter(range(0, self._blocks, self._blocks_at_once))

    def _stored_batches(self) -> Iterator[int]:
        """First blocks of the batches that hold anything; holes of a sparse file are passed over."""
        at = 0
        step = self._blocks_at_once * self._block_bytes
        while (at := self._source.next_stored(at)) < self._source.size_bytes:
            yield at // step * self._blocks_at_once
            at = (at // step + 1) * step

    def _read(self, first: int, before: Fingerprints | None) -> _Batch:
        """Read and fingerprint a batch; runs in a worker thread."""
        size = min(
            self._blocks_at_once * self._block_bytes, self._source.size_bytes - first * self._block_bytes
        )
        blocks = -(-size // self._block_bytes)
        offset = first * self._block_bytes
        buffer = self._buffers.take()
        plain = buffer[: blocks * self._block_bytes].reshape(blocks, self._block_bytes)
        prints = np.zeros((blocks, layout.FRAME_DIGEST_BYTES), np.uint8)
        is_hole = self._source.next_stored(offset) >= offset + size
        if not is_hole:
            self._source.read_into(offset, buffer.data[:size])
            buffer[size : plain.size] = 0
            prints = _prints_of(plain, np.arange(blocks))
        known = np.zeros_like(prints)
        if before is not None:
            overlap = before[first : first + blocks]
            known[: len(overlap)] = overlap
        changed = np.flatnonzero((prints != known).any(axis=1))
        if is_hole and len(changed):
            plain[:] = 0
        return _Batch(first, plain, prints, changed, buffer)

    def _note(self, batch: _Batch) -> None:
        self.prints[batch.first_block : batch.first_block + len(batch.prints)] = batch.prints
        done = (batch.first_block + len(batch.prints)) * self._block_bytes
        self._progress(min(done, self._source.size_bytes), self._source.size_bytes)


def _masks(count: int) -> tuple[U64, U64]:
    return np.empty(count, np.uint64), np.empty(count, np.uint64)


def _prints_of(plain: U8, rows: I64) -> Fingerprints:
    """Take the fingerprints of some rows of `plain`."""
    prints = np.zeros((len(rows), layout.FRAME_DIGEST_BYTES), np.uint8)
    filled = kernels.filled_blocks(plain.view(np.uint64))[rows]
    digests = [frame_digest(plain[row].data) for row in rows[filled].tolist()]
    prints[filled] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, layout.FRAME_DIGEST_BYTES)
    return prints


def _nonzero(plain: U8, granule_bytes: int) -> tuple[U64, U64]:
    lo, hi = _masks(len(plain))
    kernels.nonzero_masks(plain.view(np.uint64), granule_bytes // 8, lo, hi)
    return lo, hi


def _differing(blocks: I64, plain: U8, old: U8, header: ImageHeader) -> tuple[I64, _FrameMasks]:
    """Compare blocks granule by granule; return the rows that differ, and what their frames hold."""
    lo, hi = _masks(len(blocks))
    kernels.changed_masks(plain.view(np.uint64), old.view(np.uint64), header.granule_bytes // 8, lo, hi)
    _limit(lo, hi, blocks, header)
    rows = np.flatnonzero((lo | hi) != 0)
    filled_lo, filled_hi = _nonzero(plain, header.granule_bytes)
    return rows, _FrameMasks(lo[rows], hi[rows], filled_lo[rows], filled_hi[rows])


def _limit(lo: U64, hi: U64, blocks: I64, header: ImageHeader) -> None:
    """Take away the granules that lie beyond the volume's end."""
    last = header.end.volume_bytes // header.block_bytes
    for row in np.flatnonzero(blocks >= last).tolist():
        granules = int(kernels.granules_before(header.end.volume_bytes, blocks[row], header.granule_bytes))
        lo[row] &= kernels.low_bits(granules)
        hi[row] &= kernels.low_bits(granules - 64)


@dataclass(frozen=True, slots=True)
class _Coded:
    """Frames, and the buffer that holds their bytes, to be given back."""

    frames: Frames
    buffer: U8


@dataclass(frozen=True, slots=True)
class _MarkedChanges:
    """What came of a batch of marked ranges.

    Attributes:
        coded: frames of what changed.
        blocks: numbers of the blocks that changed.
        prints: their fingerprints; None if none are kept.
        end: first byte of the volume behind the batch.
    """

    coded: _Coded
    blocks: I64
    prints: Fingerprints | None
    end: int


def _encode_in_threads(
    blocks: I64, plain: U8, rows: I64, masks: _FrameMasks, coding: _Coding
) -> Generator[Frames, None, None]:
    def encode(part: slice) -> _Coded:
        return _encode(blocks[part], plain, rows[part], masks.part(part), coding)

    fitting = coding.buffers.size_bytes // (plain.shape[1] + _TAG_BYTES)
    step = min(-(-len(blocks) // THREADS), fitting)
    with closing(
        ordered_map(encode, (slice(at, at + step) for at in range(0, len(blocks), step)))
    ) as results:
        for coded in results:
            yield coded.frames
            coding.buffers.give(coded.buffer)


def _encode(blocks: I64, plain: U8, rows: I64, masks: _FrameMasks, coding: _Coding) -> _Coded:
    """Code some rows of `plain` as frames of the given blocks."""
    records = np.zeros(len(blocks), layout.RECORD)
    records["block"], records["mask_lo"], records["mask_hi"] = blocks, masks.lo, masks.hi
    packed = np.empty(plain.shape[1], np.uint8)
    buffer = coding.buffers.take()
    digests: list[bytes] = []
    lengths: list[int] = []
    at = 0
    for row, has_data in enumerate(masks.holds_data.tolist()):
        if not has_data:
            digests.append(EMPTY_FRAME_DIGEST)
            lengths.append(0)
            continue
        lo, hi = masks.lo[row], masks.hi[row]
        size = kernels.gather_granules(plain[rows[row]], lo, hi, coding.granule_bytes, packed)
        records["flags"][row], stored = encode_frame(packed.data[:size])
        if coding.cipher is not None:
            stored = coding.cipher.encrypt(records[row], stored)
        digests.append(frame_digest(stored))
        lengths.append(len(stored))
        buffer.data[at : at + len(stored)] = stored
        at += len(stored)
    records["length"] = lengths
    records["digest"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, layout.FRAME_DIGEST_BYTES)
    return _Coded(Frames(records, buffer.data[:at]), buffer)
