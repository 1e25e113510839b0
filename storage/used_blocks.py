"""Which parts of a volume its file system does not use, by the file system's own tools.

ext4 is asked by `dumpe2fs`, of e2fsprogs, which its makers keep: it lists the free blocks of each group and knows
groups whose bitmaps were never written. A file system that is not in perfect order, or of another kind, is taken
whole: leaving something out rests on its maps being right.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

import numpy as np

from policies.errors import SourceError
from storage.commands import tool_path
from storage.source import Ranges

_EXT_MAGIC_AT: Final = 1024 + 56
_EXT_MAGIC: Final = b"\x53\xef"
_FIELD: Final = re.compile(rb"([A-Z][A-Za-z ]+):\s+(.*)")
_RANGE: Final = re.compile(rb"(\d+)(?:-(\d+))?")


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
        ConfigurationError: the file system's tool is missing.
        SourceError: it fails.
    """
    with path.open("rb", buffering=0) as volume:
        is_ext = os.pread(volume.fileno(), 2, _EXT_MAGIC_AT) == _EXT_MAGIC
    if not is_ext:
        notes.append("free space can be left out of ext4 only: all that is not zero was taken")
        return None
    return _ext4(path, notes)


def _ext4(path: Path, notes: list[str]) -> UsedBlocks | None:
    fields: dict[bytes, bytes] = {}
    ranges: list[tuple[int, int]] = []
    for line in _lines_of("dumpe2fs", "e2fsprogs", path):
        if line.startswith(b"  Free blocks:"):
            ranges += [(int(first), int(last or first)) for first, last in _RANGE.findall(line)]
        elif not line.startswith(b" ") and (match := _FIELD.match(line)):
            fields.setdefault(match[1], match[2].strip())
    if (
        fields.get(b"Filesystem state") != b"clean"
        or b"needs_recovery" in fields[b"Filesystem features"].split()
    ):
        notes.append(
            "the ext4 file system is not in order or was not unmounted: all that is not zero was taken"
        )
        return None
    block_bytes, cluster = int(fields[b"Block size"]), fields.get(b"Cluster size")
    if cluster is not None and int(cluster) != block_bytes:
        notes.append("the ext4 file system allocates in clusters: all that is not zero was taken")
        return None
    free = np.array(ranges, np.int64).reshape(-1, 2) * block_bytes
    free[:, 1] += block_bytes
    _check(free, int(fields[b"Free blocks"]) * block_bytes, path)
    return UsedBlocks("ext4", free)


def _check(free: Ranges, free_bytes: int, path: Path) -> None:
    """Make sure that what was read is in order and as much as the file system says it is.

    Raises:
        SourceError: it is not.
    """
    is_ordered = bool((free[1:, 0] >= free[:-1, 1]).all())
    if not is_ordered or int((free[:, 1] - free[:, 0]).sum()) != free_bytes:
        raise SourceError(
            "the ext4 file system contradicts itself about what is free",
            path=str(path),
            hint="Check it with e2fsck, or capture without --used-only.",
        )


def _lines_of(tool: str, package: str, path: Path) -> Iterator[bytes]:
    """Run a tool on a volume and yield its lines, of which there may be millions."""
    command = [tool_path(tool, package), str(path)]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
    ) as running:
        yield from cast("IO[bytes]", running.stdout)
    if running.returncode != 0:
        raise SourceError(f"{tool} cannot read the file system", path=str(path))
