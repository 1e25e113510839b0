"""Consolidation: adjacent images become one, frame by frame, without decoding any of them.

What a newer frame covers whole is left out; all else is copied byte for byte. Every frame of every source is read
and checked, kept or not, so that a damaged source is refused as a whole. The result depends on the sources alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from policies.errors import ChainError, DigestMismatchError
from storage import kernels, layout
from storage.header import ImageHeader
from storage.image import Records
from storage.overlay import Overlay, Window
from storage.pipeline import BufferPool, Progress, no_progress
from storage.streams import StoredStreams
from storage.writer import ImageWriter, Published

_BATCH_BYTES: Final = 4 << 20
_PAST_CACHE_BYTES: Final = 32 << 20
"""From so many bytes of sources on, the result is written past the page cache."""


def consolidate(
    sources: Sequence[Path],
    target: Path,
    *,
    roots: Sequence[bytes | None] | None = None,
    part_bytes: int | None = None,
    progress: Progress = no_progress,
) -> Published:
    """Merge adjacent images into one.

    Args:
        sources: the images, oldest first; each begins at the point where the one before it ends. If the first is
            a base, so is the result (a synthetic full).
        target: final path of the result, in an existing folder.
        roots: for each source the root that it was verified with, None where that is not known; a file that
            was exchanged since then is refused.
        part_bytes: size of the parts that the result is cut into; None for one file. Its root stays the same.
        progress: told how many stored bytes of the sources are done.

    Returns:
        The new image; it covers every point that the sources cover.

    Raises:
        ChainError: the sources are not adjacent, or not of one chain.
        FormatError: a source is damaged; its path is in the error.
        BusyError: the target exists.
        StorageError: a medium refuses.

    Crash: nothing under the final name; the sources are never touched.
    """
    with Overlay(sources) as overlay:
        _check_roots(overlay, roots)
        header = _merged_header(overlay)
        past_cache = overlay.frames_bytes >= _PAST_CACHE_BYTES
        with ImageWriter(target, header, past_cache=past_cache, part_bytes=part_bytes) as writer:
            _copy_frames(overlay, writer, progress)
            return writer.finish(b"".join(seal for layer in overlay.layers for seal in layer.read_seals()))


def _check_roots(overlay: Overlay, roots: Sequence[bytes | None] | None) -> None:
    if roots is None:
        return
    for layer, root in zip(overlay.layers, roots, strict=True):
        if root is not None and layer.root != root:
            raise DigestMismatchError(
                "is not the image that was verified: its root is another",
                path=str(layer.path),
                expected=root.hex(),
                actual=layer.root.hex(),
            )


def _merged_header(overlay: Overlay) -> ImageHeader:
    headers = [layer.header for layer in overlay.layers]
    for layer, before in zip(overlay.layers[1:], headers[:-1], strict=True):
        if layer.header.start != before.end:
            raise ChainError(
                "does not begin where the image before it ends",
                path=str(layer.path),
                expected=f"point {before.end.number}",
                actual="nothing" if layer.header.start is None else f"point {layer.header.start.number}",
            )
    return ImageHeader(
        chain_id=headers[0].chain_id,
        granule_bytes=headers[0].granule_bytes,
        start=headers[0].start,
        covers=tuple(point for header in headers for point in header.covers),
        capture_ids=tuple(capture for header in headers for capture in header.capture_ids),
        metadata=headers[-1].metadata,
        key_area=headers[-1].key_area,
        encrypted=headers[-1].encrypted,
    )


def _copy_frames(overlay: Overlay, writer: ImageWriter, progress: Progress) -> None:
    packed = BufferPool(1, _BATCH_BYTES + overlay.frame_bytes_max).take()
    done = 0
    with StoredStreams(overlay, _BATCH_BYTES) as streams, closing(streams.batches()) as batches:
        for batch in batches:
            kept, records = _kept_records(overlay, batch.window)
            lengths = records["length"].astype(np.int64)
            size = kernels.gather_runs(batch.buffer, batch.starts[kept], lengths, packed)
            writer.append(records, packed.data[:size])
            done += int(batch.window.records["length"].sum(dtype=np.int64))
            progress(done, overlay.frames_bytes)


def _kept_records(overlay: Overlay, window: Window) -> tuple[npt.NDArray[np.int64], Records]:
    """Choose what of a window goes into the result: rows, and their records.

    In an encrypted chain all records are kept, so that the seals of their points can be checked; those of frames
    that are left out become traces.
    """
    overlay.refuse_seen_traces(window)
    if not overlay.encrypted:
        kept = np.flatnonzero(window.seen)
        return kept, window.records[kept]
    records = window.records.copy()
    hidden = ~window.seen
    records["flags"][hidden] |= np.uint32(layout.FRAME_TRACE)
    records["length"][hidden] = 0
    return np.arange(len(records)), records
