"""Layout of the cursor of a disk that is rolled forward, `.rollforward-hsr/NAME.cursor`; docs/disks.md.

Header, points, the path of a child, digest. All numbers are little-endian.

Source: docs/disks.md, version 1.
"""

from __future__ import annotations

from typing import Final

import numpy as np

MAGIC: Final = b"RFDISKC\x1a"
VERSION: Final = 1
POINTS_MAX: Final = 1 << 16
DIGEST_BYTES: Final = 32

PHASE_NEW: Final = 1
"""Nothing was written to the disk yet."""
PHASE_BUILDING: Final = 2
"""A goal is being built from nothing."""
PHASE_ROLLING: Final = 3
"""The disk holds values of the points that are named."""
PHASE_FINALIZING: Final = 4
"""The disk takes no more points, and may be a disk already."""
PHASE_FINALIZED: Final = 6
"""It was finalized at the point that is named, and is whoever's who uses it."""

PHASE_LENDING: Final = 7
"""It is being made a disk that others read, to be taken back later; it may be one already."""
PHASE_LENT: Final = 8
"""It is a disk that others read, under the child that is named, until it is taken back."""
PHASE_RETURNING: Final = 9
"""It is being taken back, and may be a disk still."""

CHILD_BYTES_MAX: Final = 4096

CURSOR: Final = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("phase", "<u4"),
        ("kind", "S16"),
        ("wrap", "S8"),
        ("job_uid", "u1", (16,)),
        ("chain_id", "u1", (16,)),
        ("disk_bytes", "<u8"),
        ("offset_bytes", "<u8"),
        ("room_bytes", "<u8"),
        ("serial", "<u8"),
        ("done_bytes", "<u8"),
        ("point_count", "<u4"),
        ("goal_count", "<u4"),
        ("lent_bytes", "<u8"),
        ("lent_time_ns", "<i8"),
        ("child_bytes", "<u4"),
        ("reserved", "u1", (116,)),
    ]
)
"""First 256 bytes."""

POINT: Final = np.dtype(
    [
        ("id", "u1", (16,)),
        ("time_us", "<i8"),
        ("volume_bytes", "<u8"),
        ("number", "<u4"),
        ("reserved", "<u4"),
    ]
)
"""A point; `time_us` is microseconds since 1970-01-01 UTC."""

if (CURSOR.itemsize, POINT.itemsize) != (256, 40):
    raise AssertionError("layout of the cursor drifted")
