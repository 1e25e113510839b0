"""Volumes that are whole disks: they have partitions themselves, and are put into none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from hsr.restore import check_path
from hsr.wrapping.contents import START_BYTES, table_of
from policies.errors import ConfigurationError
from storage.overlay import Overlay
from storage.replay import BlockReader

if TYPE_CHECKING:
    from storage.keys import ChainKey


def refuse_whole_disk(start: bytes, volume: str) -> None:
    """Make sure that a volume has no partitions itself, since it is to be put into one.

    Args:
        start: its first `START_BYTES`, or all of it.
        volume: what it is called.

    Raises:
        ConfigurationError: it has.
    """
    found = table_of(start)
    if found is not None:
        raise ConfigurationError(
            f"{volume} is a disk with partitions already: it begins with {found}", hint="Say --wrap none."
        )


def start_of_point(images: Sequence[Path], key: ChainKey | None) -> bytes:
    """Read what tells what a volume holds, and no more, at the point that images lead to.

    Args:
        images: in the order of application, the first a base.
        key: the key of an encrypted chain; None of a plain one.

    Returns:
        The volume's first `START_BYTES`, or all of it.

    Raises:
        ChainError: the images do not lead to a point.
        PasswordError: the chain is encrypted, and there is no key.
        FormatError: an image is damaged.
        StorageError: one cannot be read.
    """
    with Overlay(images) as overlay:
        check_path(overlay)
        start = bytearray(min(START_BYTES, overlay.end_bytes))
        unit = overlay.block_bytes
        with closing(BlockReader(overlay, key).parcels()) as parcels:
            for parcel in parcels:
                for block, plain in zip(parcel.blocks.tolist(), parcel.plain, strict=True):
                    if block * unit >= len(start):
                        return bytes(start)
                    part = plain[: len(start) - block * unit]
                    start[block * unit : block * unit + len(part)] = part.tobytes()
    return bytes(start)
