"""Capture: a volume's present state becomes an image, whole the first time, then only the granules that changed.

The volume is read once. Each block is fingerprinted; a block whose fingerprint is the one of the last captured
state is unchanged. The others are compared, granule by granule, with what the chain holds, so that an image has
just what differs from the point that it leads from.
"""

from __future__ import annotations

import platform
import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from policies.errors import MissingPointError, SourceError
from policies.names import check_volume_name, image_name
from policies.points import Point, PointId
from policies.reach import reachable, shortest_path
from storage import kernels, layout
from storage.codec import encode_frame
from storage.digests import EMPTY_FRAME_DIGEST, Buffer, frame_digest
from storage.fingerprints import (
    Fingerprints,
    StateKey,
    fingerprints_path,
    load_fingerprints,
    save_fingerprints,
)
from storage.folder import chains, scan_folder
from storage.header import ImageHeader
from storage.image import Records
from storage.overlay import Overlay
from storage.pipeline import THREADS, BufferPool, Progress, no_progress, ordered_map
from storage.publish import folder_lock
from storage.replay import BlockReader, Stripe
from storage.source import VolumeSource
from storage.writer import ImageWriter, Published

_BATCH_BYTES: Final = 4 << 20
_AHEAD: Final = 2 * THREADS

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Chain:
    """What a capture goes on from.

    Attributes:
        base: number of the base in names.
        number: number of the point to be captured.
        parent: header of the image that leads to the parent point; None when a base is to be written.
        path: images that lead to the parent point, base first; empty likewise.
    """

    base: int
    number: int
    parent: ImageHeader | None
    path: tuple[Path, ...]


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
class _Frames:
    """Coded frames of some blocks: records without offsets, and the stored bytes."""

    records: Records
    stored: bytes


def capture(
    source: Path,
    folder: Path,
    volume: str,
    *,
    now: datetime,
    new_base: bool = False,
    progress: Progress = no_progress,
) -> Published:
    """Capture the present state of a volume into a folder.

    The first image of a volume is a base; later ones hold what differs from the newest point that the folder's
    images lead to.

    Args:
        source: raw file or block device, not mounted read-write.
        folder: managed folder, which must exist.
        volume: name of the volume, the first part of its images' names.
        now: the time of the point, UTC; never earlier than the parent's.
        new_base: begin a new chain.
        progress: told how many bytes of the source were read.

    Returns:
        The new image.

    Raises:
        ConfigurationError: the name of the volume is impossible.
        SourceError: the source is in use, or fails.
        MissingPointError: the chain leads nowhere, since its base is missing or bad.
        FormatError: an image that is needed for the comparison is damaged.
        BusyError: the volume is being captured already.
        StorageError: the folder's medium refuses.

    Crash: nothing under a final name; fingerprints that are older than the chain are made anew next time.
    """
    check_volume_name(volume)
    with folder_lock(folder, f"{volume}.capture", f"a capture of {volume!r}"), VolumeSource(source) as opened:
        chain = _chain_to_extend(folder, volume, new_base)
        header = _header(chain, volume, opened, now)
        name = image_name(volume, chain.base, chain.number or None).filename()
        with ImageWriter(folder / name, header) as writer:
            prints = _write_changes(chain, header, opened, folder, volume, writer, progress)
            published = writer.finish()
        save_fingerprints(fingerprints_path(folder, volume, chain.base), _state_key(header), prints)
        return published


def _chain_to_extend(folder: Path, volume: str, new_base: bool) -> _Chain:
    found = chains(scan_folder(folder, volume))
    bases = [base for _, base in found]
    if not bases:
        return _Chain(1, 0, None, ())
    if new_base:
        return _Chain(max(bases) + 1, 0, None, ())
    base = max(bases)
    images = found[volume, base]
    number = 1 + max(image.name.number or 0 for image in images)
    usable = {image.path.name: image for image in images if image.usable}
    spans = [image.span() for image in usable.values()]
    points = {point.id: point for span in spans for point in span.covers}
    reached = [points[point_id] for point_id in reachable(spans)]
    if not reached:
        raise MissingPointError(
            f"the chain b{base:03d} of {volume!r} has no good base image to go on from",
            path=str(folder),
            hint="Bring back the missing image, or begin a new chain with --new-base.",
        )
    newest = max(reached, key=lambda point: (point.number, point.time, point.id))
    path = shortest_path(spans, newest.id) or ()
    parent = usable[path[-1].name].header
    number = max(number, newest.number + 1)
    return _Chain(base, number, parent, tuple(usable[span.name].path for span in path))


def _header(chain: _Chain, volume: str, source: VolumeSource, now: datetime) -> ImageHeader:
    parent = chain.parent
    granule_bytes = parent.granule_bytes if parent else layout.geometry_for(source.size_bytes)
    if source.size_bytes > layout.MAX_BLOCKS * granule_bytes * layout.GRANULES_PER_BLOCK:
        raise SourceError(f"is too large for granules of {granule_bytes} bytes", path=str(source.path))
    time = now.astimezone(UTC)
    if parent is not None:
        time = max(time, parent.end.time)
    return ImageHeader(
        chain_id=parent.chain_id if parent else secrets.token_bytes(layout.ID_BYTES),
        granule_bytes=granule_bytes,
        start=parent.end if parent else None,
        covers=(Point(PointId(secrets.token_bytes(layout.ID_BYTES)), chain.number, time, source.size_bytes),),
        capture_ids=(secrets.token_bytes(layout.ID_BYTES),),
        metadata={
            "volume": volume,
            "computer": platform.node(),
            "source": str(source.path),
            "sector_bytes": 512,
        },
    )


def _state_key(header: ImageHeader) -> StateKey:
    return StateKey(header.chain_id, header.end.id, header.granule_bytes, header.end.volume_bytes)


def _write_changes(
    chain: _Chain,
    header: ImageHeader,
    source: VolumeSource,
    folder: Path,
    volume: str,
    writer: ImageWriter,
    progress: Progress,
) -> Fingerprints:
    """Scan the source, write what changed, return the fingerprints of the new state."""
    scan = _Scan(source, header.block_bytes, progress)
    if chain.parent is None:
        for frames in scan.whole(header):
            writer.append(frames.records, frames.stored)
        return scan.prints
    with Overlay(chain.path) as overlay:
        before = load_fingerprints(fingerprints_path(folder, volume, chain.base), _state_key(chain.parent))
        if before is None:
            before = fingerprints_of(overlay)
        for frames in scan.difference(header, overlay, before):
            writer.append(frames.records, frames.stored)
    return scan.prints


class _Scan:
    """One pass over the source."""

    def __init__(self, source: VolumeSource, block_bytes: int, progress: Progress) -> None:
        self._source = source
        self._block_bytes = block_bytes
        self._progress = progress
        self._blocks = -(-source.size_bytes // block_bytes)
        self._blocks_at_once = max(_BATCH_BYTES // block_bytes, 1)
        self._buffers = BufferPool(_AHEAD, self._blocks_at_once * block_bytes)
        self.prints: Fingerprints = np.zeros((self._blocks, layout.FRAME_DIGEST_BYTES), np.uint8)

    def whole(self, header: ImageHeader) -> Iterator[_Frames]:
        """Yield everything but zeros, as frames of origin 0."""

        def encode(first: int) -> tuple[_Frames, _Batch]:
            batch = self._read(first, None)
            plain = batch.plain[batch.changed]
            lo, hi = _nonzero(plain, header.granule_bytes)
            frames = _encode(batch.first_block + batch.changed, plain, lo, hi, lo, hi, header.granule_bytes)
            return frames, batch

        with closing(ordered_map(encode, self._stored_batches(), ahead=_AHEAD)) as results:
            for frames, batch in results:
                self._take(batch)
                yield frames

    def difference(self, header: ImageHeader, overlay: Overlay, before: Fingerprints) -> Iterator[_Frames]:
        """Yield the granules that differ from the overlay's end, as frames of origin 0."""
        reader = BlockReader(overlay)
        for blocks, plain in self._changed(before):
            old = reader.read(blocks)
            lo, hi = _masks(len(blocks))
            words = header.granule_bytes // 8
            kernels.changed_masks(plain.view(np.uint64), old.view(np.uint64), words, lo, hi)
            _limit(lo, hi, blocks, header)
            rows = np.flatnonzero((lo | hi) != 0)
            if len(rows):
                blocks, plain, lo, hi = blocks[rows], plain[rows], lo[rows], hi[rows]
                filled_lo, filled_hi = _nonzero(plain, header.granule_bytes)
                yield from _encode_in_threads(
                    blocks, plain, lo, hi, filled_lo, filled_hi, header.granule_bytes
                )

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
                self._take(batch)
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
        buffer = self._buffers.take()
        self._source.read_into(first * self._block_bytes, buffer.data[:size])
        plain = buffer[: blocks * self._block_bytes]
        plain[size:] = 0
        plain = plain.reshape(blocks, self._block_bytes)
        filled = kernels.filled_blocks(plain.view(np.uint64))
        prints = np.zeros((blocks, layout.FRAME_DIGEST_BYTES), np.uint8)
        digests = [frame_digest(plain[row].data) for row in np.flatnonzero(filled).tolist()]
        prints[filled] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, layout.FRAME_DIGEST_BYTES)
        if before is None:
            return _Batch(first, plain, prints, np.flatnonzero(filled), buffer)
        known = np.zeros_like(prints)
        overlap = before[first : first + blocks]
        known[: len(overlap)] = overlap
        return _Batch(first, plain, prints, np.flatnonzero((prints != known).any(axis=1)), buffer)

    def _take(self, batch: _Batch) -> None:
        self.prints[batch.first_block : batch.first_block + len(batch.prints)] = batch.prints
        self._buffers.give(batch.buffer)
        done = (batch.first_block + len(batch.prints)) * self._block_bytes
        self._progress(min(done, self._source.size_bytes), self._source.size_bytes)


def _masks(count: int) -> tuple[U64, U64]:
    return np.empty(count, np.uint64), np.empty(count, np.uint64)


def _nonzero(plain: U8, granule_bytes: int) -> tuple[U64, U64]:
    lo, hi = _masks(len(plain))
    kernels.nonzero_masks(plain.view(np.uint64), granule_bytes // 8, lo, hi)
    return lo, hi


def _limit(lo: U64, hi: U64, blocks: I64, header: ImageHeader) -> None:
    """Take away the granules that lie beyond the volume's end."""
    last = header.end.volume_bytes // header.block_bytes
    for row in np.flatnonzero(blocks >= last).tolist():
        granules = int(kernels.granules_before(header.end.volume_bytes, blocks[row], header.granule_bytes))
        lo[row] &= kernels.low_bits(granules)
        hi[row] &= kernels.low_bits(granules - 64)


def _encode_in_threads(
    blocks: I64, plain: U8, lo: U64, hi: U64, filled_lo: U64, filled_hi: U64, granule_bytes: int
) -> Iterator[_Frames]:
    def encode(rows: slice) -> _Frames:
        return _encode(
            blocks[rows], plain[rows], lo[rows], hi[rows], filled_lo[rows], filled_hi[rows], granule_bytes
        )

    step = -(-len(blocks) // THREADS)
    with closing(
        ordered_map(encode, (slice(at, at + step) for at in range(0, len(blocks), step)))
    ) as results:
        yield from results


def _encode(
    blocks: I64, plain: U8, lo: U64, hi: U64, filled_lo: U64, filled_hi: U64, granule_bytes: int
) -> _Frames:
    """Code blocks as frames that hold the granules of `lo`, `hi`; those of `filled` are not all zero."""
    records = np.zeros(len(blocks), layout.RECORD)
    records["block"], records["mask_lo"], records["mask_hi"] = blocks, lo, hi
    packed = np.empty(plain.shape[1] if len(plain) else 0, np.uint8)
    pieces: list[Buffer] = []
    digests: list[bytes] = []
    flags: list[int] = []
    holds_data = ((lo & filled_lo) | (hi & filled_hi)) != 0
    for row, has_data in enumerate(holds_data.tolist()):
        if not has_data:
            flags.append(layout.FRAME_ZERO)
            digests.append(EMPTY_FRAME_DIGEST)
            pieces.append(b"")
            continue
        size = kernels.gather_granules(plain[row], lo[row], hi[row], granule_bytes, packed)
        coding, stored = encode_frame(packed.data[:size])
        flags.append(coding)
        digests.append(frame_digest(stored))
        pieces.append(stored)
    records["flags"] = flags
    records["length"] = [len(piece) for piece in pieces]
    records["digest"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, layout.FRAME_DIGEST_BYTES)
    return _Frames(records, b"".join(pieces))


def fingerprints_of(overlay: Overlay) -> Fingerprints:
    """Make the fingerprints of the state that an overlay leads to, by decoding all of it.

    Raises:
        FormatError: an image is damaged.
        StorageError: one cannot be read.
    """
    prints: Fingerprints = np.zeros((overlay.block_count, layout.FRAME_DIGEST_BYTES), np.uint8)

    def fingerprint(stripe: Stripe) -> None:
        for row in np.flatnonzero(kernels.filled_blocks(stripe.plain.view(np.uint64))).tolist():
            prints[stripe.blocks[row]] = np.frombuffer(frame_digest(stripe.plain[row].data), np.uint8)

    with closing(BlockReader(overlay).map_stripes(fingerprint)) as stripes:
        for _ in stripes:
            pass
    return prints
