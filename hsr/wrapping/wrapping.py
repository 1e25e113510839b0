"""Where a volume lies on the disk that is made of it, and the tables round it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np

from hsr.disks.form import Part, Stamp, rounded_up
from hsr.wrapping import layout_tables as layout
from hsr.wrapping.boot_code import BOOT_CODE
from hsr.wrapping.contents import START_BYTES
from hsr.wrapping.layout_tables import ALIGN_BYTES, SECTOR_BYTES
from hsr.wrapping.patches import PATCHES
from hsr.wrapping.traits import Traits, traits_of
from policies.errors import ConfigurationError

_BACKUP_SECTORS: Final = layout.GPT_TABLE_SECTORS + 1
_CHS_BEYOND: Final = (0xFE, 0xFF, 0xFF)
_HEADS: Final = 255
_TRACK_SECTORS: Final = 63

ReadVolume = Callable[[int, int], bytes]
"""Reads a volume: takes an offset and a size in bytes, both within it."""


class Wrap(StrEnum):
    """What a volume is wrapped in, by the names that people use."""

    NONE = "none"
    MBR = "mbr"
    GPT = "gpt"


@dataclass(frozen=True, slots=True)
class Wrapping:
    """A volume's place on its disk. See `wrapping_for`.

    Attributes:
        wrap: what it is wrapped in.
        volume_bytes: size of the volume.
        offset: where the volume begins on the disk, in bytes.
        disk_bytes: size of the disk.
    """

    wrap: Wrap
    volume_bytes: int
    offset: int
    disk_bytes: int

    @property
    def _first_sector(self) -> int:
        return self.offset // SECTOR_BYTES

    @property
    def _sectors(self) -> int:
        return -(-self.volume_bytes // SECTOR_BYTES)

    def tables(self, traits: Traits, stamp: Stamp) -> tuple[Part, ...]:
        """Lay out all that the disk holds beside the volume.

        Args:
            traits: what the partition says of itself.
            stamp: identifiers that were not captured are derived from it.

        Returns:
            Offsets on the disk and bytes, ascending; what lies between them and the volume is zero.
        """
        if self.wrap is Wrap.NONE:
            return ()
        if self.wrap is Wrap.MBR:
            status = layout.ACTIVE if traits.starts else 0
            entry = _mbr_entry(status, traits.mbr_type, self._first_sector, self._sectors)
            return ((0, _mbr(entry, b"", traits.signature(stamp))),)
        return self._gpt(traits, stamp)

    def _gpt(self, traits: Traits, stamp: Stamp) -> tuple[Part, ...]:
        last = self.disk_bytes // SECTOR_BYTES - 1
        protective = _mbr_entry(0, layout.GPT_PROTECTIVE, 1, min(last, layout.MBR_SECTORS_MAX - 1))
        starts = traits.starts and self._first_sector + self._sectors <= layout.MBR_SECTORS_MAX
        started = b""
        if starts:
            started = _mbr_entry(layout.ACTIVE, traits.mbr_type, self._first_sector, self._sectors)
        entry = np.zeros((), layout.GPT_ENTRY)
        entry["type"] = np.frombuffer(traits.gpt_type.bytes_le, np.uint8)
        entry["id"] = np.frombuffer(traits.partition_uuid(stamp).bytes_le, np.uint8)
        entry["first_sector"] = self._first_sector
        entry["last_sector"] = self._first_sector + self._sectors - 1
        entry["attributes"] = traits.attributes | (layout.LEGACY_BOOT if starts else 0)
        name = traits.name.encode("utf-16-le").ljust(2 * layout.NAME_UNITS, b"\0")
        entry["name"] = np.frombuffer(name, np.uint8)
        table = entry.tobytes().ljust(layout.GPT_TABLE_SECTORS * SECTOR_BYTES, b"\0")
        disk_id = traits.disk_uuid(stamp).bytes_le
        front = _gpt_header(1, last, 2, last, disk_id, table)
        back = _gpt_header(last, 1, last - layout.GPT_TABLE_SECTORS, last, disk_id, table)
        return (
            (0, _mbr(protective, started, 0) + front + table),
            (self.disk_bytes - _BACKUP_SECTORS * SECTOR_BYTES, table + back),
        )

    def parts(self, read: ReadVolume, metadata: Mapping[str, object], stamp: Stamp) -> tuple[Part, ...]:
        """Say all that stands on the disk otherwise than a volume at its place would have it.

        Args:
            read: gives bytes of the volume: those of the point, or what `parts` made of them before.
            metadata: of the image that leads to the point.
            stamp: identifiers that were not captured are derived from it.

        Returns:
            Offsets on the disk and bytes, ascending, none overlapping: tables, and sectors of the volume that must say
            where it lies.
        """
        if self.wrap is Wrap.NONE:
            return ()
        found = dict(self.tables(traits_of(read(0, min(START_BYTES, self.volume_bytes)), metadata), stamp))
        for place in {patch.place(self.volume_bytes) for patch in PATCHES}:
            sector = read(place, SECTOR_BYTES) if place >= 0 else b""
            patched = self.patched_sector(place, sector)
            if patched != sector:
                found[self.offset + place] = patched
        return tuple(sorted(found.items()))

    def patched_sector(self, place: int, sector: bytes) -> bytes:
        """Return a sector of the volume as it is to be on the disk.

        Args:
            place: where it begins in the volume.
            sector: 512 bytes.
        """
        for patch in PATCHES if self.offset else ():
            if patch.place(self.volume_bytes) == place:
                sector = patch.applied(sector, self._first_sector)
        return sector


def wrapping_for(wrap: Wrap, volume_bytes: int, *, disk_bytes: int | None = None) -> Wrapping:
    """Say where a volume lies on its disk.

    Args:
        wrap: what it is wrapped in.
        volume_bytes: its size.
        disk_bytes: size of a disk that was made for a volume of another size; None for just what it takes.

    Raises:
        ConfigurationError: a table of that kind cannot hold so much, or the disk does not.
    """
    found = _wrapping_for(wrap, volume_bytes)
    if disk_bytes is None:
        return found
    if disk_bytes < found.disk_bytes:
        raise ConfigurationError(
            "the disk is too small for the volume",
            expected=f"{found.disk_bytes:,} bytes",
            actual=f"{disk_bytes:,}",
        )
    return replace(found, disk_bytes=disk_bytes)


def _wrapping_for(wrap: Wrap, volume_bytes: int) -> Wrapping:
    if wrap is Wrap.NONE:
        return Wrapping(wrap, volume_bytes, 0, volume_bytes)
    end = ALIGN_BYTES + rounded_up(volume_bytes, SECTOR_BYTES)
    if wrap is Wrap.MBR and end > layout.MBR_SECTORS_MAX * SECTOR_BYTES:
        most = layout.MBR_SECTORS_MAX * SECTOR_BYTES - ALIGN_BYTES
        raise ConfigurationError(
            "the volume is too large for a master boot record, which ends at 2 TiB",
            expected=f"at most {most:,} bytes",
            actual=f"{volume_bytes:,}",
            hint="A GPT can hold it: say --wrap gpt.",
        )
    room = ALIGN_BYTES if wrap is Wrap.GPT else 0
    return Wrapping(wrap, volume_bytes, ALIGN_BYTES, rounded_up(end, ALIGN_BYTES) + room)


def _mbr_entry(status: int, partition_type: int, first_sector: int, sectors: int) -> bytes:
    entry = np.zeros((), layout.MBR_ENTRY)
    entry["status"] = status
    entry["first_chs"] = _chs(first_sector)
    entry["type"] = partition_type
    entry["last_chs"] = _chs(first_sector + sectors - 1)
    entry["first_sector"] = first_sector
    entry["sectors"] = sectors
    return entry.tobytes()


def _chs(sector: int) -> tuple[int, int, int]:
    """Return cylinder, head and sector as a table writes them."""
    track, number = divmod(sector, _TRACK_SECTORS)
    cylinder, head = divmod(track, _HEADS)
    if cylinder > 1023:
        return _CHS_BEYOND
    return head, (number + 1) | (cylinder >> 2 & 0xC0), cylinder & 0xFF


def _mbr(entry: bytes, started: bytes, disk_signature: int) -> bytes:
    """Lay out the first sector: one partition, and what the boot code starts if that is not active."""
    head = np.zeros((), layout.MBR)
    head["code"] = np.frombuffer(BOOT_CODE.ljust(head["code"].size, b"\0"), np.uint8)
    head["started"] = np.frombuffer(started.ljust(layout.MBR_ENTRY.itemsize, b"\0"), np.uint8)
    head["disk_signature"] = disk_signature
    head["entries"] = np.frombuffer(entry.ljust(head["entries"].size, b"\0"), np.uint8)
    head["signature"] = layout.BOOT_SIGNATURE
    return head.tobytes()


def _gpt_header(own: int, other: int, table_sector: int, last: int, disk_id: bytes, table: bytes) -> bytes:
    header = np.zeros((), layout.GPT_HEADER)
    header["signature"] = layout.GPT_SIGNATURE
    header["revision"] = layout.GPT_REVISION
    header["header_bytes"] = layout.GPT_HEADER.itemsize
    header["own_sector"] = own
    header["other_sector"] = other
    header["first_usable"] = 2 + layout.GPT_TABLE_SECTORS
    header["last_usable"] = last - _BACKUP_SECTORS
    header["disk_id"] = np.frombuffer(disk_id, np.uint8)
    header["table_sector"] = table_sector
    header["entries"] = layout.GPT_ENTRIES
    header["entry_bytes"] = layout.GPT_ENTRY.itemsize
    header["table_crc"] = zlib.crc32(table)
    header["header_crc"] = zlib.crc32(header.tobytes())
    return header.tobytes().ljust(SECTOR_BYTES, b"\0")
