"""The partitions of a disk at a point, as `sfdisk` reads them."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Final

from hsr.serving.readable import Readable
from hsr.serving.tools import tool
from policies.errors import ConfigurationError
from storage.scratch import scratch_folder

_EDGE_BYTES: Final = 1 << 20
"""Partition tables lie within so much of both ends."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition.

    Attributes:
        number: its number, from 1.
        offset: where it begins, in bytes.
        size_bytes: its size.
    """

    number: int
    offset: int
    size_bytes: int


def partitions_of(reader: Readable) -> tuple[Partition, ...]:
    """Read the partition table of a disk.

    Logical partitions inside an extended one are not found: their tables lie in the midst of the disk.

    Returns:
        The partitions that lie within the disk; none where there is no table.

    Raises:
        ConfigurationError: `sfdisk` is not installed.
        FormatError: an image is damaged.
        StorageError: one cannot be read.
    """
    with scratch_folder("table") as folder, (folder / "disk").open("xb") as edges:
        edges.truncate(reader.size_bytes)
        for start in (0, max(reader.size_bytes - _EDGE_BYTES, 0)):
            plain = bytearray(min(_EDGE_BYTES, reader.size_bytes - start))
            reader.read_into(start, memoryview(plain))
            edges.seek(start)
            edges.write(plain)
        edges.flush()
        told = subprocess.run(
            [tool("sfdisk"), "--json", edges.name], capture_output=True, text=True, check=False
        )
    if told.returncode:
        return ()
    table = json.loads(told.stdout)["partitiontable"]
    sector_bytes = int(table.get("sectorsize", 512))
    found = []
    for entry in table.get("partitions", ()):
        number = int(str(entry["node"]).removeprefix(edges.name).lstrip("p"))
        found.append(Partition(number, entry["start"] * sector_bytes, entry["size"] * sector_bytes))
    return tuple(
        part for part in found if 0 <= part.offset < part.offset + part.size_bytes <= reader.size_bytes
    )


def choose_partition(reader: Readable, number: int | None) -> tuple[int, int]:
    """Say where a partition, or the whole volume, lies.

    Args:
        reader: the volume.
        number: the partition; None for the only one of a disk, or a volume without a table.

    Returns:
        Offset and size, in bytes.

    Raises:
        ConfigurationError: there is no such partition, or more than one to choose from.
    """
    if number is None and _has_file_system(reader):
        return 0, reader.size_bytes
    found = partitions_of(reader)
    if number is None and not found:
        return 0, reader.size_bytes
    if number is None and len(found) == 1:
        return found[0].offset, found[0].size_bytes
    for part in found:
        if part.number == number:
            return part.offset, part.size_bytes
    numbers = ", ".join(str(part.number) for part in found)
    raise ConfigurationError(
        f"the volume has no partition {number}"
        if number is not None
        else "the volume has several partitions",
        hint=f"There are partitions {numbers}: choose with --partition." if found else "It has none at all.",
    )


def _has_file_system(reader: Readable) -> bool:
    """Tell whether the volume is a file system itself: a boot sector of NTFS can pass for a partition table."""
    plain = bytearray(min(4096, reader.size_bytes))
    reader.read_into(0, memoryview(plain))
    return file_system_of(plain) is not None


def file_system_of(start: bytes | bytearray) -> str | None:
    """Tell the file system of a volume from its first 4,096 bytes: ext4 (and its elders), ntfs, xfs, or None."""
    if start[1080:1082] == b"\x53\xef":
        return "ext4"
    if start[3:11] == b"NTFS    ":
        return "ntfs"
    return "xfs" if start[:4] == b"XFSB" else None
