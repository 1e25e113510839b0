"""A point in time as bytes that can be read anywhere, straight from its images."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import numpy.typing as npt

from hsr.restore import check_path
from hsr.serving.cache import AskedBefore, BlockCache
from hsr.serving.frames import STRETCH_BLOCKS, FrameIndex, Stretch
from policies.errors import DigestMismatchError, FormatError, RollforwardError
from storage.codec import lay_frame, load_kernels
from storage.digests import Buffer, frame_digest
from storage.frame_kernels import lay_frames, load_lay_frames
from storage.header import ImageHeader
from storage.native_zstd import decoding_library
from storage.overlay import Overlay
from storage.pipeline import THREADS, BufferPool
from storage.replay import BlockReader
from storage.seals import open_metadata
from storage.stored_file import StoredFile

if TYPE_CHECKING:
    from storage.keys import ChainKey

_CACHE_BYTES: Final = 64 << 20

_AT_ONCE_BLOCKS: Final = 4
"""A read of up to so many blocks may be answered without a thread."""

_SINGLY_BLOCKS: Final = 2
"""So many blocks are decoded sooner one by one than as a batch."""

_WARM_BYTES: Final = 1 << 20
_LOCKS: Final = 64
EXTENTS_MAX: Final = 1 << 13
"""Extents that are told at once."""

_STATUS_STRETCHES: Final = 256

U8 = npt.NDArray[np.uint8]


class PointReader:
    """A volume as it was at a point, read at random. A context manager; safe to share between threads.

    Every frame's digest is checked before it is decoded. The images stay open, so that they can be read even after
    they were removed from their folder.

    Args:
        path: images in the order of application, the first a base.
        cache_bytes: memory for decoded blocks; no more is taken than the volume has.
        key: the key of an encrypted chain; None of a plain one.

    Raises:
        ConfigurationError: there is not so much memory.
        PasswordError: the chain is encrypted, and there is no key.
        ChainError: the images do not lead to a point.
        FormatError: one is damaged.
        StorageError: one cannot be read.
    """

    def __init__(
        self, path: Sequence[Path], cache_bytes: int = _CACHE_BYTES, *, key: ChainKey | None = None
    ) -> None:
        self._overlay = Overlay(path)
        try:
            check_path(self._overlay)
            self._blocks = BlockReader(self._overlay, key)
            blocks_bytes = (
                -(-self._overlay.end_bytes // self._overlay.block_bytes) * self._overlay.block_bytes
            )
            self._cache = BlockCache(min(cache_bytes, blocks_bytes), self._overlay.block_bytes)
        except RollforwardError:
            self._overlay.close()
            raise
        self._key = key
        self.size_bytes = self._overlay.end_bytes
        self.block_bytes = self._overlay.block_bytes
        self._granule_bytes = self._overlay.granule_bytes
        self._index = FrameIndex(self._overlay)
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._asked = AskedBefore()
        self._local = threading.local()
        self._warming = BufferPool(THREADS, max(_WARM_BYTES, self.block_bytes))
        self._load_kernels()

    def _load_kernels(self) -> None:
        """Have ready whatever is loaded on its first use: later, there may be no file descriptor for it."""
        load_kernels(self._granule_bytes)
        library = decoding_library()
        if library is not None:
            load_lay_frames(library)
        firsts = [int(layer.pages["first_block"][0]) for layer in self._overlay.layers if len(layer.pages)]
        with contextlib.suppress(RollforwardError):  # whoever asks for this block is told
            self._decode_batch(min(firsts, default=0), np.empty((1, self.block_bytes), np.uint8))

    @property
    def header(self) -> ImageHeader:
        """Header of the image that leads to the point, its metadata decrypted.

        Raises:
            DigestMismatchError: the metadata are not what was captured.
        """
        layer = self._overlay.layers[-1]
        if self._key is None or not layer.header.encrypted:
            return layer.header
        return replace(layer.header, metadata=open_metadata(layer.header, self._key, str(layer.path)))

    @property
    def roots(self) -> tuple[bytes, ...]:
        """The roots of the images, base first: 32 bytes each."""
        return tuple(layer.root for layer in self._overlay.layers)

    def read_at_once(self, offset: int, size: int) -> bytes | None:
        """Read a few bytes, if no medium has to be waited for.

        Args:
            offset: where, in bytes.
            size: how many, within the volume.

        Returns:
            The bytes; None if that takes longer.

        Raises:
            FormatError: an image is damaged.
        """
        block, start = divmod(offset, self.block_bytes)
        if start + size <= self.block_bytes:
            return self._part_at_once(block, start, start + size)
        last, end = divmod(offset + size - 1, self.block_bytes)
        if last - block >= _AT_ONCE_BLOCKS:
            return None
        pieces = []
        for number in range(block, last + 1):
            stop = end + 1 if number == last else self.block_bytes
            piece = self._part_at_once(number, start, stop)
            if piece is None:
                return None
            pieces.append(piece)
            start = 0
        return b"".join(pieces)

    def _part_at_once(self, block: int, start: int, stop: int) -> bytes | None:
        kept = self._cache.get(block, start, stop)
        if kept is not None:
            return kept
        stretch = self._index.at_hand(block)
        if stretch is None:
            return None
        rows = self._worth(stretch, block, start, stop)
        if not rows:
            return bytes(stop - start)
        stored: list[Buffer] = []
        for row in rows:
            record = stretch.records[row]
            file = self._overlay.layers[stretch.layer[row]].file
            piece = file.read_cached(int(record["offset"]), int(record["length"]))
            if piece is None:
                return None
            stored.append(piece)
        if len(rows) < len(stretch.rows(block)):
            plain = self._room("block")
            plain[start:stop] = 0
            self._lay(stretch, rows, stored, plain)
            return plain[start:stop].tobytes()
        with self._cache.filling(block) as kept_plain:
            if kept_plain is None:
                return None
            self._lay_block(stretch, block, stored, kept_plain)
            return kept_plain[start:stop].tobytes()

    def _worth(self, stretch: Stretch, block: int, start: int, stop: int) -> range:
        """Choose which frames to decode for a part of a block: all of them, if the block is likely to be asked again.

        A block of one frame is kept whenever it is decoded; one of several while there is room that nobody uses, and
        then when it is asked for a second time.
        """
        rows = stretch.rows(block)
        if len(rows) < 2 or self._cache.has_room or self._asked.note(block):
            return rows
        first, end = start // self._granule_bytes, -(-stop // self._granule_bytes)
        wanted = (1 << end) - (1 << first)
        seen = [row for row in rows if stretch.needed(row) & wanted]
        return range(seen[0], seen[-1] + 1) if seen else range(0)

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill a buffer with what the volume holds.

        Args:
            offset: where, in bytes.
            out: writable; its length says how much. All of it lies within the volume.

        Raises:
            FormatError: an image is damaged.
            StorageError: one cannot be read.
        """
        at = 0
        while at < len(out):
            block, start = divmod(offset + at, self.block_bytes)
            whole = (len(out) - at) // self.block_bytes
            if start or not whole:
                stop = min(start + len(out) - at, self.block_bytes)
                self._fill_part(block, start, out[at : at + stop - start])
                at += stop - start
            else:
                self._fill(block, out[at : at + whole * self.block_bytes])
                at += whole * self.block_bytes

    def _fill(self, first_block: int, out: memoryview) -> None:
        """Fill whole blocks: what is read at such length is not needed again soon, and not kept."""
        rows = np.frombuffer(out, np.uint8).reshape(-1, self.block_bytes)
        missing = [
            row for row in range(len(rows)) if not self._cache.copy_into(first_block + row, 0, rows[row].data)
        ]
        for first, stop in _runs(missing):
            self._decode_run(first_block + first, rows[first:stop])

    def _fill_part(self, block: int, start: int, out: memoryview) -> None:
        if self._cache.copy_into(block, start, out):
            return
        with self._locks[block % _LOCKS]:  # who asks for the same block meanwhile waits for it
            if not self._cache.copy_into(block, start, out):
                out[:] = self._decoded(block)[start : start + len(out)].data

    def _decoded(self, block: int) -> U8:
        with self._cache.filling(block) as kept:
            plain = np.empty(self.block_bytes, np.uint8) if kept is None else kept
            self._decode(block, plain)
            return plain.copy()

    def warm(self, offset: int, size: int) -> None:
        """Decode blocks that will be asked for soon; raises as `read_into` does."""
        stop = -(-min(offset + size, self.size_bytes) // self.block_bytes)
        blocks = range(offset // self.block_bytes, stop)
        step = min(self._warming.size_bytes // self.block_bytes, _LOCKS)
        for first in range(0, len(blocks), step):
            self._warm(blocks[first : first + step])

    def _warm(self, blocks: range) -> None:
        buffer = self._warming.take()
        try:
            with contextlib.ExitStack() as stack:
                for number in sorted(
                    block % _LOCKS for block in blocks
                ):  # in one order: nobody waits in a ring
                    stack.enter_context(self._locks[number])
                missing = [block for block in blocks if block not in self._cache]
                for first, stop in _runs(missing):
                    rows = buffer[: (stop - first) * self.block_bytes].reshape(-1, self.block_bytes)
                    self._decode_run(first, rows)
                    for block, plain in zip(range(first, stop), rows, strict=True):
                        with self._cache.filling(block) as kept:
                            if kept is not None:
                                kept[:] = plain
        finally:
            self._warming.give(buffer)

    def _decode_run(self, first_block: int, plain: U8) -> None:
        """Decode blocks that follow each other, a row each: many of them in one go, without the interpreter."""
        if len(plain) > _SINGLY_BLOCKS:
            try:
                self._decode_batch(first_block, plain)
            except RollforwardError:  # block by block, the error says where it is
                pass
            else:
                return
        for block, row in enumerate(plain, first_block):
            self._decode(block, row)

    def _decode_batch(self, first_block: int, plain: U8) -> None:
        at = 0
        while at < len(plain):
            stretch = self._index.stretch(first_block + at)
            stop = min(len(plain), stretch.first_block + STRETCH_BLOCKS - first_block)
            rows = stretch.rows(first_block + at).start, stretch.rows(first_block + stop - 1).stop
            blocks = np.arange(first_block + at, first_block + stop)
            self._blocks.decode(stretch.window.part(*rows), blocks, plain[at:stop])
            at = stop

    def _decode(self, block: int, plain: U8) -> None:
        stretch = self._index.stretch(block)
        rows = stretch.rows(block)
        stored: list[Buffer] = []
        for row in rows:
            record = stretch.records[row]
            file: StoredFile = self._overlay.layers[stretch.layer[row]].file
            stored.append(file.read(int(record["offset"]), int(record["length"])))
        self._lay_block(stretch, block, stored, plain)

    def _lay_block(self, stretch: Stretch, block: int, stored: Sequence[Buffer], plain: U8) -> None:
        if not stretch.covers(block):
            plain[:] = 0
        self._lay(stretch, stretch.rows(block), stored, plain)

    def _lay(self, stretch: Stretch, rows: range, stored: Sequence[Buffer], plain: U8) -> None:
        """Check frames of a block, and lay what is seen of them into their places."""
        if self._lay_at_once(stretch, rows, stored, plain):
            return
        for row, piece in zip(rows, stored, strict=True):
            record = stretch.records[row]
            try:
                if frame_digest(piece) != record["digest"].tobytes():
                    raise DigestMismatchError(
                        f"the stored frame of block {int(record['block']):,} is damaged"
                    )
                packed = self._blocks.decryption.packed(record, memoryview(piece))
                lay_frame(record, stretch.need[row], packed, self._granule_bytes, plain)
            except FormatError as error:
                path, offset = self._overlay.layers[stretch.layer[row]].file.place(int(record["offset"]))
                raise type(error)(error.message, path=str(path), offset=offset) from None

    def _lay_at_once(self, stretch: Stretch, rows: range, stored: Sequence[Buffer], plain: U8) -> bool:
        """Do the same without the interpreter; False where that is not possible, or a frame is damaged."""
        library = decoding_library()
        if library is None or self._overlay.encrypted or not stored:
            return False
        frames = slice(rows.start, rows.stop)
        records = stretch.records[frames]
        if records["digest"].tobytes() != b"".join(map(frame_digest, stored)):
            return False
        lengths = np.fromiter(map(len, stored), np.int64, len(stored))
        bad = lay_frames(
            records,
            np.zeros(len(stored), np.int64),
            stretch.window.need_lo[frames],
            stretch.window.need_hi[frames],
            np.frombuffer(bytearray().join(stored), np.uint8),
            np.cumsum(lengths) - lengths,
            lengths,
            self._granule_bytes,
            plain.reshape(1, -1),
            self._room("scratch"),
            library,
        )
        return bad < 0

    def _room(self, name: str) -> U8:
        """Return a buffer of this thread, one block long, contents undefined."""
        room: U8 | None = getattr(self._local, name, None)
        if room is None:
            room = np.empty(self.block_bytes, np.uint8)
            setattr(self._local, name, room)
        return room

    def extents(self, offset: int, size: int) -> list[tuple[int, bool]]:
        """Say where the volume holds anything, block by block.

        Args:
            offset: where to begin, in bytes.
            size: how far to look, in bytes; at least 1, within the volume.

        Returns:
            (bytes, whether a frame holds any of them), one after the other, the first one from `offset` on, never
            two alike in a row; what is not held is zero. They may end before `offset + size`, not after it.

        Raises:
            FormatError: an index is damaged.
            StorageError: one cannot be read.
        """
        end = offset + size
        first, stop = offset // self.block_bytes, -(-end // self.block_bytes)
        stretches = range(
            first // STRETCH_BLOCKS,
            min(-(-stop // STRETCH_BLOCKS), first // STRETCH_BLOCKS + _STATUS_STRETCHES),
        )
        filled = np.concatenate([self._index.stretch(number * STRETCH_BLOCKS).filled for number in stretches])
        start = stretches[0] * STRETCH_BLOCKS
        filled = filled[first - start : stop - start]
        edges = (np.flatnonzero(filled[1:] != filled[:-1]) + 1)[: EXTENTS_MAX - 1].tolist()
        if len(edges) == EXTENTS_MAX - 1:
            filled = filled[: edges[-1] + 1]
        borders = [offset]
        borders += [(first + edge) * self.block_bytes for edge in edges]
        borders.append(min((first + len(filled)) * self.block_bytes, end))
        return [
            (after - before, bool(filled[edge]))
            for before, after, edge in zip(borders, borders[1:], [0, *edges], strict=False)
        ]

    def close(self) -> None:
        """Close all images."""
        self._overlay.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, stop) of numbers that follow each other, given in ascending order."""
    first = stop = -1
    for number in numbers:
        if number != stop:
            if first >= 0:
                yield first, stop
            first = number
        stop = number + 1
    if first >= 0:
        yield first, stop
