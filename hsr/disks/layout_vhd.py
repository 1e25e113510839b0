"""On-disk structures of VHD: a footer at both ends, a dynamic header, the block allocation table; docs/disks.md.

All numbers are big-endian.

Source: "Virtual Hard Disk Image Format Specification", version 1.0, October 2006.
"""

from __future__ import annotations

from typing import Final

import numpy as np

SECTOR_BYTES: Final = 512
BLOCK_BYTES: Final = 2 << 20
BITMAP_BYTES: Final = 512
"""One bit a sector of a block, in front of the block."""
BYTES_MAX: Final = 2040 << 30

FOOTER_COOKIE: Final = b"conectix"
HEADER_COOKIE: Final = b"cxsparse"
FORMAT_VERSION: Final = 0x0001_0000
FEATURES: Final = 2
"""The bit that is always set."""
CREATOR_APPLICATION: Final = b"win "
"""Says that the size counts and not the rounded geometry: readers know no other way to be told."""
CREATOR_VERSION: Final = 0x000A_0000
CREATOR_SYSTEM: Final = b"Wi2k"
TYPE_FIXED: Final = 2
TYPE_DYNAMIC: Final = 3
NOWHERE: Final = 0xFFFF_FFFF_FFFF_FFFF
UNALLOCATED: Final = 0xFFFF_FFFF
EPOCH_S: Final = 946_684_800
"""2000-01-01 UTC, from which time stamps count, in seconds since 1970."""

FOOTER: Final = np.dtype(
    [
        ("cookie", "S8"),
        ("features", ">u4"),
        ("version", ">u4"),
        ("data_offset", ">u8"),
        ("time_stamp_s", ">u4"),
        ("creator_application", "S4"),
        ("creator_version", ">u4"),
        ("creator_system", "S4"),
        ("original_bytes", ">u8"),
        ("current_bytes", ">u8"),
        ("cylinders", ">u2"),
        ("heads", "u1"),
        ("sectors", "u1"),
        ("disk_type", ">u4"),
        ("checksum", ">u4"),
        ("unique_id", "u1", (16,)),
        ("saved_state", "u1"),
        ("reserved", "u1", (427,)),
    ]
)
"""Last 512 bytes of the file, and of a dynamic disk also the first."""

HEADER: Final = np.dtype(
    [
        ("cookie", "S8"),
        ("data_offset", ">u8"),
        ("table_offset", ">u8"),
        ("version", ">u4"),
        ("table_entries", ">u4"),
        ("block_bytes", ">u4"),
        ("checksum", ">u4"),
        ("parent_id", "u1", (16,)),
        ("parent_time_s", ">u4"),
        ("reserved_a", ">u4"),
        ("parent_name", "u1", (512,)),
        ("parent_locators", "u1", (192,)),
        ("reserved_b", "u1", (256,)),
    ]
)
"""Header of a dynamic disk, 1,024 bytes, after the first footer."""

TABLE_OFFSET: Final = FOOTER.itemsize + HEADER.itemsize

if (FOOTER.itemsize, HEADER.itemsize) != (512, 1024):
    raise AssertionError("layout of VHD drifted")
