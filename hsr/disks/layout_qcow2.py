"""On-disk structures of qcow2, version 3: the header; its tables are arrays of u64 and u16; docs/disks.md.

All numbers are big-endian.

Source: docs/interop/qcow2.txt of QEMU.
"""

from __future__ import annotations

from typing import Final

import numpy as np

MAGIC: Final = 0x514649FB
VERSION: Final = 3
CLUSTER_BITS_MIN: Final = 16
CLUSTER_BITS_MAX: Final = 21
REFCOUNT_ORDER: Final = 4
COPIED: Final = 1 << 63
"""Flag of an entry: what it leads to has one owner."""

HEADER: Final = np.dtype(
    [
        ("magic", ">u4"),
        ("version", ">u4"),
        ("backing_offset", ">u8"),
        ("backing_bytes", ">u4"),
        ("cluster_bits", ">u4"),
        ("disk_bytes", ">u8"),
        ("encryption", ">u4"),
        ("l1_entries", ">u4"),
        ("l1_offset", ">u8"),
        ("refcounts_offset", ">u8"),
        ("refcounts_clusters", ">u4"),
        ("snapshots", ">u4"),
        ("snapshots_offset", ">u8"),
        ("incompatible", ">u8"),
        ("compatible", ">u8"),
        ("autoclear", ">u8"),
        ("refcount_order", ">u4"),
        ("header_bytes", ">u4"),
        ("extensions_end", ">u8"),
    ]
)
"""The header, and the mark that no extensions follow."""

HEADER_BYTES: Final = 104

if HEADER.itemsize != HEADER_BYTES + 8:
    raise AssertionError("layout of qcow2 drifted")
