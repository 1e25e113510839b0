"""On-disk structures of partition tables: the master boot record, and GPT; docs/wrapping.md.

All numbers are little-endian; identifiers are in the mixed order of Windows.

Source: UEFI Specification 2.10, sections 5.2 (the two kinds of master boot record) and 5.3 (GPT).
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import numpy as np

SECTOR_BYTES: Final = 512
ALIGN_BYTES: Final = 1 << 20
"""Partitions begin at a multiple of it, so that file systems keep to the sectors of any medium."""

MBR_SECTORS_MAX: Final = 1 << 32
"""A master boot record counts sectors in 32 bits."""
BOOT_SIGNATURE: Final = 0xAA55
ACTIVE: Final = 0x80
GPT_PROTECTIVE: Final = 0xEE
EXTENDED_TYPES: Final = frozenset({0x05, 0x0F, 0x85})

MBR_ENTRY: Final = np.dtype(
    [
        ("status", "u1"),
        ("first_chs", "u1", (3,)),
        ("type", "u1"),
        ("last_chs", "u1", (3,)),
        ("first_sector", "<u4"),
        ("sectors", "<u4"),
    ]
)
"""A partition in a master boot record."""

MBR: Final = np.dtype(
    [
        ("code", "u1", (424,)),
        ("started", "u1", (16,)),
        ("disk_signature", "<u4"),
        ("reserved", "<u2"),
        ("entries", "u1", (64,)),
        ("signature", "<u2"),
    ]
)
"""First sector of a disk. `started` is a fifth entry, which only our own boot code knows: what it starts where no entry
is active."""

GPT_SIGNATURE: Final = b"EFI PART"
GPT_REVISION: Final = 0x0001_0000
GPT_ENTRIES: Final = 128
GPT_TABLE_SECTORS: Final = 32
LEGACY_BOOT: Final = 1 << 2
"""Attribute of a partition that a BIOS may start."""
NAME_UNITS: Final = 36

GPT_HEADER: Final = np.dtype(
    [
        ("signature", "S8"),
        ("revision", "<u4"),
        ("header_bytes", "<u4"),
        ("header_crc", "<u4"),
        ("reserved", "<u4"),
        ("own_sector", "<u8"),
        ("other_sector", "<u8"),
        ("first_usable", "<u8"),
        ("last_usable", "<u8"),
        ("disk_id", "u1", (16,)),
        ("table_sector", "<u8"),
        ("entries", "<u4"),
        ("entry_bytes", "<u4"),
        ("table_crc", "<u4"),
    ]
)
"""Header of a GPT, the second and the last sector of a disk; what follows up to the sector's end is zero."""

GPT_ENTRY: Final = np.dtype(
    [
        ("type", "u1", (16,)),
        ("id", "u1", (16,)),
        ("first_sector", "<u8"),
        ("last_sector", "<u8"),
        ("attributes", "<u8"),
        ("name", "u1", (72,)),
    ]
)
"""A partition in a GPT; the name is in UTF-16."""

GPT_EFI_SYSTEM: Final = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")

if (MBR_ENTRY.itemsize, MBR.itemsize) != (16, 512) or (GPT_HEADER.itemsize, GPT_ENTRY.itemsize) != (92, 128):
    raise AssertionError("layout of partition tables drifted")
