"""What a volume holds, as its first bytes tell, and the type of partition that such a thing lies in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

import numpy as np
import numpy.typing as npt

from hsr.wrapping import layout_tables as layout

START_BYTES: Final = 72 << 10
"""So much of a volume's beginning tells what it holds."""


class Contents(StrEnum):
    """What a volume may hold."""

    EXT4 = "ext4"
    XFS = "xfs"
    BTRFS = "btrfs"
    NTFS = "ntfs"
    EXFAT = "exfat"
    FAT = "fat"
    LVM = "lvm"
    SWAP = "swap"
    LUKS = "luks"
    DISK = "disk"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PartitionType:
    """The type of a partition, in both kinds of tables."""

    mbr: int
    gpt: UUID


_LINUX: Final = PartitionType(0x83, UUID("0fc63daf-8483-4772-8e79-3d69d8477de4"))
_BASIC_DATA: Final = UUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7")

PARTITION_TYPES: Final = {
    Contents.EXT4: _LINUX,
    Contents.XFS: _LINUX,
    Contents.BTRFS: _LINUX,
    Contents.NTFS: PartitionType(0x07, _BASIC_DATA),
    Contents.EXFAT: PartitionType(0x07, _BASIC_DATA),
    Contents.FAT: PartitionType(0x0C, _BASIC_DATA),
    Contents.LVM: PartitionType(0x8E, UUID("e6d6d379-f507-44c2-a23c-238f2a3df928")),
    Contents.SWAP: PartitionType(0x82, UUID("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f")),
    Contents.LUKS: PartitionType(0xE8, UUID("ca7d7ccb-63ed-4c53-861c-1742536059cc")),
    Contents.DISK: _LINUX,
    Contents.UNKNOWN: _LINUX,
}
"""The types that are chosen where nobody captured one."""

_MARKS: Final = (
    (3, b"NTFS    ", Contents.NTFS),
    (3, b"EXFAT   ", Contents.EXFAT),
    (82, b"FAT32   ", Contents.FAT),
    (54, b"FAT16   ", Contents.FAT),
    (54, b"FAT12   ", Contents.FAT),
    (0, b"XFSB", Contents.XFS),
    (0, b"LUKS\xba\xbe", Contents.LUKS),
    (1080, b"\x53\xef", Contents.EXT4),
    (65600, b"_BHRfS_M", Contents.BTRFS),
    (4086, b"SWAPSPACE2", Contents.SWAP),
    *((512 * sector, b"LABELONE", Contents.LVM) for sector in range(4)),
)

_SECTOR_SIZES: Final = (512, 4096)


def contents_of(start: bytes) -> Contents:
    """Tell what a volume holds.

    Args:
        start: its first `START_BYTES`, or all of it.
    """
    for offset, mark, contents in _MARKS:
        if start[offset : offset + len(mark)] == mark:
            return contents
    return Contents.DISK if _has_partitions(start) else Contents.UNKNOWN


def is_startable(start: bytes) -> bool:
    """Tell whether a BIOS could start the first sector of a volume or disk: it has code, and says so."""
    return start[:1] not in (b"", b"\0") and start[510:512] == b"\x55\xaa"


def has_efi_system(start: bytes) -> bool:
    """Tell whether a disk has a partition that UEFI firmware starts programs from.

    Args:
        start: its first `START_BYTES`.
    """
    sector = layout.SECTOR_BYTES
    table = start[2 * sector : (2 + layout.GPT_TABLE_SECTORS) * sector]
    if start[sector : sector + 8] != layout.GPT_SIGNATURE or len(table) < layout.GPT_TABLE_SECTORS * sector:
        return False
    types = np.frombuffer(table, layout.GPT_ENTRY)["type"]
    return any(row.tobytes() == layout.GPT_EFI_SYSTEM.bytes_le for row in types)


def table_of(start: bytes) -> str | None:
    """Say which partition table a volume begins with.

    Args:
        start: its first `START_BYTES`, or all of it.

    Returns:
        The table and how many partitions it has, in words; None if the volume is no disk itself, but a file system,
        say: boot sectors of NTFS and FAT end like a master boot record.
    """
    if contents_of(start) is not Contents.DISK:
        return None
    count, words = _gpt_count(start), "a GPT"
    if count is None:
        count, words = len(_mbr_entries(start)), "a master boot record"
    return f"{words} with {count} partition{'' if count == 1 else 's'}"


def _has_partitions(start: bytes) -> bool:
    """Tell whether a volume is a disk itself."""
    return bool(_gpt_count(start) or len(_mbr_entries(start)))


def _gpt_count(start: bytes) -> int | None:
    """Count the partitions of a GPT, in sectors of either size; None if there is no GPT."""
    for sector in _SECTOR_SIZES:
        if start[sector : sector + len(layout.GPT_SIGNATURE)] == layout.GPT_SIGNATURE:
            table = start[2 * sector : 2 * sector + layout.GPT_ENTRIES * layout.GPT_ENTRY.itemsize]
            whole = len(table) // layout.GPT_ENTRY.itemsize * layout.GPT_ENTRY.itemsize
            return int(np.frombuffer(table[:whole], layout.GPT_ENTRY)["type"].any(axis=1).sum())
    return None


def _mbr_entries(start: bytes) -> npt.NDArray[np.void]:
    """Return the partitions of a master boot record; none where it is a boot sector of some other kind."""
    none = np.zeros(0, layout.MBR_ENTRY)
    if start[510:512] != b"\x55\xaa" or _is_fat_like(start):
        return none
    head = np.frombuffer(start[: layout.MBR.itemsize], layout.MBR)[0]
    entries = np.frombuffer(head["entries"].tobytes(), layout.MBR_ENTRY)
    used = entries[entries["type"] != 0]
    are_sound = (used["status"] & 0x7F == 0) & (used["first_sector"] > 0) & (used["sectors"] > 0)
    return used if are_sound.all() else none


def _is_fat_like(start: bytes) -> bool:
    """Tell whether a first sector describes a FAT, though it does not name it, as old ones do not.

    Source: Microsoft FAT Specification, section 3.1.
    """
    sector_bytes, reserved = (int.from_bytes(start[at : at + 2], "little") for at in (11, 14))
    cluster_sectors, fats, medium = start[13], start[16], start[21]
    return (
        start[0] in (0xEB, 0xE9)
        and sector_bytes in (512, 1024, 2048, 4096)
        and cluster_sectors.bit_count() == 1
        and reserved > 0
        and fats in (1, 2)
        and (medium == 0xF0 or medium >= 0xF8)
    )
