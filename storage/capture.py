"""Capture: a volume's present state becomes an image, whole the first time, then only the granules that changed.

The volume is read once. Each block is fingerprinted; a block whose fingerprint is the one of the last captured
state is unchanged. The others are compared, granule by granule, with what the chain holds, so that an image has
just what differs from the point that it leads from.
"""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from policies.differentials import differential_below
from policies.errors import ConfigurationError, MissingPointError, SourceError
from policies.names import NUMBER_MAX, check_volume_name, image_name
from policies.points import Point, PointId
from policies.reach import ways_from_nothing
from storage import kernels, layout
from storage.capture_keys import CaptureKeys, keys_for_capture
from storage.chain import Chain
from storage.digests import frame_digest
from storage.fingerprints import (
    KnownFingerprints,
    NewFingerprints,
    StateKey,
    fingerprints_path,
    open_fingerprints,
)
from storage.folder import FoundImage, bases_with_key, chains, refuse_plain_in_encrypted, scan_folder
from storage.header import ImageHeader
from storage.key_area import key_file_path
from storage.key_files import Passwords
from storage.keys import ChainKey
from storage.overlay import Overlay
from storage.pipeline import Progress, no_progress
from storage.publish import folder_lock
from storage.replay import BlockReader, Stripe
from storage.scan import Frames, VolumeScan
from storage.seals import CaptureSeal
from storage.source import Access, CaptureStep, Source, VolumeSource
from storage.writer import ImageWriter, Published


@dataclass(frozen=True, slots=True)
class _Chain:
    """What a capture goes on from.

    Attributes:
        base: number of the base in names.
        number: number of the point to be captured.
        parent: header of the image that leads to the parent point; None when a base is to be written.
        differential: number of the differential that the image stands on, or is to be; None for neither.
        newest_time: when the newest point was taken that can be restored.
        path: images that lead to the parent point, base first; empty likewise.
        headers: headers of all its usable images.
        was_encrypted: whether the volume has an encrypted chain, or the key file of one that is gone or bad.
    """

    base: int
    number: int
    parent: ImageHeader | None
    path: tuple[Path, ...]
    headers: tuple[ImageHeader, ...] = ()
    was_encrypted: bool = False
    differential: int | None = None
    newest_time: datetime | None = None

    @property
    def name_numbers(self) -> tuple[int | None, int | None]:
        """Number and differential that the image's name holds."""
        is_differential = self.differential == self.number
        return None if is_differential or not self.number else self.number, self.differential


@dataclass(frozen=True, slots=True)
class _Work:
    """A capture that is about to be written.

    Attributes:
        chain: what it goes on from.
        header: its header.
        target: where the image goes.
        prints_path: where the chain's fingerprints are.
        key: the key of an encrypted chain; None of a plain one.
    """

    chain: _Chain
    header: ImageHeader
    target: Path
    prints_path: Path
    key: ChainKey | None = None


def capture(
    source: Path | Access,
    folder: Path,
    volume: str,
    *,
    now: datetime,
    new_base: bool = False,
    differential_of: int | None = None,
    encrypt: bool = False,
    passwords: Passwords | None = None,
    part_bytes: int | None = None,
    called: Path | None = None,
    progress: Progress = no_progress,
) -> Published:
    """Capture the present state of a volume into a folder.

    The first image of a volume is a base; later ones hold what differs from the newest point that the folder's
    images lead to, or from an older one: a differential, which covers the new point only.

    Args:
        source: raw file or block device, not mounted read-write; or another way to a volume.
        folder: managed folder, which must exist.
        volume: name of the volume, the first part of its images' names.
        now: the time of the point, UTC; never earlier than the parent's.
        new_base: begin a new chain.
        differential_of: number of the point that a differential leads from, 0 for the base's own; None for the
            newest, with an incremental.
        encrypt: encrypt the chain, if it begins with this capture; otherwise make sure that it is encrypted.
        passwords: asked when the chain is encrypted, or is to be. Once a volume is encrypted, its later chains are too.
        part_bytes: size of the parts that the image is cut into; None for one file.
        called: what errors and metadata call the source, where that is not its path.
        progress: told how many bytes of the source were read.

    Returns:
        The new image.

    Raises:
        ConfigurationError: the name of the volume is impossible, no number is left for its image, or its chain is
            not encrypted, though it should be; a differential of nothing.
        PasswordError: the chain is encrypted, and the password is wrong or missing.
        SourceError: the source is in use, fails, or showed more than one state while it was read.
        MissingPointError: the chain leads nowhere, since its base is missing or bad; or not to `differential_of`.
        ForkError: several lines have a point of that number.
        FormatError: an image that is needed for the comparison is damaged; an image is plain, though the volume is
            encrypted; or the key that the password opens was forged.
        BusyError: the volume is being captured already.
        StorageError: the folder's medium refuses.

    Crash: nothing under a final name; fingerprints that are older than the chain are made anew next time.
    """
    check_volume_name(volume)
    lock = folder_lock(folder, f"{volume}.capture", f"a capture of {volume!r}")
    with ExitStack() as stack:
        stack.enter_context(lock)
        chain = _chain_to_extend(folder, volume, new_base, differential_of)
        parent = chain.parent.end if chain.parent else None
        step = CaptureStep(parent, PointId(secrets.token_bytes(layout.ID_BYTES)), keeper_of(folder, volume))
        opened: Source = stack.enter_context(
            VolumeSource(source, called) if isinstance(source, Path) else source.open(step)
        )
        work = _prepare(folder, volume, chain, opened, now, step.point_id)
        work, keys = _with_keys(work, volume, encrypt, passwords)
        prints = stack.enter_context(NewFingerprints(work.prints_path, _state_key(work.header), work.key))
        published = _write_image(work, opened, prints, part_bytes, progress)
        if keys is not None:
            keys.keep()
        prints.save()
        return published


def _with_keys(
    work: _Work, volume: str, encrypt: bool, passwords: Passwords | None
) -> tuple[_Work, CaptureKeys | None]:
    """Open or draw the keys of a capture that is to be encrypted."""
    path = key_file_path(work.target.parent, volume, work.chain.base)
    encrypt = encrypt or work.chain.was_encrypted
    keys = keys_for_capture(work.header, path, work.chain.headers, encrypt=encrypt, passwords=passwords)
    return (replace(work, header=keys.header, key=keys.unlocked.key), keys) if keys else (work, None)


def keeper_of(folder: Path, volume: str) -> str:
    """Say in words which volume in which folder of which machine it is: what tells one chain's keeper from others."""
    return f"{platform.node()} {os.fsencode(folder.resolve()).decode(errors='replace')} {volume}"


def _prepare(
    folder: Path, volume: str, chain: _Chain, source: Source, now: datetime, point_id: PointId
) -> _Work:
    if max(chain.base, chain.number) > NUMBER_MAX:
        raise ConfigurationError(
            f"has an image of {volume!r} with the largest number there is",
            path=str(folder),
            hint="Move it elsewhere if it does not belong there.",
        )
    number, differential = chain.name_numbers
    name = image_name(volume, chain.base, number, differential=differential).filename()
    prints_path = fingerprints_path(folder, volume, chain.base)
    return _Work(chain, _header(chain, volume, source, now, point_id), folder / name, prints_path)


def _chain_to_extend(folder: Path, volume: str, new_base: bool, differential_of: int | None) -> _Chain:
    found = chains(scan_folder(folder, volume))
    bases = [base for _, base in found]
    if differential_of is not None and (new_base or not bases):
        raise ConfigurationError(
            "a differential does not begin a new chain"
            if new_base
            else f"holds nothing of {volume!r} that a differential could lead from",
            path=str(folder),
            hint="Capture a base first, then a differential.",
        )
    with_key = bases_with_key(folder, volume, (image for group in found.values() for image in group))
    every = [image.header for group in found.values() for image in group if image.header is not None]
    was_encrypted = bool(with_key) or any(header.encrypted for header in every)
    if new_base or not bases:  # a key file whose images are elsewhere is not written over: they may come back
        return _Chain(max((0, *bases, *with_key)) + 1, 0, None, (), was_encrypted=was_encrypted)
    base = max(bases)
    refuse_plain_in_encrypted(found[volume, base])
    going_on = _going_on(Chain(folder, volume, base, found[volume, base]), differential_of)
    return replace(going_on, was_encrypted=was_encrypted)


def _going_on(chain: Chain, differential_of: int | None) -> _Chain:
    """Choose what an incremental goes on from, or what a differential leads from."""
    images, spans = chain.images, chain.spans
    reached = [way.span.end for way in ways_from_nothing(spans).values()]
    _refuse_failing_media(images, max((point.number for point in reached), default=-1))
    if not reached:
        found_bad = [f" ({image.path.name}: {image.problem})" for image in images if image.problem]
        raise MissingPointError(
            f"the chain b{chain.base:03d} of {chain.volume!r} has no good base image to go on from"
            f"{''.join(found_bad[:1])}",
            path=str(chain.folder),
            hint="Bring back the missing image, or begin a new chain with --new-base.",
        )
    newest = max(reached, key=lambda point: (point.number, point.time, point.id))
    number = 1 + max(newest.number, *(image.name.point_number for image in images))
    start = newest if differential_of is None else chain.point(differential_of)
    try:
        path = chain.path_to(start)
    except MissingPointError as error:
        error.hint = "Name a point that can be restored, with --of: `rollforward chain` shows them."
        raise
    headers = {image.path: image.header for image in images if image.usable and image.header is not None}
    return _Chain(
        chain.base,
        number,
        headers[path[-1]],
        path,
        tuple(headers.values()),
        differential=differential_below(spans, newest) if differential_of is None else number,
        newest_time=newest.time,
    )


def _refuse_failing_media(images: Sequence[FoundImage], newest_number: int) -> None:
    """Raise where an image that a failing medium hides may lead further than all others: there is a fork otherwise.

    A damaged image is another matter: it stays damaged, and the chain goes on without it.
    """
    for image in images:
        if image.trouble is not None and image.name.point_number > newest_number:
            image.trouble.hint = "If the medium does not recover, move this file away, or use --new-base."
            raise image.trouble


def _header(chain: _Chain, volume: str, source: Source, now: datetime, point_id: PointId) -> ImageHeader:
    parent = chain.parent
    granule_bytes = parent.granule_bytes if parent else layout.geometry_for(source.size_bytes)
    if source.size_bytes > layout.MAX_BLOCKS * granule_bytes * layout.GRANULES_PER_BLOCK:
        raise SourceError(f"is too large for granules of {granule_bytes} bytes", path=source.name)
    time = now.astimezone(UTC)
    if parent is not None:
        time = max(time, parent.end.time, chain.newest_time or parent.end.time)
    return ImageHeader(
        chain_id=parent.chain_id if parent else secrets.token_bytes(layout.ID_BYTES),
        granule_bytes=granule_bytes,
        start=parent.end if parent else None,
        covers=(Point(point_id, chain.number, time, source.size_bytes),),
        capture_ids=(secrets.token_bytes(layout.ID_BYTES),),
        metadata={
            "volume": volume,
            "computer": platform.node(),
            "source": source.name,
            "sector_bytes": 512,
            **source.facts,
        },
    )


def _state_key(header: ImageHeader) -> StateKey:
    return StateKey(header.chain_id, header.end.id, header.granule_bytes, header.end.volume_bytes)


def _write_image(
    work: _Work, source: Source, prints: NewFingerprints, part_bytes: int | None, progress: Progress
) -> Published:
    """Write and publish the image; take the fingerprints of the new state."""
    past_cache = work.chain.parent is None  # a base is long, an incremental short
    with ImageWriter(work.target, work.header, past_cache=past_cache, part_bytes=part_bytes) as writer:
        scan = VolumeScan(source, work.header.block_bytes, prints, progress, work.key)
        seal = _write_changes(work, source, scan, writer)
        source.confirm()
        return writer.finish(seal)


def _write_changes(work: _Work, source: Source, scan: VolumeScan, writer: ImageWriter) -> bytes:
    """Scan the source, write what changed; return the seal of its point.

    Where only marked ranges are read, there are new fingerprints only if there were those of the parent.
    """
    if work.chain.parent is None:
        return _append_all(scan.whole(work.header), work, writer)
    with ExitStack() as stack:
        overlay = stack.enter_context(Overlay(work.chain.path))
        before = open_fingerprints(work.prints_path, _state_key(work.chain.parent), work.key)
        ranges = source.marked()
        if ranges is None and before is None:
            before = fingerprints_of(overlay, source.size_bytes, work.prints_path.parent, work.key)
        if before is not None:
            stack.enter_context(before)
        if ranges is not None:
            return _append_all(scan.marked(work.header, overlay, ranges, before), work, writer)
        return _append_all(scan.difference(work.header, overlay, before), work, writer)


def _append_all(frames: Generator[Frames, None, None], work: _Work, writer: ImageWriter) -> bytes:
    """Write frames; return the seal of the point, which is empty in a plain chain."""
    seal = CaptureSeal(work.key, work.header) if work.key else None
    with closing(frames):  # the reading ends here, whatever happens, and in this thread
        for some in frames:
            if seal is not None:
                seal.update(some.records)
            writer.append(some.records, some.stored)
    return b"" if seal is None else seal.finish()


def fingerprints_of(
    overlay: Overlay, size_bytes: int, folder: Path, key: ChainKey | None = None
) -> KnownFingerprints | None:
    """Make the fingerprints of the state that an overlay leads to, by decoding all of it.

    Args:
        overlay: the images.
        size_bytes: up to where they are of interest; the volume may have been smaller or larger.
        folder: where they are kept meanwhile, without a name.
        key: the key of an encrypted chain; None of a plain one.

    Returns:
        The fingerprints; None if there is no room for them.

    Raises:
        FormatError: an image is damaged.
        StorageError: one cannot be read.
    """
    header = overlay.layers[-1].header
    count = min(overlay.block_count, -(-size_bytes // overlay.block_bytes))

    def fingerprint(stripe: Stripe) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        rows = np.flatnonzero(kernels.filled_blocks(stripe.plain.view(np.uint64)) & (stripe.blocks < count))
        digests = b"".join(frame_digest(stripe.plain[row].data) for row in rows.tolist())
        return stripe.blocks[rows], np.frombuffer(digests, np.uint8).reshape(-1, layout.FRAME_DIGEST_BYTES)

    with (
        NewFingerprints(None, _state_key(header), key, blocks=count, unnamed_in=folder) as prints,
        closing(BlockReader(overlay, key).stripes()) as stripes,
    ):
        for stripe in stripes:
            prints.put(*fingerprint(stripe))
        return prints.known()
