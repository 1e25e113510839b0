"""Verification: is this file, byte for byte, the image that was written?

It needs no decompression and no password: the stored stream is hashed in long runs, the index page by page,
and both are held against the digests that the root commits to. Whether the root is the one that was recorded
when the image was made is for the caller to compare.

A file in ShadowProtect's own container is held against its `.md5` side file, the only thing that can prove it; without
one it is neither good nor bad. So is an image of ours, once its own digests fit, if a side file lies beside it.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from policies.errors import DigestMismatchError, ForeignContainerError, FormatError, TruncatedError
from storage import kernels, layout
from storage.codec import decode_frame
from storage.decryption import decryption_of
from storage.digests import digest_of
from storage.header import ImageHeader
from storage.image import ImageReader
from storage.md5_check import check_md5
from storage.overlay import Overlay, Window, is_trace
from storage.part_check import set_fault, told_by_part
from storage.parts import first_gap, part_numbers_beside, part_path, stored_bytes_of
from storage.pipeline import THREADS, BufferPool, Progress, no_progress, ordered_map
from storage.stored_file import StoredFile

if TYPE_CHECKING:
    from storage.keys import ChainKey

_RUN_BYTES: Final = 4 * layout.SEGMENT_BYTES
"""What a thread checks in one go: segment by segment, so that what it hashes lies in the processor's cache."""

_BATCH_BYTES: Final = 4 << 20
_AHEAD: Final = 2 * THREADS


@dataclass(frozen=True, slots=True)
class Verified:
    """What verification found.

    Attributes:
        path: the file.
        status: good; bad; unproven where a foreign file lacks the side file that could prove it.
        reason: what is wrong, or missing, in words; None if good.
        stored_bytes: its size, all parts together.
        header: its header, where that could be read.
        root: its identity, 32 bytes, where the trailer could be read.
        changed_bytes: plain size of its granules, likewise.
        is_foreign: whether it is in ShadowProtect's own container.
        side_files: names of the `.md5` side files that it was held against.
        note: what is odd about side files beside an image that is good without them; None otherwise.
    """

    path: Path
    status: Literal["good", "bad", "unproven"]
    reason: str | None
    stored_bytes: int
    header: ImageHeader | None = None
    root: bytes | None = None
    changed_bytes: int = 0
    is_foreign: bool = False
    side_files: tuple[str, ...] = ()
    note: str | None = None


def verify_image(
    path: Path,
    *,
    deep: bool = False,
    key: ChainKey | None = None,
    from_medium: bool = True,
    progress: Progress = no_progress,
) -> Verified:
    """Verify an image.

    Args:
        path: the file; of a spanned set, its first part.
        deep: also check every frame's own digest and decode it; of an encrypted image, check the seals too.
        key: the key of an encrypted chain; needed for `deep` only.
        from_medium: drop the file from the page cache first, so that the medium is what is proven.
        progress: told how many bytes of the file are done.

    Returns:
        What was found; a bad file is a result, not an error.

    Raises:
        PasswordError: a deep verification of an encrypted image, and no key.
        StorageError: the file is missing or its medium fails, which says nothing of its bytes.
    """
    try:
        with ImageReader(path, from_medium=from_medium) as image:
            try:
                _check_files(image)
                has_traces = _check_index(image)
                _check_segments(image, progress)
                if has_traces:
                    _check_traces(path)
                if deep:
                    _check_frames(path, key)
            except FormatError as error:
                return _bad(path, told_by_part(image, error), image)
            return _with_side_file(image, progress)
    except ForeignContainerError:
        return _verify_foreign(path, from_medium=from_medium, progress=progress)
    except FormatError as error:
        return _bad(path, error)


def _with_side_file(image: ImageReader, progress: Progress) -> Verified:
    """Hold an image that is good by its own digests against its side file, if there is one: it was read just now."""
    good = Verified(image.path, "good", None, image.stored_bytes, image.header, image.root, image.plain_bytes)
    verdict = check_md5(image.file, from_medium=False, progress=progress)
    if verdict.status == "bad":
        return replace(good, status="bad", reason=verdict.reason, side_files=verdict.side_files)
    note = verdict.reason if verdict.status == "unproven" and verdict.side_files else None
    return replace(good, side_files=verdict.side_files, note=note)


def _verify_foreign(path: Path, *, from_medium: bool, progress: Progress) -> Verified:
    """Hold a foreign file, all its parts, against its side files."""
    try:
        with closing(StoredFile(path)) as file:
            gap = first_gap(part_numbers_beside(path))
            if gap is not None:
                raise TruncatedError("this part of the set is missing", path=str(part_path(path, gap)))
            verdict = check_md5(file, from_medium=from_medium, progress=progress)
            size = file.size_bytes
    except FormatError as error:
        return replace(_bad(path, error), is_foreign=True)
    return Verified(
        path, verdict.status, verdict.reason, size, is_foreign=True, side_files=verdict.side_files
    )


def _bad(path: Path, error: FormatError, image: ImageReader | None = None) -> Verified:
    offset = f" (at byte {error.offset:,})" if error.offset is not None else ""
    found = f": expected {error.expected}, found {error.actual}" if error.actual is not None else ""
    part = f"{Path(error.path).name}: " if error.path not in (None, str(path)) else ""
    reason = f"{part}{error.message}{found}{offset}"
    size = stored_bytes_of(path)
    if image is None:
        return Verified(path, "bad", reason, size)
    return Verified(path, "bad", reason, size, image.header, image.root, image.plain_bytes)


def _check_files(image: ImageReader) -> None:
    """Make sure that the folder holds no part of this name that is not read."""
    fault = set_fault(image.file, image.header.digest)
    if fault is not None:
        raise fault


def _check_index(image: ImageReader) -> bool:
    """Check every page, and that the frames fill the stored stream without a gap; tell whether there are traces."""
    at, plain_bytes, block, origin = image.frames_offset, 0, -1, 0
    has_traces = False
    for records in image.iter_records():
        first = records[0]
        if int(first["offset"]) != at:
            raise FormatError("the index leaves a gap in the stored stream", path=str(image.path), offset=at)
        if int(first["block"]) < block or (int(first["block"]) == block and int(first["origin"]) >= origin):
            raise FormatError("the index is not in order", path=str(image.path), offset=image.index_offset)
        last = records[-1]
        at = int(last["offset"]) + int(last["length"])
        block, origin = int(last["block"]), int(last["origin"])
        plain_bytes += int(kernels.plain_bytes_of(records, image.header.granule_bytes))
        has_traces = has_traces or bool(is_trace(records).any())
    if at != image.index_offset:
        raise FormatError("the stored stream holds bytes that no frame owns", path=str(image.path), offset=at)
    if plain_bytes != image.plain_bytes:
        raise FormatError(
            "the trailer's plain size is wrong",
            path=str(image.path),
            expected=plain_bytes,
            actual=image.plain_bytes,
        )
    return has_traces


def _check_segments(image: ImageReader, progress: Progress) -> None:
    image.check_segment_table()
    buffers = BufferPool(THREADS, layout.SEGMENT_BYTES)

    def check(offset: int) -> int:
        buffer = buffers.take()
        try:
            end = min(offset + _RUN_BYTES, image.frames_bytes)
            first = offset // layout.SEGMENT_BYTES
            wanted = image.segment_digests(first, -(-end // layout.SEGMENT_BYTES))
            for start, digest in zip(range(offset, end, layout.SEGMENT_BYTES), wanted, strict=True):
                view = buffer.data[: min(layout.SEGMENT_BYTES, end - start)]
                image.file.read_into(image.frames_offset + start, [view])
                if digest_of(view) != digest:
                    raise DigestMismatchError(
                        "stored data is damaged", path=str(image.path), offset=image.frames_offset + start
                    )
        finally:
            buffers.give(buffer)
        return end

    with closing(ordered_map(check, range(0, image.frames_bytes, _RUN_BYTES), ahead=_AHEAD)) as ends:
        for end in ends:
            progress(image.frames_offset + end, image.stored_bytes)
    progress(image.stored_bytes, image.stored_bytes)


def _check_traces(path: Path) -> None:
    """Make sure that every frame that was left out is hidden by others."""
    with Overlay([path]) as overlay:
        for window in overlay.windows():
            overlay.refuse_seen_traces(window)


def _check_frames(path: Path, key: ChainKey | None) -> None:
    """Check each frame's own digest, and decode it."""
    with Overlay([path]) as overlay:
        granule_bytes = overlay.granule_bytes
        decryption = decryption_of(overlay, key)
        buffers = BufferPool(_AHEAD, _BATCH_BYTES + overlay.frame_bytes_max)

        def decode(record: np.void, piece: memoryview) -> None:
            granules = int(record["mask_lo"]).bit_count() + int(record["mask_hi"]).bit_count()
            try:
                packed = decryption.packed(record, piece)
                decode_frame(int(record["flags"]), packed, granules * granule_bytes)
            except FormatError as error:
                raise type(error)(error.message, path=str(path), offset=int(record["offset"])) from None

        def check(batch: Window) -> None:
            buffer = buffers.take()
            try:
                pieces = overlay.load(batch, np.arange(len(batch)), buffer.data)
                for row in np.flatnonzero(~is_trace(batch.records)).tolist():
                    decode(batch.records[row], pieces[row])
            finally:
                buffers.give(buffer)

        batches = (batch for window in overlay.windows() for batch in window.batches(_BATCH_BYTES))
        with closing(ordered_map(check, batches, ahead=_AHEAD)) as results:
            for _ in results:
                pass
