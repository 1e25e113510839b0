"""Restoring a point in time to a raw file or a block device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hsr.targets import HOLDS_PART, RestoreTarget, open_target
from policies.errors import ChainError, ConfigurationError, RollforwardError
from policies.points import Point
from storage import kernels
from storage.overlay import Overlay
from storage.parts import image_files
from storage.pipeline import Progress, no_progress
from storage.replay import BlockReader, Stripe

if TYPE_CHECKING:
    from storage.keys import ChainKey


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored volume.

    Attributes:
        target: where it is.
        point: the point in time.
        volume_bytes: its size.
        written_bytes: how much of it was not zero.
    """

    target: Path
    point: Point
    volume_bytes: int
    written_bytes: int


def restore(
    path: Sequence[Path],
    target: Path,
    *,
    key: ChainKey | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Restored:
    """Write the point that a path of images leads to.

    Every byte of every image on the way is read and checked; a damaged image is refused even where a newer one
    hides the damage. A block device is written to meanwhile; an error says so.

    Args:
        path: images in the order of application, the first a base, each usable at the end of the one before it.
        target: a raw file to be made (sparse), or a block device that nobody uses; old data on it does not matter.
        key: the key of an encrypted chain; None of a plain one.
        overwrite: replace the target, if it is an existing file.
        progress: told how many stored bytes are done.

    Returns:
        What was restored.

    Raises:
        ChainError: the path does not begin with a base, or its images do not follow each other.
        ConfigurationError: the target cannot be used as it is.
        PasswordError: the chain is encrypted, and there is no key.
        FormatError: an image is damaged, or was altered by somebody who does not have the key.
        RestoreError: the target's medium refuses.
        StorageError: an image cannot be read.

    Crash: no file under the target's name; a block device holds a part, and restoring again mends it.
    """
    opened: list[RestoreTarget] = []
    with _telling_what_is_left(opened), Overlay(path) as overlay:
        check_path(overlay)
        _check_target(overlay, target)
        reader = BlockReader(overlay, key)
        with open_target(target, overlay.end_bytes, overwrite=overwrite) as disk:
            opened.append(disk)
            written = _write_volume(overlay, reader, disk, progress)
            disk.finish()
        return Restored(target, overlay.layers[-1].header.end, overlay.end_bytes, written)


@contextmanager
def _telling_what_is_left(opened: Sequence[RestoreTarget]) -> Iterator[None]:
    """Let an error say whether the target holds a part of the volume."""
    try:
        yield
    except RollforwardError as error:
        if any(disk.holds_part for disk in opened):
            error.hint = f"{error.hint} {HOLDS_PART}" if error.hint else HOLDS_PART
        raise


def check_path(overlay: Overlay) -> None:
    """Check that the images of an overlay lead from nothing to its end.

    Raises:
        ChainError: the first is no base, or one cannot be applied after the one before it.
    """
    first = overlay.layers[0]
    if first.header.start is not None:
        raise ChainError("is no base: a restore cannot begin with it", path=str(first.path))
    for before, layer in zip(overlay.layers, overlay.layers[1:], strict=False):
        if not layer.header.span(layer.path.name).holds(before.header.end.id):
            raise ChainError(f"cannot be applied after {before.path.name}", path=str(layer.path))


def _check_target(overlay: Overlay, target: Path) -> None:
    files = (path for layer in overlay.layers for path in image_files(layer.path))
    if target.exists() and any(target.samefile(path) for path in files):
        raise ConfigurationError("is one of the images that are to be restored from", path=str(target))


def _write_volume(overlay: Overlay, reader: BlockReader, disk: RestoreTarget, progress: Progress) -> int:
    size, block_bytes = overlay.end_bytes, overlay.block_bytes
    at = written_bytes = done_bytes = 0
    with closing(reader.stripes()) as stripes:
        for stripe in stripes:
            for first, stop in _runs(stripe.blocks):
                start = min(int(stripe.blocks[first]) * block_bytes, size)
                if start > at:
                    disk.zero(at, start - at)
                at = min((int(stripe.blocks[stop - 1]) + 1) * block_bytes, size)
            written_bytes += _write_stripe(stripe, disk, size, block_bytes)
            done_bytes += stripe.stored_bytes
            progress(done_bytes, overlay.frames_bytes)
    if at < size:
        disk.zero(at, size - at)
    return written_bytes


def _write_stripe(stripe: Stripe, disk: RestoreTarget, size: int, block_bytes: int) -> int:
    """Write what of a stripe is not zero already; return how many bytes that was."""
    filled = kernels.filled_blocks(stripe.plain.view(np.uint64))
    rows = np.flatnonzero(filled) if disk.starts_zeroed else np.arange(len(stripe.blocks))
    written = 0
    for first, stop in _runs(stripe.blocks[rows]):
        offset = int(stripe.blocks[rows[first]]) * block_bytes
        plain = stripe.plain[rows[first] : rows[stop - 1] + 1].reshape(-1).data
        plain = plain[: max(size - offset, 0)]
        disk.write(offset, plain)
        written += len(plain)
    return written


def _runs(blocks: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield (first, stop) rows of consecutive blocks."""
    if len(blocks):
        breaks = [0, *(np.flatnonzero(np.diff(blocks) != 1) + 1).tolist(), len(blocks)]
        yield from pairwise(breaks)
