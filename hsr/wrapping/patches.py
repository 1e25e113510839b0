"""The bytes of a volume that must say where it lies, and what becomes of them when it is put into a partition.

Everything else of a volume goes to the disk as it is. A sector that is not what a patch is for is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hsr.wrapping.layout_tables import SECTOR_BYTES

LAST: Final = -1
"""The last whole sector of a volume."""

_FIELD_BYTES: Final = 4
_BOOTABLE: Final = (510, b"\x55\xaa")


@dataclass(frozen=True, slots=True)
class Patch:
    """A field of a sector that counts the sectors in front of the partition.

    Attributes:
        what: the sector, in words.
        sector: its number in the volume; `LAST` for the last one.
        marks: what stands in such a sector, by offset; only if all of it does, the field is written.
        field: offset of the field in the sector: a u4.
    """

    what: str
    sector: int
    marks: tuple[tuple[int, bytes], ...]
    field: int

    def place(self, volume_bytes: int) -> int:
        """Return where the sector begins in a volume; less than 0 if it has no such sector."""
        sectors = volume_bytes // SECTOR_BYTES
        number = sectors - 1 if self.sector == LAST else self.sector
        return number * SECTOR_BYTES if number < sectors else -1

    def applied(self, sector: bytes, hidden_sectors: int) -> bytes:
        """Return the sector as it is to be on the disk.

        Args:
            sector: 512 bytes, as the volume has it.
            hidden_sectors: how many sectors the disk has in front of the volume.
        """
        if any(sector[offset : offset + len(mark)] != mark for offset, mark in self.marks):
            return sector
        value = hidden_sectors.to_bytes(_FIELD_BYTES, "little")
        return sector[: self.field] + value + sector[self.field + _FIELD_BYTES :]


_NTFS: Final = ((3, b"NTFS    "), _BOOTABLE)
_FAT32: Final = ((82, b"FAT32   "), _BOOTABLE)

PATCHES: Final = (
    Patch("boot sector of NTFS", 0, _NTFS, 28),
    Patch("its copy", LAST, _NTFS, 28),
    Patch("boot sector of FAT32", 0, _FAT32, 28),
    Patch("its copy", 6, _FAT32, 28),
    Patch("boot sector of FAT16", 0, ((54, b"FAT16   "), _BOOTABLE), 28),
    Patch("boot sector of FAT12", 0, ((54, b"FAT12   "), _BOOTABLE), 28),
)
"""All that is changed of a volume. Patches of one sector are applied one after the other; each fits other contents."""
