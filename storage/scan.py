"""One pass over a volume: blocks are read and fingerprinted once, and what changed is coded as frames."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from storage import kernels, layout
from storage.codec import encode_frame
from storage.digests import EMPTY_FRAME_DIGEST, Buffer, frame_digest
from storage.fingerprints import (
    PIECE_BLOCKS,
    Fingerprints,
    KnownFingerprints,
    NewFingerprints,
    zero_prints,
)
from storage.frame_kernels import code_frames
from storage.header import ImageHeader
from storage.image import Records
from storage.marked import MarkedBlocks, batches_of, blocks_of, ranges_to_read, read_marked
from storage.native_zstd import coding_library
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
_LOOKED_UP_TOGETHER: Final = 8
"""Batches whose frames are looked up in one go."""

_TAG_BYTES: Final = 16
"""What encryption adds to a frame."""

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Asked:
    """Consecutive blocks of the source that are to be read.

    Attributes:
        first_block: number of the first.
        blocks: how many.
        known: their fingerprints at the parent point; None if they are lost.
        is_hole: whether the source stores nothing of them.
    """

    first_block: int
    blocks: int
    known: Fingerprints | None
    is_hole: bool


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
        prints: given the fingerprints of the source's blocks; void where only marked ranges are read, of a volume
            whose fingerprints are lost or whose size changed.
        progress: told how many bytes were read.
        key: the key of an encrypted chain; None of a plain one.
    """

    def __init__(
        self,
        source: Source,
        block_bytes: int,
        prints: NewFingerprints,
        progress: Progress,
        key: ChainKey | None = None,
    ) -> None:
        self._source = source
        self._key = key
        self._block_bytes = block_bytes
        self._prints = prints
        self._progress = progress
        self._blocks = -(-source.size_bytes // block_bytes)
        self._blocks_at_once = max(_BATCH_BYTES // block_bytes, 1)
        self._buffers = BufferPool(_AHEAD, self._blocks_at_once * block_bytes)

    def whole(self, header: ImageHeader) -> Generator[Frames, None, None]:
        """Yield everything but zeros, as frames of origin 0."""
        coding = self._coding(header)

        def encode(asked: _Asked) -> tuple[_Coded, _Batch]:
            batch = self._read(asked)
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
        self._progress(self._source.size_bytes, self._source.size_bytes)

    def difference(
        self, header: ImageHeader, overlay: Overlay, before: KnownFingerprints | None
    ) -> Generator[Frames, None, None]:
        """Yield the granules that differ from the overlay's end, as frames of origin 0.

        Args:
            header: header of the new image.
            overlay: leads to the parent point.
            before: fingerprints of the parent; None to compare every block.
        """
        reader, coding = BlockReader(overlay, self._key), self._coding(header)
        for blocks, plain in self._changed(before):
            rows, masks = _differing(blocks, plain, reader.read(blocks), header)
            if len(rows):
                yield from _encode_in_threads(blocks[rows], plain, rows, masks, coding)
        self._progress(self._source.size_bytes, self._source.size_bytes)

    def marked(
        self,
        header: ImageHeader,
        overlay: Overlay,
        ranges: Iterator[Ranges],
        before: KnownFingerprints | None,
    ) -> Generator[Frames, None, None]:
        """Yield the granules of marked ranges that differ from the overlay's end, as frames of origin 0.

        Args:
            header: header of the new image.
            overlay: leads to the parent point.
            ranges: all that may differ from it.
            before: fingerprints of the parent, which those of changed blocks are put into.
        """
        parent_bytes = overlay.layers[-1].header.end.volume_bytes
        keeps_prints = before is not None and parent_bytes == self._source.size_bytes
        if keeps_prints:
            self._prints.base = before
        else:
            self._prints.forget()
        reader, coding = BlockReader(overlay, self._key), self._coding(header)
        wanted = ranges_to_read(ranges, parent_bytes, self._source.size_bytes)
        batches = batches_of(wanted, self._block_bytes, self._blocks_at_once)
        buffers = BufferPool(
            _READ_AHEAD + _AHEAD + 1, self._buffers.size_bytes
        )  # so many that none is waited for
        old_buffers = BufferPool(THREADS, self._buffers.size_bytes)

        def prepared() -> Iterator[tuple[Ranges, I64, Window]]:
            while together := list(islice(batches, _LOOKED_UP_TOGETHER)):
                blocks = [blocks_of(some, self._block_bytes) for some in together]
                frames = reader.frames_of(np.concatenate(blocks))
                for some, each in zip(together, blocks, strict=True):
                    first, stop = np.searchsorted(frames.records["block"], (each[0], each[-1] + 1))
                    yield some, each, frames.part(int(first), int(stop))

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
                prints = _prints_of(got.plain, rows) if keeps_prints else None
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
                    self._prints.put(changes.blocks, changes.prints)
                yield changes.coded.frames
                coding.buffers.give(changes.coded.buffer)
                self._progress(changes.end, self._source.size_bytes)
        self._prints.complete()
        self._progress(self._source.size_bytes, self._source.size_bytes)

    def _coding(self, header: ImageHeader) -> _Coding:
        cipher = self._key.frame_cipher(header.capture_ids[0]) if self._key else None
        buffers = BufferPool(_AHEAD + 1, self._blocks_at_once * (self._block_bytes + _TAG_BYTES))
        return _Coding(header.granule_bytes, cipher, buffers)

    def _changed(self, before: KnownFingerprints | None) -> Iterator[tuple[I64, U8]]:
        """Yield (blocks, plain) of blocks whose fingerprints changed, some 4 MiB at a time."""
        blocks: list[I64] = []
        plains: list[U8] = []
        held = 0
        with closing(ordered_map(self._read, self._batches_to_compare(before), ahead=_AHEAD)) as batches:
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

    def _stored_batches(self) -> Iterator[_Asked]:
        """Batches that hold anything; holes of a sparse source are passed over."""
        step = self._blocks_at_once
        zeros = zero_prints(step)
        first = 0
        while (stored := self._next_stored(first)) < self._blocks:
            first = stored // step * step
            count = min(step, self._blocks - first)
            yield _Asked(first, count, zeros[:count], is_hole=False)
            first += step

    def _batches_to_compare(self, before: KnownFingerprints | None) -> Iterator[_Asked]:
        """Batches that hold anything, or did at the parent point: what was a hole and still is one needs no look."""
        step = self._blocks_at_once
        stored = -1
        for piece in range(-(-self._blocks // PIECE_BLOCKS)):
            start = piece * PIECE_BLOCKS
            stop = min(start + PIECE_BLOCKS, self._blocks)
            known = _of_length(before.piece(piece) if before else None, stop - start)
            filled = None if known is None else start + np.flatnonzero(known.any(axis=1))
            at = start
            while at < stop:
                stored = stored if stored >= at else self._next_stored(at)
                nearest = min(stored, at if filled is None else _next_of(filled, at))
                if nearest >= stop:
                    break
                at = start + (nearest - start) // step * step
                count = min(step, stop - at)
                before_it = None if known is None else known[at - start : at - start + count]
                yield _Asked(at, count, before_it, is_hole=stored >= at + count)
                at += count

    def _next_stored(self, block: int) -> int:
        """Return the next block from one on that the source stores anything of; one behind the end if there is none."""
        offset = self._source.next_stored(block * self._block_bytes)
        return self._blocks if offset >= self._source.size_bytes else offset // self._block_bytes

    def _read(self, asked: _Asked) -> _Batch:
        """Read and fingerprint a batch; runs in a worker thread."""
        offset = asked.first_block * self._block_bytes
        size = min(asked.blocks * self._block_bytes, self._source.size_bytes - offset)
        buffer = self._buffers.take()
        plain = buffer[: asked.blocks * self._block_bytes].reshape(asked.blocks, self._block_bytes)
        prints = zero_prints(asked.blocks)
        if not asked.is_hole:
            self._source.read_into(offset, buffer.data[:size])
            buffer[size : plain.size] = 0
            prints = _prints_of(plain, np.arange(asked.blocks))
        is_changed = (
            np.ones(asked.blocks, bool) if asked.known is None else (prints != asked.known).any(axis=1)
        )
        changed = np.flatnonzero(is_changed)
        if asked.is_hole and len(changed):
            plain[:] = 0
        return _Batch(asked.first_block, plain, prints, changed, buffer)

    def _note(self, batch: _Batch) -> None:
        stop = batch.first_block + len(batch.prints)
        self._prints.put(np.arange(batch.first_block, stop), batch.prints)
        self._progress(min(stop * self._block_bytes, self._source.size_bytes), self._source.size_bytes)


def _of_length(prints: Fingerprints | None, blocks: int) -> Fingerprints | None:
    """Cut fingerprints, or make them up with those of zero blocks: a volume may have had another size."""
    if prints is None or len(prints) == blocks:
        return prints
    return np.concatenate([prints[:blocks], zero_prints(max(blocks - len(prints), 0))])


def _next_of(rows: I64, at: int) -> int:
    """Return the first of some ascending numbers that is not below `at`; a very large one if there is none."""
    row = int(np.searchsorted(rows, at))
    return int(rows[row]) if row < len(rows) else sys.maxsize


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
    buffer = coding.buffers.take()
    library = coding_library() if coding.cipher is None else None
    if library is None:
        stored = _code_each(records, plain, rows, masks, coding, buffer)
    else:
        stored = _code_together(records, plain, rows, masks, coding, buffer, library)
    digests = [frame_digest(piece) if len(piece) else EMPTY_FRAME_DIGEST for piece in stored]
    records["digest"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, layout.FRAME_DIGEST_BYTES)
    return _Coded(Frames(records, buffer.data[: sum(map(len, stored))]), buffer)


def _code_together(
    records: Records, plain: U8, rows: I64, masks: _FrameMasks, coding: _Coding, buffer: U8, library: U64
) -> list[memoryview]:
    """Code frames in one go; return their stored bytes, which lie in the buffer one after the other."""
    holds_data, none = masks.holds_data, np.uint64(0)
    lengths = np.empty(len(rows), np.int64)
    lo, hi = np.where(holds_data, masks.lo, none), np.where(holds_data, masks.hi, none)
    scratch = np.empty(plain.shape[1], np.uint8)
    code_frames(plain, rows, lo, hi, coding.granule_bytes, buffer, lengths, scratch, library)
    records["length"] = lengths
    plain_bytes = (np.bitwise_count(lo).astype(np.int64) + np.bitwise_count(hi)) * coding.granule_bytes
    flags = np.where(lengths < plain_bytes, layout.FRAME_ZSTD, layout.FRAME_RAW)
    records["flags"][holds_data] = flags[holds_data]
    ends = np.cumsum(lengths)
    pieces = zip((ends - lengths).tolist(), ends.tolist(), strict=True)
    return [buffer.data[start:end] for start, end in pieces]


def _code_each(
    records: Records, plain: U8, rows: I64, masks: _FrameMasks, coding: _Coding, buffer: U8
) -> list[memoryview]:
    """Code frames one by one, and encrypt them where that is to be; return their stored bytes likewise."""
    packed = np.empty(plain.shape[1], np.uint8)
    pieces: list[memoryview] = []
    at = 0
    for row, has_data in enumerate(masks.holds_data.tolist()):
        stored: Buffer = b""
        if has_data:
            lo, hi = masks.lo[row], masks.hi[row]
            size = kernels.gather_granules(plain[rows[row]], lo, hi, coding.granule_bytes, packed)
            records["flags"][row], stored = encode_frame(packed.data[:size])
            if coding.cipher is not None:
                stored = coding.cipher.encrypt(records[row], stored)
        records["length"][row] = len(stored)
        pieces.append(buffer.data[at : at + len(stored)])
        pieces[-1][:] = stored
        at += len(stored)
    return pieces
