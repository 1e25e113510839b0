"""What an ext4 file system does not use, by `dumpe2fs` of e2fsprogs.

It lists the free blocks of each group, and knows groups whose bitmaps were never written.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from policies.errors import SourceError
from storage.free_ranges import FreeRanges
from storage.source import Ranges
from storage.tool_output import tool_output

_FIELD: Final = re.compile(rb"([A-Z][A-Za-z ]+):\s+(.*)")
_RANGE: Final = re.compile(rb"(\d+)(?:-(\d+))?")


def free_of_ext4(path: Path) -> Ranges:
    """List what an ext4 file system does not use, as ranges of bytes.

    Args:
        path: the volume, which must not change meanwhile.

    Raises:
        ConfigurationError: the tool is missing.
        SourceError: its maps cannot be relied on.
    """
    fields: dict[bytes, bytes] = {}
    free: FreeRanges | None = None
    with tool_output("dumpe2fs", str(path), package="e2fsprogs") as lines:
        for line in lines:
            if line.startswith(b"  Free blocks:"):
                free = free or FreeRanges(_block_bytes(fields))
                for first, last in _RANGE.findall(line):
                    free.add(int(first), int(last or first) + 1)
            elif not line.startswith(b" ") and (match := _FIELD.match(line)):
                fields.setdefault(match[1], match[2].strip())
    free = free or FreeRanges(_block_bytes(fields))
    return free.in_bytes(int(fields[b"Free blocks"]), int(fields[b"Block count"]))


def _block_bytes(fields: dict[bytes, bytes]) -> int:
    """Make sure that the maps on the disk are true, and return the size of a block.

    Raises:
        SourceError: they may not be.
    """
    if not {
        b"Filesystem state",
        b"Filesystem features",
        b"Block size",
        b"Free blocks",
        b"Block count",
    } <= set(fields):
        raise SourceError("dumpe2fs tells too little of it")
    is_dirty = b"needs_recovery" in fields[b"Filesystem features"].split()
    if fields[b"Filesystem state"] != b"clean" or is_dirty:
        raise SourceError("it is not in order, or was not unmounted")
    if fields.get(b"Cluster size", fields[b"Block size"]) != fields[b"Block size"]:
        raise SourceError("it allocates in clusters")
    return int(fields[b"Block size"])
