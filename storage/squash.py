"""Squashing: blocks whose partly covered frames cost too much are decoded, and coded anew as one frame.

That frame holds what is seen of the block, no granule more or less, as it is at the image's end: its origin is the
newest covered point. So the image leads where it led, and may be applied wherever it could be. All other blocks are
copied as they are stored. Unlike a consolidation, the result depends on the codec, and in an encrypted chain on
chance: it is for images that no other place builds again.

In an encrypted image, all frames of the newest point are encrypted anew under a capture id of their own, and the point
is sealed anew. Frames of older points that were folded in leave traces, as in a consolidation, so that the seals of
their points still fit: see docs/decisions/0024-squash.md for why nothing less would do.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from policies.errors import FormatError
from storage import kernels, layout
from storage.amplification import RECOMMENDED_LIMITS, Amplification, SquashLimits, block_costs, survey
from storage.codec import encode_frame, lay_frame
from storage.decryption import decryption_of
from storage.digests import EMPTY_FRAME_DIGEST, frame_digest
from storage.header import ImageHeader
from storage.image import Records, join_records
from storage.overlay import Overlay, Window
from storage.parts import stored_bytes_of
from storage.pipeline import THREADS, Buffer, BufferPool, Progress, no_progress, ordered_map
from storage.squash_check import check_squashed
from storage.verify import verify_image
from storage.writer import ImageWriter, Published

if TYPE_CHECKING:
    from storage.keys import ChainKey, FrameCipher

_STRIPE_BYTES: Final = 4 << 20
_LOAD_BYTES: Final = 4 << 20
_AHEAD: Final = THREADS + 1
_PAST_CACHE_BYTES: Final = 32 << 20
_PHASES: Final = 3

_TRACE: Final = np.uint32(layout.FRAME_TRACE)


@dataclass(frozen=True, slots=True)
class Squashed:
    """What squashing came to.

    Attributes:
        published: the new image; None if no block was above the limits, so that there was nothing to do.
        before: what partly covered frames cost the source.
        after: what they cost the result; the same as `before` if nothing was done.
        before_bytes: size of the source.
    """

    published: Published | None
    before: Amplification
    after: Amplification
    before_bytes: int


def squash(
    source: Path,
    target: Path,
    *,
    key: ChainKey | None = None,
    limits: SquashLimits = RECOMMENDED_LIMITS,
    part_bytes: int | None = None,
    progress: Progress = no_progress,
) -> Squashed:
    """Code the blocks of an image anew that cost more than the limits allow; prove the result.

    Args:
        source: the image; it is not touched.
        target: final path of the result, in an existing folder.
        key: the key of an encrypted chain; None of a plain one.
        limits: what a block may cost.
        part_bytes: size of the parts that the result is cut into; None for one file.
        progress: told how far it is, in bytes: verifying, coding, reading back, a third each.

    Returns:
        The new image, read back and found to show just what the source shows, or that there was nothing to do.

    Raises:
        FormatError: the source is damaged, or the result is not what it should be; its path is in the error.
        PasswordError: the chain is encrypted, and there is no key.
        BusyError: the target exists.
        StorageError: a medium refuses.

    Crash: nothing under the final name, or the whole result, not yet read back. The source is never touched.
    """
    before = survey(source, limits)
    if before.blocks_above == 0:
        return Squashed(None, before, before, stored_bytes_of(source))
    verified = verify_image(source, from_medium=False, progress=_phase(progress, 0))
    if verified.status != "good":
        raise FormatError(
            f"is not good: {verified.reason}", path=str(source), hint="Fetch a good copy from a replica."
        )
    with Overlay([source]) as overlay:
        work = _Work(overlay, key, limits)
        past_cache = overlay.frames_bytes >= _PAST_CACHE_BYTES
        with ImageWriter(target, work.header, past_cache=past_cache, part_bytes=part_bytes) as writer:
            _write(work, writer, _phase(progress, 1))
            published = writer.finish(work.seals())
    check_squashed(source, target, limits, key, _phase(progress, 2))
    return Squashed(published, before, survey(target, limits), verified.stored_bytes)


def _phase(progress: Progress, phase: int) -> Progress:
    """Have one of the three phases reported as a third of the whole."""

    def report(done_bytes: int, total_bytes: int) -> None:
        progress(phase * total_bytes + done_bytes, _PHASES * total_bytes)

    return report


def _write(work: _Work, writer: ImageWriter, progress: Progress) -> None:
    done = 0
    with closing(work.stripes()) as stripes:
        for stripe in stripes:
            work.take_in(stripe.records)
            writer.append(stripe.records, stripe.buffer.data[: stripe.size_bytes])
            work.give_back(stripe)
            done += stripe.read_bytes
            progress(done, work.overlay.frames_bytes)


@dataclass(frozen=True, slots=True)
class _Stripe:
    """Frames of some blocks of the result: their records, and a buffer with `size_bytes` of stored bytes."""

    records: Records
    buffer: Buffer
    size_bytes: int
    read_bytes: int


class _Work:
    """One image that is being squashed.

    Args:
        overlay: the image alone.
        key: the key of an encrypted chain.
        limits: what a block may cost.

    Attributes:
        header: header of the result.
    """

    def __init__(self, overlay: Overlay, key: ChainKey | None, limits: SquashLimits) -> None:
        self.overlay = overlay
        self._image = overlay.layers[0]
        self._key = key
        self._limits = limits
        self._decryption = decryption_of(overlay, key)
        self.header = _header(self._image.header, key, str(self._image.path))
        self._end = len(self.header.covers) - 1
        self._cipher: FrameCipher | None = key.frame_cipher(self.header.capture_ids[-1]) if key else None
        self._sealed = blake3()
        self._blocks_at_once = max(_STRIPE_BYTES // overlay.block_bytes, 1)
        block_room = int(limits.factor * layout.GRANULES_PER_BLOCK + 1) * (
            overlay.granule_bytes + layout.FRAME_TAG_BYTES
        )
        self._results = BufferPool(_AHEAD + 1, self._blocks_at_once * block_room)
        self._stored = BufferPool(_AHEAD + 1, _LOAD_BYTES + overlay.frame_bytes_max)
        self._plain = BufferPool(_AHEAD + 1, 2 * overlay.block_bytes)

    def stripes(self) -> Generator[_Stripe, None, None]:
        """Yield the whole result in order; each stripe is to be given back."""
        parts = (part for window in self._windows() for part in window.stripes(self._blocks_at_once))
        with closing(ordered_map(self._code, parts, ahead=_AHEAD)) as results:
            yield from results

    def _windows(self) -> Iterator[Window]:
        for window in self.overlay.windows(align_blocks=self._blocks_at_once):
            self.overlay.refuse_seen_traces(window)
            yield window

    def give_back(self, stripe: _Stripe) -> None:
        """Hand the buffer of a stripe back."""
        self._results.give(stripe.buffer)

    def take_in(self, records: Records) -> None:
        """Take in records of the result, in order, for the seal of its newest point."""
        if self._key is not None:
            from storage.seals import sealed_rows

            self._sealed.update(sealed_rows(records[records["origin"] == self._end]))

    def seals(self) -> bytes:
        """Return the seals of the result's points: those of the source, but for the newest."""
        if self._key is None:
            return b""
        from storage.seals import seal_of

        older = self._image.read_seals()[:-1]
        return b"".join((*older, seal_of(self._key, self.header, self._end, self._sealed.digest())))

    def _code(self, window: Window) -> _Stripe:
        """Make the frames of some blocks; runs in a worker thread."""
        costs = block_costs(window)
        above = costs.above(self._limits)
        buffer = self._results.take()
        made: list[Records] = []
        at = 0
        try:
            for first, stop, is_above in _runs(costs.starts, len(window), above):
                part = window.part(first, stop)
                code = self._rewritten if is_above else self._copied
                records = code(part, buffer.data[at:])
                made.append(records)
                at += int(records["length"].sum(dtype=np.int64))
        except BaseException:
            self._results.give(buffer)
            raise
        return _Stripe(join_records(made), buffer, at, int(window.records["length"].sum(dtype=np.int64)))

    def _copied(self, part: Window, room: memoryview) -> Records:
        """Read frames to where they go; in an encrypted chain, those of the newest point are encrypted anew."""
        size = int(part.records["length"].sum(dtype=np.int64))
        pieces = self.overlay.load(part, np.arange(len(part)), room[:size])
        records = part.records.copy()
        if self._cipher is None:
            return records
        for row in np.flatnonzero((records["origin"] == self._end) & (records["length"] != 0)).tolist():
            coded = self._decryption.packed(part.records[row], pieces[row])
            pieces[row][:] = self._cipher.encrypt(records[row], coded)
            records["digest"][row] = np.frombuffer(frame_digest(pieces[row]), np.uint8)
        return records

    def _rewritten(self, part: Window, room: memoryview) -> Records:
        """Decode what is seen of one block, and code it as one frame; what it was made of leaves traces or nothing."""
        made = np.zeros(1, layout.RECORD)
        made["block"], made["origin"] = part.records["block"][0], self._end
        made["mask_lo"] = np.bitwise_or.reduce(part.need_lo)
        made["mask_hi"] = np.bitwise_or.reduce(part.need_hi)
        if not (made["mask_lo"][0] | made["mask_hi"][0]):
            made = made[:0]
        else:
            self._encode(made, part, room)
        if self._key is None:
            return made
        traces = part.records[part.records["origin"] != self._end]
        traces["flags"] |= _TRACE
        traces["length"] = 0
        return join_records([made, traces])

    def _encode(self, made: Records, part: Window, room: memoryview) -> None:
        """Fill in flags, length and digest of a record, and write its stored bytes."""
        buffer = self._plain.take()
        try:
            plain, packed = np.split(buffer, 2)
            self._decode(part, plain)
            size = kernels.gather_granules(
                plain, made["mask_lo"][0], made["mask_hi"][0], self.overlay.granule_bytes, packed
            )
            if not packed[:size].any():
                made["digest"][0] = np.frombuffer(EMPTY_FRAME_DIGEST, np.uint8)
                return
            made["flags"], stored = encode_frame(packed.data[:size])
        finally:
            self._plain.give(buffer)
        if self._cipher is not None:
            stored = self._cipher.encrypt(made[0], stored)
        made["length"] = len(stored)
        made["digest"][0] = np.frombuffer(frame_digest(stored), np.uint8)
        room[: len(stored)] = stored

    def _decode(self, part: Window, plain: Buffer) -> None:
        stored = self._stored.take()
        try:
            for batch in part.batches(_LOAD_BYTES):
                pieces = self.overlay.load(batch, np.arange(len(batch)), stored.data)
                for row in np.flatnonzero(batch.seen).tolist():
                    self._lay(batch, row, pieces[row], plain)
        finally:
            self._stored.give(stored)

    def _lay(self, batch: Window, row: int, piece: memoryview, plain: Buffer) -> None:
        record = batch.records[row]
        try:
            coded = self._decryption.packed(record, piece)
            need = (batch.need_lo[row], batch.need_hi[row])
            lay_frame(record, need, coded, self.overlay.granule_bytes, plain)
        except FormatError as error:
            path = str(self._image.path)
            raise type(error)(error.message, path=path, offset=int(record["offset"])) from None


def _header(header: ImageHeader, key: ChainKey | None, path: str) -> ImageHeader:
    """Return the header of the result: that of the source, in an encrypted chain with a capture id of its own."""
    if key is None:
        return header
    from storage.seals import open_metadata, seal_metadata

    fresh = secrets.token_bytes(layout.ID_BYTES)
    opened = replace(
        header,
        capture_ids=(*header.capture_ids[:-1], fresh),
        metadata=open_metadata(header, key, path),
    )
    return seal_metadata(opened, key)


def _runs(
    starts: npt.NDArray[np.int64], rows: int, above: npt.NDArray[np.bool_]
) -> Iterator[tuple[int, int, bool]]:
    """Yield (first, stop, above) rows: each block above the limits by itself, the others between them together."""
    breaks = np.append(True, above[1:] | above[:-1])
    for first, stop in pairwise([*np.flatnonzero(breaks).tolist(), len(starts)]):
        end = int(starts[stop]) if stop < len(starts) else rows
        yield int(starts[first]), end, bool(above[first])
