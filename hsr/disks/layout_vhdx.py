"""On-disk structures of VHDX: headers, region table, metadata, block allocation table; docs/disks.md.

All numbers are little-endian; identifiers are in the mixed order of Windows.

Source: [MS-VHDX] "Virtual Hard Disk v2 (VHDX) File Format", sections 2.2 to 2.6.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import numpy as np

MIB: Final = 1 << 20
BLOCK_BYTES: Final = MIB
BYTES_MAX: Final = 64 << 40
LOGICAL_SECTOR_BYTES: Final = 512
PHYSICAL_SECTOR_BYTES: Final = 4096
CHUNK_BLOCKS: Final = (1 << 23) * LOGICAL_SECTOR_BYTES // BLOCK_BYTES
"""After so many payload blocks the table has an entry for a sector bitmap, which only a child uses."""

FILE_SIGNATURE: Final = b"vhdxfile"
HEADER_SIGNATURE: Final = b"head"
REGIONS_SIGNATURE: Final = b"regi"
METADATA_SIGNATURE: Final = b"metadata"
HEADER_OFFSETS: Final = (64 << 10, 128 << 10)
REGIONS_OFFSETS: Final = (192 << 10, 256 << 10)
HEADER_BYTES: Final = 4 << 10
REGIONS_BYTES: Final = 64 << 10
LOG_OFFSET: Final = 1 * MIB
LOG_BYTES: Final = MIB
METADATA_OFFSET: Final = 2 * MIB
METADATA_BYTES: Final = MIB
ITEMS_OFFSET: Final = 64 << 10
TABLE_OFFSET: Final = 3 * MIB

BLOCK_ZERO: Final = 2
BLOCK_PRESENT: Final = 6
"""States of a payload block, the lowest three bits of its entry; from bit 20 on the entry holds MiB of the file."""

REGION_TABLE: Final = UUID("2DC27766-F623-4200-9D64-115E9BFD4A08")
REGION_METADATA: Final = UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E")
ITEM_PARAMETERS: Final = UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
ITEM_SIZE: Final = UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
ITEM_DISK_ID: Final = UUID("BECA12AB-B2E6-4523-93EF-C309E000C746")
ITEM_LOGICAL_SECTOR: Final = UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
ITEM_PHYSICAL_SECTOR: Final = UUID("CDA348C7-445D-4471-9CC9-E9885251C556")
ITEM_REQUIRED: Final = 1 << 2
ITEM_OF_DISK: Final = 1 << 1

IDENTIFIER: Final = np.dtype([("signature", "S8"), ("creator", "u1", (512,))])
"""First bytes of the file; the creator in UTF-16."""

HEADER: Final = np.dtype(
    [
        ("signature", "S4"),
        ("checksum", "<u4"),
        ("sequence", "<u8"),
        ("file_write_id", "u1", (16,)),
        ("data_write_id", "u1", (16,)),
        ("log_id", "u1", (16,)),
        ("log_version", "<u2"),
        ("version", "<u2"),
        ("log_bytes", "<u4"),
        ("log_offset", "<u8"),
    ]
)
"""One of two headers; its checksum, CRC-32C, is that of 4 KiB."""

REGIONS: Final = np.dtype([("signature", "S4"), ("checksum", "<u4"), ("count", "<u4"), ("reserved", "<u4")])
"""Head of the region table; the checksum, CRC-32C, is that of 64 KiB."""

REGION: Final = np.dtype([("id", "u1", (16,)), ("offset", "<u8"), ("bytes", "<u4"), ("required", "<u4")])
"""Entry of the region table."""

METADATA: Final = np.dtype(
    [("signature", "S8"), ("reserved_a", "<u2"), ("count", "<u2"), ("reserved_b", "u1", (20,))]
)
"""Head of the metadata table."""

ITEM: Final = np.dtype(
    [("id", "u1", (16,)), ("offset", "<u4"), ("bytes", "<u4"), ("flags", "<u4"), ("reserved", "<u4")]
)
"""Entry of the metadata table."""

_SIZES: Final = ((HEADER, 80), (REGIONS, 16), (REGION, 32), (METADATA, 32), (ITEM, 32))
if any(dtype.itemsize != size for dtype, size in _SIZES):
    raise AssertionError("layout of VHDX drifted")
