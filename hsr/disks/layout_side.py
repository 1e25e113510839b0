"""Layout of what tells of a disk that is not finalized; docs/disks.md. All numbers are little-endian.

Its map, `.rollforward-hsr/NAME.map`: a header, then records, each at a multiple of 512 bytes. The mark on a device.

Source: docs/disks.md, version 1.
"""

from __future__ import annotations

from typing import Final

import numpy as np

MAGIC: Final = b"RFDISKM\x1a"
RECORD_MAGIC: Final = b"RFDISKR\x1a"
VERSION: Final = 1
ALIGN_BYTES: Final = 512

RECORD_STARTED: Final = 1
"""The disk's own file is there, durably."""
RECORD_BLOCKS: Final = 2
"""So many blocks got the next slots, in this order; what they hold is durable."""
RECORD_FINALIZING: Final = 3
"""From here on the disk takes no more writes, and may be a disk already."""

RECORD_SETTLED: Final = 4
"""Of a raw file or a device: all but its front is as it is to be, durably; the front comes last."""
RECORD_LENT: Final = 5
"""From here on the disk is lent: it takes no writes, and may show itself, until it is taken back."""
RECORD_TAKEN_BACK: Final = 6
"""It shows nothing any more, durably, and takes writes again."""

HEADER: Final = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("reserved_a", "<u4"),
        ("kind", "S16"),
        ("size_bytes", "<u8"),
        ("block_bytes", "<u8"),
        ("block_count", "<u8"),
        ("slots_offset", "<u8"),
        ("stride_bytes", "<u8"),
        ("owner", "u1", (16,)),
        ("taken", "u1", (16,)),
        ("reserved_b", "u1", (376,)),
        ("digest", "u1", (32,)),
    ]
)
"""First 512 bytes. `digest` is BLAKE3 of all before it. The four numbers before `owner` are 0 for a kind without slots,
and `owner` and `taken` are 0 for what is no device."""

MARK_MAGIC: Final = b"RFDISKD\x1a"
MARK_OFFSET: Final = 2048

MARK: Final = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("reserved_a", "<u4"),
        ("owner", "u1", (16,)),
        ("size_bytes", "<u8"),
        ("identity", "S256"),
        ("taken", "u1", (16,)),
        ("reserved_b", "u1", (168,)),
        ("digest", "u1", (32,)),
    ]
)
"""The mark on a device that is not finalized. `digest` is BLAKE3 of all before it."""

RECORD: Final = np.dtype(
    [
        ("magic", "S8"),
        ("serial", "<u8"),
        ("kind", "<u4"),
        ("count", "<u4"),
        ("blocks_digest", "u1", (20,)),
        ("digest", "u1", (20,)),
    ]
)
"""Head of a record; `count` blocks follow as u32, then zeros up to the next multiple of 512 bytes. `serial` counts
from 1. `blocks_digest` is BLAKE3 of the blocks, `digest` of what stands before it, both cut to 20 bytes."""

if (HEADER.itemsize, RECORD.itemsize, MARK.itemsize) != (512, 64, 512):
    raise AssertionError("layout of the map drifted")
