"""VHD: dynamic, where only blocks that hold something take room, and fixed, a raw disk with a footer.

Data begins at multiples of 4 KiB, since media have such sectors; the format asks for no more than 512 bytes. The size
that counts is that of the footer; the geometry is what the specification derives from it, and may say less.

Source: "Virtual Hard Disk Image Format Specification", version 1.0; see docs/disks.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import Final

import numpy as np

from hsr.disks import layout_vhd as layout
from hsr.disks.form import HIDDEN_BYTES, I32, DiskKind, Part, Slots, Stamp, count_used, rounded_up

_ALIGN_BYTES: Final = 4096
_LEAD: Final = bytes(_ALIGN_BYTES - layout.BITMAP_BYTES) + b"\xff" * layout.BITMAP_BYTES
_SPT_SMALL: Final = 17
_CHS_SECTORS_MAX: Final = 65535 * 16 * 255


class VhdForm:
    """A dynamic disk.

    Args:
        size_bytes: what is to fit on it.
    """

    kind = DiskKind.VHD

    def __init__(self, size_bytes: int) -> None:
        self.disk_bytes = rounded_up(size_bytes, layout.SECTOR_BYTES)
        blocks = -(-self.disk_bytes // layout.BLOCK_BYTES)
        self._table_bytes = rounded_up(4 * blocks, layout.SECTOR_BYTES)
        offset = max(HIDDEN_BYTES, rounded_up(layout.TABLE_OFFSET + self._table_bytes, _ALIGN_BYTES))
        self.slots = Slots(layout.BLOCK_BYTES, blocks, offset, _LEAD)

    def file_bytes(self, used: I32) -> int:
        """Return the size of the finalized file; see `DiskForm`."""
        return self.slots.end(count_used(used)) + layout.FOOTER.itemsize

    def tables(self, used: I32, stamp: Stamp) -> Iterator[Part]:
        """Yield the header and the block allocation table; see `DiskForm`."""
        header = np.zeros((), layout.HEADER)
        header["cookie"] = layout.HEADER_COOKIE
        header["data_offset"] = layout.NOWHERE
        header["table_offset"] = layout.TABLE_OFFSET
        header["version"] = layout.FORMAT_VERSION
        header["table_entries"] = len(used)
        header["block_bytes"] = layout.BLOCK_BYTES
        header["checksum"] = checksum(header.tobytes())
        yield layout.FOOTER.itemsize, header.tobytes()
        table = np.full(self._table_bytes // 4, layout.UNALLOCATED, ">u4")
        first = self.slots.offset + _ALIGN_BYTES - layout.BITMAP_BYTES
        bitmaps = (first + used.astype(np.int64) * self.slots.stride_bytes) // layout.SECTOR_BYTES
        table[: len(used)] = np.where(used >= 0, bitmaps, layout.UNALLOCATED)
        yield layout.TABLE_OFFSET, table.tobytes()

    def signatures(self, used: I32, stamp: Stamp) -> Sequence[Part]:
        """Return both footers; see `DiskForm`."""
        footer = vhd_footer(self.disk_bytes, layout.TYPE_DYNAMIC, stamp)
        return (self.slots.end(count_used(used)), footer), (0, footer)


class VhdFixedForm:
    """A fixed disk.

    Args:
        size_bytes: what is to fit on it.
    """

    kind = DiskKind.VHD_FIXED
    slots = None

    def __init__(self, size_bytes: int) -> None:
        self.disk_bytes = rounded_up(size_bytes, layout.SECTOR_BYTES)

    def file_bytes(self, used: I32) -> int:
        """Return the size of the finalized file; see `DiskForm`."""
        return self.disk_bytes + layout.FOOTER.itemsize

    def tables(self, used: I32, stamp: Stamp) -> Iterator[Part]:
        """Yield nothing; see `DiskForm`."""
        return iter(())

    def signatures(self, used: I32, stamp: Stamp) -> Sequence[Part]:
        """Return the footer; see `DiskForm`."""
        return ((self.disk_bytes, vhd_footer(self.disk_bytes, layout.TYPE_FIXED, stamp)),)


def vhd_footer(disk_bytes: int, disk_type: int, stamp: Stamp) -> bytes:
    """Return the footer of a disk.

    Args:
        disk_bytes: its size, a multiple of 512.
        disk_type: fixed or dynamic.
        stamp: gives its identity and time.
    """
    footer = np.zeros((), layout.FOOTER)
    footer["cookie"] = layout.FOOTER_COOKIE
    footer["features"] = layout.FEATURES
    footer["version"] = layout.FORMAT_VERSION
    is_dynamic = disk_type == layout.TYPE_DYNAMIC
    footer["data_offset"] = layout.FOOTER.itemsize if is_dynamic else layout.NOWHERE
    seconds = int(stamp.made_at.astimezone(UTC).timestamp()) - layout.EPOCH_S
    footer["time_stamp_s"] = min(max(seconds, 0), 0xFFFF_FFFF)
    footer["creator_application"] = layout.CREATOR_APPLICATION
    footer["creator_version"] = layout.CREATOR_VERSION
    footer["creator_system"] = layout.CREATOR_SYSTEM
    footer["original_bytes"] = footer["current_bytes"] = disk_bytes
    geometry = vhd_geometry(disk_bytes // layout.SECTOR_BYTES)
    footer["cylinders"], footer["heads"], footer["sectors"] = geometry
    footer["disk_type"] = disk_type
    footer["unique_id"] = np.frombuffer(stamp.identity("vhd").bytes, np.uint8)
    footer["checksum"] = checksum(footer.tobytes())
    return footer.tobytes()


def vhd_geometry(sectors: int) -> tuple[int, int, int]:
    """Derive cylinders, heads and sectors a track from a number of sectors.

    Source: "Virtual Hard Disk Image Format Specification", appendix "CHS Calculation".
    """
    sectors = min(sectors, _CHS_SECTORS_MAX)
    if sectors >= 65535 * 16 * 63:
        return sectors // 255 // 16, 16, 255
    tracks = sectors // _SPT_SMALL
    heads, a_track = max((tracks + 1023) // 1024, 4), _SPT_SMALL
    if tracks >= heads * 1024 or heads > 16:
        heads, a_track = 16, 31
        tracks = sectors // a_track
    if tracks >= heads * 1024:
        heads, a_track = 16, 63
        tracks = sectors // a_track
    return tracks // heads, heads, a_track


def checksum(structure: bytes) -> int:
    """Return the complement of the sum of all bytes; the checksum's own are zero."""
    return ~sum(structure) & 0xFFFF_FFFF
