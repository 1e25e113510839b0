"""Decoding an overlay: the plain blocks that its newest layer ends at."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from policies.errors import FormatError
from storage.codec import lay_frame
from storage.decryption import decryption_of
from storage.digests import Buffer
from storage.frame_kernels import lay_frames
from storage.native_zstd import decoding_library
from storage.overlay import Overlay, Window
from storage.pipeline import THREADS, BufferPool, ordered_map
from storage.streams import StoredBatch, StoredStreams

if TYPE_CHECKING:
    from storage.keys import ChainKey

_STRIPE_BYTES: Final = 8 << 20
_LOAD_BYTES: Final = 4 << 20
_THREADS: Final = THREADS + 1
"""One more than there are cores, since one mostly waits for a medium."""

_AHEAD: Final = 2 * _THREADS

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Stripe:
    """Decoded blocks of one stretch of a volume.

    Attributes:
        blocks: int64, ascending: the blocks that some frame touches. All others are zero.
        plain: uint8, shape (blocks, block bytes); valid only while the stripe is being worked on, or until the
            next one is taken.
        stored_bytes: stored bytes of the frames that were read for it.
    """

    blocks: I64
    plain: U8
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Parcel:
    """Decoded blocks that some frame is seen in, however far apart they lie.

    Attributes:
        blocks: int64, ascending.
        plain: uint8, shape (blocks, block bytes); valid only until the next parcel is taken.
        seen_lo: uint64, one a block: granules 0 to 63 that some frame shows; the others are zero, if that was asked
            for, and undefined otherwise.
        seen_hi: likewise, granules 64 to 127.
        stored_bytes: stored bytes of the frames that were read for it.
    """

    blocks: I64
    plain: U8
    seen_lo: U64
    seen_hi: U64
    stored_bytes: int


class _Stored(NamedTuple):
    """Bytes of frames: a buffer, and for each frame where it begins in it and how long it is."""

    buffer: U8
    starts: I64
    lengths: I64

    def piece(self, at: int) -> memoryview:
        start = int(self.starts[at])
        return self.buffer.data[start : start + int(self.lengths[at])]


@dataclass(frozen=True, slots=True)
class _Decoding:
    """A stripe that is being decoded: it is whole when all jobs are done."""

    stripe: Stripe
    buffer: U8
    jobs: Sequence[Future[None]]


class BlockReader:
    """Decodes blocks of an overlay in threads, with reused buffers.

    Args:
        overlay: the images, laid one over the other.
        key: the key of an encrypted chain; None of a plain one.

    Attributes:
        decryption: gives the coded granules of single frames.

    Raises:
        PasswordError: the chain is encrypted, and there is no key.
        FormatError: an image is not encrypted as its chain is, or says something else than was captured.
    """

    def __init__(self, overlay: Overlay, key: ChainKey | None = None) -> None:
        self._overlay = overlay
        self.decryption = decryption_of(overlay, key)
        self._blocks_at_once = max(_STRIPE_BYTES // overlay.block_bytes, 1)
        self._stored = BufferPool(_AHEAD, _LOAD_BYTES + overlay.frame_bytes_max)

    def stripes(self) -> Generator[Stripe, None, None]:
        """Decode the whole overlay in threads, and give it out stripe by stripe to whoever writes it.

        A caller that mostly waits for a medium works beside the decoding so, and never in its place. Stored bytes
        are held against the digests of their segments: what was given out counts as good when this has ended.

        Yields:
            Stripes in order of the volume, each valid until the next one is taken; those without frames are
            passed over.

        Raises:
            FormatError: an image is damaged.
            StorageError: one cannot be read.
        """
        buffers = BufferPool(_AHEAD, self._blocks_at_once * self._overlay.block_bytes)
        waiting: deque[_Decoding] = deque()
        with (
            StoredStreams(self._overlay, _LOAD_BYTES, ahead=_AHEAD) as streams,
            ThreadPoolExecutor(THREADS, "rollforward") as pool,
        ):
            try:
                for window in self._windows():
                    if len(waiting) == _AHEAD - 1:
                        yield from _first_of(waiting, buffers)
                    waiting.append(self._begin(window, buffers.take(), streams, pool))
                while waiting:
                    yield from _first_of(waiting, buffers)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
            streams.finish()

    def parcels(self, first_block: int = 0, *, clears: bool = True) -> Generator[Parcel, None, None]:
        """Decode all that is seen, in threads, and give it out in parcels of a few MiB.

        Each frame is held against its own digest first, so whatever is given out is good. What newer frames hide is
        not read.

        Args:
            first_block: where to begin.
            clears: whether granules that no frame shows are to be zero.

        Yields:
            Parcels in order of the volume, each valid until the next one is taken.

        Raises:
            FormatError: an image is damaged.
            StorageError: one cannot be read.
        """
        buffers = BufferPool(_AHEAD, self._blocks_at_once * self._overlay.block_bytes)

        def decode(window: Window) -> tuple[Parcel, U8]:
            buffer = buffers.take()
            blocks, firsts = np.unique(window.records["block"].astype(np.int64), return_index=True)
            plain = buffer[: len(blocks) * self._overlay.block_bytes].reshape(len(blocks), -1)
            self._decode(window, blocks, plain, clears=clears)
            lo, hi = (np.bitwise_or.reduceat(need, firsts) for need in (window.need_lo, window.need_hi))
            return Parcel(blocks, plain, lo, hi, _stored_bytes(window)), buffer

        parts = self._seen_parts(first_block)
        with closing(ordered_map(decode, parts, threads=THREADS, ahead=_AHEAD)) as decoded:
            for parcel, buffer in decoded:
                yield parcel
                buffers.give(buffer)

    def _seen_parts(self, first_block: int) -> Iterator[Window]:
        for window in self._overlay.windows(first_block=first_block):
            yield from window.rows(np.flatnonzero(window.seen)).parcels(self._blocks_at_once)

    def _begin(
        self, window: Window, buffer: U8, streams: StoredStreams, pool: ThreadPoolExecutor
    ) -> _Decoding:
        """Have a stripe decoded, batch by batch: no two frames of it are needed for the same granule."""
        blocks, plain = self._rows_of(window, buffer)
        rows = self._cleared_rows(window, blocks, plain)

        def decode(batch: StoredBatch, rows: I64) -> None:
            try:
                batch.wait()
                lengths = batch.window.records["length"].astype(np.int64)
                self._lay(batch.window, rows, _Stored(batch.buffer, batch.starts, lengths), plain)
            finally:
                streams.release(batch)

        jobs, at = [], 0
        for batch in streams.begin(window):
            jobs.append(pool.submit(decode, batch, rows[at : at + len(batch.window)]))
            at += len(batch.window)
        return _Decoding(Stripe(blocks, plain, _stored_bytes(window)), buffer, jobs)

    def _rows_of(self, window: Window, buffer: U8) -> tuple[I64, U8]:
        blocks = np.unique(window.records["block"]).astype(np.int64)
        return blocks, buffer[: len(blocks) * self._overlay.block_bytes].reshape(len(blocks), -1)

    def _windows(self) -> Iterator[Window]:
        """Windows end at stripe borders, so that each stripe is whole."""
        step = self._blocks_at_once
        for window in self._overlay.windows(align_blocks=step):
            yield from window.stripes(step)

    def read(self, blocks: I64) -> U8:
        """Decode some blocks.

        Args:
            blocks: int64, ascending, without repeats.

        Returns:
            uint8, shape (blocks, block bytes); zero where no frame says otherwise.

        Raises:
            FormatError: an image is damaged.
            StorageError: one cannot be read.
        """
        plain = np.zeros((len(blocks), self._overlay.block_bytes), np.uint8)
        window = self._overlay.of_blocks(blocks)

        def decode(part: Window) -> None:
            self._decode(part, blocks, plain)

        parts = window.stripes(1) if len(blocks) < _AHEAD else window.stripes(self._blocks_at_once)
        with closing(ordered_map(decode, parts, threads=_THREADS, ahead=_AHEAD)) as results:
            for _ in results:
                pass
        return plain

    def frames_of(self, blocks: I64) -> Window:
        """Look up the frames of some blocks, for `decode`; not to be called by two threads at once.

        Raises:
            FormatError: an index page is damaged.
        """
        return self._overlay.of_blocks(blocks)

    def decode(self, frames: Window, blocks: I64, plain: U8) -> None:
        """Decode some blocks in the calling thread.

        Args:
            frames: what `frames_of` gave for them.
            blocks: int64, ascending, without repeats.
            plain: uint8, shape (blocks, block bytes), to be filled; zero where no frame says otherwise.

        Raises:
            FormatError: an image is damaged.
            StorageError: one cannot be read.
        """
        is_untouched = np.ones(len(blocks), bool)
        is_untouched[np.searchsorted(blocks, frames.records["block"])] = False
        plain[is_untouched] = 0
        self._decode(frames, blocks, plain)

    def _decode(self, window: Window, blocks: I64, plain: U8, *, clears: bool = True) -> None:
        """Lay a window's frames, which hold whole blocks, into their rows of `plain`."""
        rows: I64 = (
            self._cleared_rows(window, blocks, plain)
            if clears
            else np.searchsorted(blocks, window.records["block"])
        )
        buffer = self._stored.take()
        try:
            at = 0
            for batch in window.batches(_LOAD_BYTES):
                self._overlay.load(batch, np.arange(len(batch)), buffer.data)
                lengths = batch.records["length"].astype(np.int64)
                stored = _Stored(buffer, np.cumsum(lengths) - lengths, lengths)
                self._lay(batch, rows[at : at + len(batch)], stored, plain)
                at += len(batch)
        finally:
            self._stored.give(buffer)

    def _cleared_rows(self, window: Window, blocks: I64, plain: U8) -> I64:
        """Return the row of each frame's block; rows that no single frame fills are zeroed."""
        rows: I64 = np.searchsorted(blocks, window.records["block"])
        full = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
        needs_zeros = np.zeros(len(blocks), bool)
        needs_zeros[rows] = True
        needs_zeros[rows[(window.need_lo == full) & (window.need_hi == full)]] = False
        plain[needs_zeros] = 0
        return rows

    def _lay(self, batch: Window, rows: I64, stored: _Stored, plain: U8) -> None:
        """Decode a batch into its rows: all of it in one go where the machine can, else frame by frame."""
        self._overlay.refuse_seen_traces(batch)
        library = decoding_library()
        if library is None:
            for at in np.flatnonzero(batch.seen).tolist():
                self._lay_one(batch, at, stored, plain[rows[at]])
            return
        coded = self._decrypted(batch, stored) if self._overlay.encrypted else stored
        at = lay_frames(
            batch.records,
            rows,
            batch.need_lo,
            batch.need_hi,
            coded.buffer,
            coded.starts,
            coded.lengths,
            self._overlay.granule_bytes,
            plain,
            np.empty(self._overlay.block_bytes, np.uint8),
            library,
        )
        if at >= 0:
            self._lay_one(batch, at, stored, plain[rows[at]])
            raise self._placed(FormatError("a frame cannot be decompressed"), batch, at, stored)

    def _decrypted(self, batch: Window, stored: _Stored) -> _Stored:
        """Decrypt what is seen of a batch."""
        coded: list[Buffer] = [b""] * len(batch)
        for at in np.flatnonzero(batch.seen).tolist():
            try:
                coded[at] = self.decryption.packed(batch.records[at], stored.piece(at))
            except FormatError as error:
                raise self._placed(error, batch, at, stored) from None
        lengths = np.fromiter(map(len, coded), np.int64, len(coded))
        return _Stored(
            np.frombuffer(bytearray().join(coded), np.uint8), np.cumsum(lengths) - lengths, lengths
        )

    def _lay_one(self, batch: Window, at: int, stored: _Stored, block: U8) -> None:
        record = batch.records[at]
        need = batch.need_lo[at], batch.need_hi[at]
        try:
            packed = self.decryption.packed(record, stored.piece(at))
            lay_frame(record, need, packed, self._overlay.granule_bytes, block)
        except FormatError as error:
            raise self._placed(error, batch, at, stored) from None

    def _placed(self, error: FormatError, batch: Window, at: int, stored: _Stored) -> FormatError:
        """Say where an error is; damage is told as such, wherever it shows."""
        self._overlay.check_frame(batch, at, stored.piece(at))
        path = self._overlay.layers[int(batch.layer[at])].path
        return type(error)(error.message, path=str(path), offset=int(batch.records["offset"][at]))


def _first_of(waiting: deque[_Decoding], buffers: BufferPool) -> Generator[Stripe, None, None]:
    first = waiting.popleft()
    for job in first.jobs:
        job.result()
    yield first.stripe
    buffers.give(first.buffer)


def _stored_bytes(window: Window) -> int:
    return int(window.records["length"].sum(dtype=np.int64))
