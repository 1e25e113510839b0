"""On-disk structures of VMDK: the header of a sparse extent; tables of it are arrays of u32; docs/disks.md.

All numbers are little-endian. Offsets and sizes are in sectors.

Source: "VMware Virtual Disk Format 5.0", sections "Hosted Sparse Extents" and "The Descriptor File".
"""

from __future__ import annotations

from typing import Final

import numpy as np

SECTOR_BYTES: Final = 512
GRAIN_BYTES: Final = 64 << 10
TABLE_ENTRIES: Final = 512
TABLE_BYTES: Final = 4 * TABLE_ENTRIES
SECTORS_MAX: Final = 1 << 32
"""Tables count sectors of the file in 32 bits."""

MAGIC: Final = 0x564D444B
"""The bytes KDMV."""
VERSION: Final = 1
FLAGS: Final = 0b11
"""The line ends are to be checked; there are two sets of tables."""
DESCRIPTOR_OFFSET: Final = 512
DESCRIPTOR_BYTES: Final = 10 << 10
LINE_ENDS: Final = b"\n \r\n"

HEADER: Final = np.dtype(
    [
        ("magic", "<u4"),
        ("version", "<u4"),
        ("flags", "<u4"),
        ("capacity_sectors", "<u8"),
        ("grain_sectors", "<u8"),
        ("descriptor_sector", "<u8"),
        ("descriptor_sectors", "<u8"),
        ("table_entries", "<u4"),
        ("second_directory_sector", "<u8"),
        ("directory_sector", "<u8"),
        ("overhead_sectors", "<u8"),
        ("unclean", "u1"),
        ("line_ends", "u1", (4,)),
        ("compression", "<u2"),
        ("reserved", "u1", (433,)),
    ]
)
"""Header of a sparse extent, the first sector."""

if HEADER.itemsize != SECTOR_BYTES:
    raise AssertionError("layout of VMDK drifted")
