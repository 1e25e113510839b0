"""Which parts of a volume its file system does not use, by the file system's own tools.

Leaving something out rests on a file system's maps being right. Where that is not certain, all is taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from policies.errors import SourceError
from storage.source import Ranges
from storage.used_ext4 import free_of_ext4
from storage.used_ntfs import free_of_ntfs
from storage.used_xfs import free_of_xfs

_HEAD_BYTES: Final = 2048


@dataclass(frozen=True, slots=True)
class _FileSystem:
    """A kind of file system: its name, where which bytes tell it, and what lists its free ranges."""

    kind: str
    magic_at: int
    magic: bytes
    free: Callable[[Path], Ranges]


_KNOWN: Final = (
    _FileSystem("ext4", 1024 + 56, b"\x53\xef", free_of_ext4),
    _FileSystem("xfs", 0, b"XFSB", free_of_xfs),
    _FileSystem("ntfs", 3, b"NTFS    ", free_of_ntfs),
)
_NAMES: Final = "ext4, XFS and NTFS"


@dataclass(frozen=True, slots=True)
class UsedBlocks:
    """What a file system does not use.

    Attributes:
        kind: of the file system.
        free: the ranges that it does not use.
    """

    kind: str
    free: Ranges

    def free_within(self, start: int, stop: int) -> list[tuple[int, int]]:
        """List the free ranges of a range of bytes, cut at its ends."""
        first = int(np.searchsorted(self.free[:, 1], start, "right"))
        last = int(np.searchsorted(self.free[:, 0], stop, "left"))
        return [(max(low, start), min(high, stop)) for low, high in self.free[first:last].tolist()]

    def next_used(self, offset: int) -> int:
        """Return the first byte at or after `offset` that is not free."""
        free = self.free_within(offset, offset + 1)
        if not free:
            return offset
        return int(self.free[np.searchsorted(self.free[:, 1], offset, "right"), 1])


def find_used_blocks(path: Path, notes: list[str]) -> UsedBlocks | None:
    """Ask the file system on a volume what it does not use.

    Args:
        path: the volume, which must not change meanwhile, nor until it is read.
        notes: told why all is taken, where it is.

    Returns:
        What is free; None where all counts as used.

    Raises:
        ConfigurationError: the file system's tools are missing.
    """
    with path.open("rb", buffering=0) as volume:
        head = os.pread(volume.fileno(), _HEAD_BYTES, 0)
    found = [known for known in _KNOWN if head.startswith(known.magic, known.magic_at)]
    if len(found) != 1:
        which = "there is none of these" if not found else "it looks like more than one of these"
        notes.append(
            f"free space can be left out of {_NAMES} only, and {which}: all that is not zero was taken"
        )
        return None
    kind = found[0].kind
    try:
        return UsedBlocks(kind, found[0].free(path.absolute()))
    except SourceError as error:
        notes.append(f"the {kind} file system: {error.reason}: all that is not zero was taken")
        return None
