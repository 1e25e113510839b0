"""The stored streams of several images, read side by side from front to back, and checked on the way.

Hashing long runs is more than twice as fast as hashing frame by frame, so a stream is held against the digests of
its segments. What is read may be used at once, but counts as good only when `finish` has returned: the digest of a
segment is known at its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NoReturn, Self

import numpy as np
import numpy.typing as npt

from policies.errors import DigestMismatchError, FormatError
from storage import layout
from storage.digests import SegmentDigests
from storage.image import ImageReader
from storage.overlay import Overlay, Window
from storage.pipeline import THREADS, Buffer, BufferPool

_READ_BYTES: Final = 256 << 10
"""Read at once: what is hashed next then lies in the processor's cache still."""

_DIGESTS_AT_ONCE: Final = 256
"""Digests of segments that are read at once: 8 KiB."""

_AHEAD: Final = THREADS + 2

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """Frames of all images, whose stored bytes are on their way into a buffer.

    Attributes:
        window: the frames.
        buffer: uint8, holds their stored bytes once `wait` returned.
        starts: int64, as long as the window: where each frame begins in the buffer.
    """

    window: Window
    buffer: Buffer
    starts: I64
    _jobs: Sequence[Future[None]]

    def wait(self) -> None:
        """Wait until the bytes are there; after an error too, nothing is written into the buffer any more.

        Raises:
            FormatError: an image is damaged.
            StorageError: a medium fails.
        """
        errors = [job.exception() for job in self._jobs]
        for error in errors:
            if error is not None:
                raise error


class StoredStreams:
    """Reads every stored byte of an overlay once. A context manager.

    Args:
        overlay: the images; it stays open as long as this is used.
        limit_bytes: stored bytes of a batch at most, exceeded by less than one frame.
        ahead: batches that may be read and not handed back; a few more than there are threads by default.

    Raises:
        FormatError: a segment table is damaged.
        StorageError: an image cannot be read.
    """

    def __init__(self, overlay: Overlay, limit_bytes: int, *, ahead: int | None = None) -> None:
        self._overlay = overlay
        self._limit_bytes = limit_bytes
        self._ahead = ahead or _AHEAD
        self._streams = [_CheckedStream(layer) for layer in overlay.layers]
        self._lanes = _lanes([layer.frames_bytes for layer in overlay.layers], THREADS)
        self._buffers = BufferPool(self._ahead, limit_bytes + overlay.frame_bytes_max)
        # One thread for each lane, since the bytes of a stream are to be hashed in their order.
        self._pools = [ThreadPoolExecutor(1, "rollforward-stream") for _ in self._lanes]

    def batches(self) -> Generator[StoredBatch, None, None]:
        """Yield all frames in ascending order of blocks, read and valid until the next batch is taken; to be used once.

        Raises:
            FormatError: an image is damaged; its path is in the error.
            StorageError: a medium fails.
        """
        waiting: deque[StoredBatch] = deque()
        for window in self._overlay.windows():
            for batch in self.begin(window):
                waiting.append(batch)
                if len(waiting) == self._ahead:
                    yield from self._first_of(waiting)
        while waiting:
            yield from self._first_of(waiting)
        self.finish()

    def _first_of(self, waiting: deque[StoredBatch]) -> Generator[StoredBatch, None, None]:
        batch = waiting.popleft()
        batch.wait()
        yield batch
        self.release(batch)

    def begin(self, window: Window) -> Generator[StoredBatch, None, None]:
        """Have the frames of a window read, in batches; each waits until fewer than `ahead` are in use.

        Args:
            window: the frames that follow those of the window before, of all images; every one has its turn.

        Yields:
            Batches that are being read: to be waited for, and released.
        """
        for part in window.batches(self._limit_bytes):
            yield self._begin(part, self._buffers.take())

    def _begin(self, window: Window, buffer: Buffer) -> StoredBatch:
        """Have the frames of one batch read: those of an image lie together, in the order of its file."""
        order = np.argsort(window.layer, kind="stable")
        lengths = window.records["length"][order].astype(np.int64)
        ends = np.cumsum(lengths)
        starts = np.empty(len(order), np.int64)
        starts[order] = ends - lengths
        layers, firsts = np.unique(window.layer[order], return_index=True)
        self._refuse_gaps(window, order, firsts, lengths)
        stops = np.append(firsts[1:], len(order)) - 1
        pieces: dict[int, tuple[int, memoryview]] = {}
        for layer, first, stop in zip(layers.tolist(), firsts.tolist(), stops.tolist(), strict=True):
            offset = int(window.records["offset"][order[first]])
            pieces[layer] = (offset, buffer.data[int(ends[first] - lengths[first]) : int(ends[stop])])
        jobs = [
            pool.submit(self._read, {layer: pieces[layer] for layer in lane if layer in pieces})
            for pool, lane in zip(self._pools, self._lanes, strict=True)
        ]
        return StoredBatch(window, buffer, starts, jobs)

    def _refuse_gaps(self, window: Window, order: I64, firsts: I64, lengths: I64) -> None:
        """Make sure that each frame of a batch begins where the one before it in its file ends.

        An index is checked piece by piece, as it is read: where two pieces meet, only this tells.

        Raises:
            FormatError: one does not.
        """
        offsets = window.records["offset"][order].astype(np.int64)
        fits = offsets[1:] == offsets[:-1] + lengths[:-1]
        fits[firsts[1:] - 1] = True
        if not fits.all():
            at = int(np.argmin(fits))
            self._streams[int(window.layer[order[at]])].refuse_gap(int(offsets[at] + lengths[at]))

    def _read(self, pieces: dict[int, tuple[int, memoryview]]) -> None:
        for layer, (offset, piece) in pieces.items():
            self._streams[layer].read(offset, piece)

    def release(self, batch: StoredBatch) -> None:
        """Hand a batch back; its bytes are no longer valid."""
        self._buffers.give(batch.buffer)

    def finish(self) -> None:
        """Check what is left to check, when every batch was waited for: only now all bytes count as good.

        Raises:
            FormatError: an image is damaged.
        """
        for stream in self._streams:
            stream.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)


def _lanes(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Share streams out among lanes, the longest first, each to the lane that has least to do."""
    lanes: list[list[int]] = [[] for _ in range(min(count, len(sizes)))]
    loads = [0] * len(lanes)
    for at in sorted(range(len(sizes)), key=lambda at: (-sizes[at], at)):
        lane = loads.index(min(loads))
        lanes[lane].append(at)
        loads[lane] += sizes[at]
    return lanes


class _CheckedStream:
    """The stored stream of one image, read from its beginning and held against the digests of its segments."""

    def __init__(self, image: ImageReader) -> None:
        image.check_segment_table()
        self._image = image
        self._digests = SegmentDigests(self._compare)
        self._at = image.frames_offset
        self._segment = 0
        self._wanted: list[bytes] = []

    def read(self, offset: int, piece: memoryview) -> None:
        """Fill the piece with the bytes that come next, and check the segments that end in it.

        Raises:
            DigestMismatchError: a segment is damaged.
            FormatError: the piece does not begin where the one before it ended.
            StorageError: the medium fails.
        """
        if offset != self._at:
            self.refuse_gap(self._at)
        for first in range(0, len(piece), _READ_BYTES):
            part = piece[first : first + _READ_BYTES]
            self._image.file.read_into(offset + first, [part])
            self._digests.update(part)
        self._at += len(piece)

    def refuse_gap(self, offset: int) -> NoReturn:
        """Say that no frame begins where the one before it ends.

        Raises:
            FormatError: always.
        """
        path = str(self._image.path)
        raise FormatError("the index leaves a gap in the stored stream", path=path, offset=offset)

    def finish(self) -> None:
        """Check the last segment, and that the stream ends where it should.

        Raises:
            DigestMismatchError: the segment is damaged.
            FormatError: the index names fewer bytes than the stream has.
        """
        if self._at != self._image.index_offset:
            path = str(self._image.path)
            raise FormatError("the stored stream holds bytes that no frame owns", path=path, offset=self._at)
        self._digests.finish()

    def _compare(self, found: bytes) -> None:
        row = self._segment % _DIGESTS_AT_ONCE
        if row == 0:
            stop = min(self._segment + _DIGESTS_AT_ONCE, self._image.segment_count)
            self._wanted = self._image.segment_digests(self._segment, stop)
        if found != self._wanted[row]:
            raise DigestMismatchError(
                "stored data is damaged",
                path=str(self._image.path),
                offset=self._image.frames_offset + self._segment * layout.SEGMENT_BYTES,
                hint="Fetch a good copy of this file from a replica; `rollforward verify` tells which are bad.",
            )
        self._segment += 1
