"""Decoding an overlay: the plain blocks that its newest layer ends at."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import numpy.typing as npt

from policies.errors import FormatError
from storage.codec import lay_frame
from storage.decryption import decryption_of
from storage.overlay import Overlay, Window
from storage.pipeline import THREADS, BufferPool, ordered_map

if TYPE_CHECKING:
    from storage.keys import ChainKey

_STRIPE_BYTES: Final = 8 << 20
_LOAD_BYTES: Final = 4 << 20
_THREADS: Final = THREADS + 1
"""One more than there are cores, since one mostly waits for a medium."""

_AHEAD: Final = 2 * _THREADS

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Stripe:
    """Decoded blocks of one stretch of a volume.

    Attributes:
        blocks: int64, ascending: the blocks that some frame touches. All others are zero.
        plain: uint8, shape (blocks, block bytes); valid only while the stripe is being worked on.
        stored_bytes: stored bytes of the frames that were read for it.
    """

    blocks: I64
    plain: U8
    stored_bytes: int


class BlockReader:
    """Decodes blocks of an overlay in threads, with reused buffers.

    Args:
        overlay: the images, laid one over the other.
        key: the key of an encrypted chain; None of a plain one.

    Raises:
        PasswordError: the chain is encrypted, and there is no key.
        FormatError: an image is not encrypted as its chain is, or says something else than was captured.
    """

    def __init__(self, overlay: Overlay, key: ChainKey | None = None) -> None:
        self._overlay = overlay
        self._decryption = decryption_of(overlay, key)
        self._blocks_at_once = max(_STRIPE_BYTES // overlay.block_bytes, 1)
        self._plain = BufferPool(_AHEAD, self._blocks_at_once * overlay.block_bytes)
        self._stored = BufferPool(_AHEAD, _LOAD_BYTES + overlay.frame_bytes_max)

    def map_stripes(self, work: Callable[[Stripe], Result]) -> Generator[Result, None, None]:
        """Decode the whole overlay, stripe by stripe.

        Args:
            work: called in a worker thread with each stripe; stripes without frames are passed over.

        Yields:
            What `work` returned, in order of the volume.

        Raises:
            FormatError: an image is damaged.
            StorageError: one cannot be read.
        """

        def decode(window: Window) -> Result:
            buffer = self._plain.take()
            try:
                blocks = np.unique(window.records["block"]).astype(np.int64)
                plain = buffer[: len(blocks) * self._overlay.block_bytes].reshape(len(blocks), -1)
                self._decode(window, blocks, plain)
                return work(Stripe(blocks, plain, int(window.records["length"].sum(dtype=np.int64))))
            finally:
                self._plain.give(buffer)

        with closing(ordered_map(decode, self._stripes(), threads=_THREADS, ahead=_AHEAD)) as results:
            yield from results

    def _stripes(self) -> Iterator[Window]:
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
        plain[~np.isin(blocks, frames.records["block"])] = 0
        self._decode(frames, blocks, plain)

    def _decode(self, window: Window, blocks: I64, plain: U8) -> None:
        """Lay a window's frames, which hold whole blocks, into their rows of `plain`."""
        rows = np.searchsorted(blocks, window.records["block"])
        full = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
        whole = (window.need_lo == full) & (window.need_hi == full)
        plain[np.setdiff1d(rows, rows[whole])] = 0
        buffer = self._stored.take()
        try:
            at = 0
            for batch in window.batches(_LOAD_BYTES):
                pieces = self._overlay.load(batch, np.arange(len(batch)), buffer.data)
                self._lay(batch, rows[at : at + len(batch)], pieces, plain)
                at += len(batch)
        finally:
            self._stored.give(buffer)

    def _lay(self, batch: Window, rows: I64, pieces: list[memoryview], plain: U8) -> None:
        self._overlay.refuse_seen_traces(batch)
        for at in np.flatnonzero(batch.seen).tolist():
            record = batch.records[at]
            try:
                lay_frame(
                    record,
                    (batch.need_lo[at], batch.need_hi[at]),
                    self._decryption.packed(record, pieces[at]),
                    self._overlay.granule_bytes,
                    plain[rows[at]],
                )
            except FormatError as error:
                path = self._overlay.layers[int(batch.layer[at])].path
                raise type(error)(error.message, path=str(path), offset=int(record["offset"])) from None
