"""A point in time as bytes that can be read anywhere, straight from its images."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import numpy.typing as npt

from hsr.restore import check_path
from hsr.serving.cache import BlockCache
from hsr.serving.frames import STRETCH_BLOCKS, FrameIndex, Stretch
from policies.errors import DigestMismatchError, FormatError, RollforwardError
from storage.codec import lay_frame, load_kernels
from storage.decryption import decryption_of
from storage.digests import Buffer, frame_digest
from storage.overlay import Overlay
from storage.pipeline import THREADS, BufferPool
from storage.stored_file import StoredFile

if TYPE_CHECKING:
    from storage.keys import ChainKey

_CACHE_BYTES: Final = 64 << 20

_AT_ONCE_BLOCKS: Final = 4
"""A read of up to so many blocks may be answered without a thread."""

_LOAD_BYTES: Final = 2 << 20
"""Stored bytes that are read and checked together, at least one frame."""

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
            self._decryption = decryption_of(self._overlay, key)
            blocks_bytes = (
                -(-self._overlay.end_bytes // self._overlay.block_bytes) * self._overlay.block_bytes
            )
            self._cache = BlockCache(min(cache_bytes, blocks_bytes), self._overlay.block_bytes)
        except RollforwardError:
            self._overlay.close()
            raise
        self.size_bytes = self._overlay.end_bytes
        self.block_bytes = self._overlay.block_bytes
        self._granule_bytes = self._overlay.granule_bytes
        self._index = FrameIndex(self._overlay)
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        load_kernels(self._granule_bytes)
        with contextlib.suppress(RollforwardError):  # whoever asks for these blocks is told
            self._index.stretch(0)
        self._stored = BufferPool(THREADS + 1, _LOAD_BYTES + self._overlay.frame_bytes_max)

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
        rows = stretch.rows(block)
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
        with self._cache.filling(block) as plain:
            if plain is None:
                return None
            self._lay(stretch, block, stored, plain)
            return plain[start:stop].tobytes()

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
        missing = {
            first_block + row: plain
            for row, plain in enumerate(rows)
            if not self._cache.copy_into(first_block + row, 0, plain.data)
        }
        if missing:
            self._decode_all(missing)

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
        for first in range(0, len(blocks), _LOCKS):
            self._warm(blocks[first : first + _LOCKS])

    def _warm(self, blocks: range) -> None:
        with contextlib.ExitStack() as stack:
            for number in sorted(
                block % _LOCKS for block in blocks
            ):  # in one order, so that nobody waits in a ring
                stack.enter_context(self._locks[number])
            missing = {
                block: plain
                for block in blocks
                if block not in self._cache
                and (plain := stack.enter_context(self._cache.filling(block))) is not None
            }
            if missing:
                self._decode_all(missing)

    def _decode_all(self, blocks: Mapping[int, U8]) -> None:
        """Decode several blocks, given in ascending order: frames that lie side by side are read in one go."""
        try:
            for part in self._loads(blocks):
                self._decode_batch(part, blocks)
        except RollforwardError:  # block by block, the error tells which of them it is
            for block, plain in blocks.items():
                self._decode(block, plain)

    def _loads(self, blocks: Iterable[int]) -> Iterator[list[int]]:
        """Cut blocks into lists of one stretch each, and of some _LOAD_BYTES stored bytes."""
        part: list[int] = []
        stored_bytes = 0
        for block in blocks:
            stretch = self._index.stretch(block)
            rows = stretch.rows(block)
            size = int(stretch.records["length"][rows.start : rows.stop].sum(dtype=np.int64))
            is_next = part and part[0] // STRETCH_BLOCKS != block // STRETCH_BLOCKS
            if part and (is_next or stored_bytes + size > _LOAD_BYTES):
                yield part
                part, stored_bytes = [], 0
            part.append(block)
            stored_bytes += size
        if part:
            yield part

    def _decode_batch(self, blocks: Sequence[int], plain: Mapping[int, U8]) -> None:
        stretch = self._index.stretch(blocks[0])
        rows = np.array([row for block in blocks for row in stretch.rows(block)], np.int64)
        if int(stretch.records["length"][rows].sum(dtype=np.int64)) > self._stored.size_bytes:
            self._decode(
                blocks[0], plain[blocks[0]]
            )  # frames that hide each other in part: more than a block's worth
            return
        buffer = self._stored.take()
        try:
            pieces = self._overlay.load(stretch.window, rows, buffer.data)
            at = 0
            for block in blocks:
                count = len(stretch.rows(block))
                self._lay(stretch, block, pieces[at : at + count], plain[block], checked=True)
                at += count
        finally:
            self._stored.give(buffer)

    def _decode(self, block: int, plain: U8) -> None:
        stretch = self._index.stretch(block)
        rows = stretch.rows(block)
        stored: list[Buffer] = []
        for row in rows:
            record = stretch.records[row]
            file: StoredFile = self._overlay.layers[stretch.layer[row]].file
            stored.append(file.read(int(record["offset"]), int(record["length"])))
        self._lay(stretch, block, stored, plain)

    def _lay(
        self, stretch: Stretch, block: int, stored: Sequence[Buffer], plain: U8, *, checked: bool = False
    ) -> None:
        if not stretch.covers(block):
            plain[:] = 0
        for row, piece in zip(stretch.rows(block), stored, strict=True):
            record = stretch.records[row]
            try:
                if not checked and frame_digest(piece) != record["digest"].tobytes():
                    raise DigestMismatchError(
                        f"the stored frame of block {int(record['block']):,} is damaged"
                    )
                packed = self._decryption.packed(record, memoryview(piece))
                lay_frame(record, stretch.need[row], packed, self._granule_bytes, plain)
            except FormatError as error:
                path, offset = self._overlay.layers[stretch.layer[row]].file.place(int(record["offset"]))
                raise type(error)(error.message, path=str(path), offset=offset) from None

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
