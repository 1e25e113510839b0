"""On-disk layout of the image container, in one place; `docs/format.md` describes the same tables in words.

    header      fixed part, point table, metadata, key area
    frames      stored stream: frame after frame, in the order of the index, without gaps
    index       records, 1,024 to a page
    page table  one entry a page of the index
    segments    one digest for each MiB of the stored stream
    seals       one for each covered point; in encrypted images only
    trailer     where everything is, and the root

All numbers are little-endian. Reserved bytes are zero, and a reader refuses others.

Source: docs/format.md, version 1.
"""

from __future__ import annotations

from typing import Final

import numpy as np

VERSION_MAJOR: Final = 1
VERSION_MINOR: Final = 0

HEADER_MAGIC: Final = b"RFIMAGE\x1a"
TRAILER_MAGIC: Final = b"RFTRAIL\x1a"

DIGEST_BYTES: Final = 32
FRAME_DIGEST_BYTES: Final = 24
ID_BYTES: Final = 16

GRANULES_PER_BLOCK: Final = 128
MIN_GRANULE_BYTES: Final = 512
MAX_GRANULE_BYTES: Final = 65_536

SEGMENT_BYTES: Final = 1 << 20
RECORD_BYTES: Final = 64
RECORDS_PER_PAGE: Final = 1024
PAGE_BYTES: Final = RECORD_BYTES * RECORDS_PER_PAGE

MAX_BLOCKS: Final = (1 << 32) - 1
MAX_POINTS: Final = 1 << 18
MAX_METADATA_BYTES: Final = 4 << 20
MAX_KEY_AREA_BYTES: Final = 1 << 20

HEADER_BASE: Final = 1 << 0
"""Header flag: the image leads from nothing."""
HEADER_ENCRYPTED: Final = 1 << 1
"""Header flag: frames and metadata are encrypted, and the points are sealed."""
HEADER_FLAGS_KNOWN: Final = HEADER_BASE | HEADER_ENCRYPTED

FRAME_ZERO: Final = 0
"""Record flags: every granule of the frame is zero; it has no stored bytes."""
FRAME_RAW: Final = 1
"""Record flags: the granules are stored as they are."""
FRAME_ZSTD: Final = 2
"""Record flags: the granules are stored as one Zstandard frame (RFC 8878)."""
FRAME_TRACE: Final = 1 << 3
"""Record flag, beside the others: a consolidation left the hidden frame out; its record stays, without bytes.
In encrypted images only."""

FRAME_WINDOW_BYTES_MAX: Final = 1 << 24
"""Largest window that a Zstandard frame may ask for."""
FRAME_TAG_BYTES: Final = 16
"""How much longer the stored bytes of an encrypted frame are: the tag of AES-256-GCM."""
SEAL_BYTES: Final = 32

HEADER: Final = np.dtype(
    [
        ("magic", "S8"),
        ("version_major", "<u2"),
        ("version_minor", "<u2"),
        ("flags", "<u4"),
        ("point_count", "<u4"),
        ("metadata_bytes", "<u4"),
        ("key_area_bytes", "<u4"),
        ("granule_bytes", "<u4"),
        ("block_bytes", "<u4"),
        ("reserved_a", "<u4"),
        ("zero_from_bytes", "<u8"),
        ("chain_id", "u1", (16,)),
        ("reserved_b", "u1", (160,)),
        ("digest", "u1", (32,)),
    ]
)
"""Fixed part of the header, 256 bytes, at offset 0. `digest` is BLAKE3 of the fixed part before it,
the point table and the metadata."""

POINT: Final = np.dtype(
    [
        ("id", "u1", (16,)),
        ("capture_id", "u1", (16,)),
        ("time_us", "<i8"),
        ("volume_bytes", "<u8"),
        ("number", "<u4"),
        ("reserved_a", "<u4"),
        ("reserved_b", "<u8"),
    ]
)
"""Entry of the point table, 64 bytes: first the from point (all zero for a base), then each covered point."""

RECORD: Final = np.dtype(
    [
        ("block", "<u4"),
        ("origin", "<u4"),
        ("offset", "<u8"),
        ("length", "<u4"),
        ("flags", "<u4"),
        ("mask_lo", "<u8"),
        ("mask_hi", "<u8"),
        ("digest", "u1", (24,)),
    ]
)
"""Index record, 64 bytes, sorted by block, then by origin from newest to oldest."""

KEY_AREA: Final = np.dtype(
    [
        ("magic", "S8"),
        ("slot_count", "<u4"),
        ("reserved_a", "<u4"),
        ("generation", "<u8"),
        ("chain_id", "u1", (16,)),
        ("seal", "u1", (24,)),
        ("digest", "u1", (32,)),
    ]
)
"""Head of the key area, 96 bytes, before the slots. `seal` is BLAKE3, keyed, of bytes 0 to 39 and of all slots, cut to
24 bytes: only who has the data key can make it. `digest` is BLAKE3 of bytes 0 to 63 and of all slots."""

KEY_SLOT: Final = np.dtype(
    [
        ("kdf", "<u4"),
        ("memory_kib", "<u4"),
        ("passes", "<u4"),
        ("lanes", "<u4"),
        ("salt", "u1", (16,)),
        ("nonce", "u1", (12,)),
        ("wrapped", "u1", (48,)),
        ("reserved", "u1", (36,)),
    ]
)
"""The data key wrapped by one password, 128 bytes."""

KEY_AREA_MAGIC: Final = b"RFKEYS1\x1a"
KDF_ARGON2ID: Final = 1
KEY_AREA_SEALED_BYTES: Final = 40
"""So much of the head is sealed, and all slots."""
MAX_KEY_SLOTS: Final = 8
MAX_KDF_LANES: Final = 16
MAX_KDF_MEMORY_KIB: Final = 256 << 10
MAX_KDF_WORK_KIB: Final = 1 << 20
"""Memory times passes: what a hostile slot may cost at most, about a second."""

SEALED_ROW: Final = np.dtype(
    [("block", "<u4"), ("flags", "<u4"), ("mask_lo", "<u8"), ("mask_hi", "<u8"), ("digest", "u1", (24,))]
)
"""What a seal covers of a record, 48 bytes; the flags are without that of a trace."""

PAGE: Final = np.dtype([("digest", "u1", (32,)), ("first_block", "<u4"), ("last_block", "<u4")])
"""Entry of the page table, 40 bytes."""

TRAILER: Final = np.dtype(
    [
        ("magic", "S8"),
        ("frames_offset", "<u8"),
        ("frames_bytes", "<u8"),
        ("index_offset", "<u8"),
        ("record_count", "<u8"),
        ("page_table_offset", "<u8"),
        ("page_count", "<u8"),
        ("segment_table_offset", "<u8"),
        ("segment_count", "<u8"),
        ("plain_bytes", "<u8"),
        ("file_bytes", "<u8"),
        ("reserved", "<u8"),
        ("header_digest", "u1", (32,)),
        ("page_table_digest", "u1", (32,)),
        ("segment_table_digest", "u1", (32,)),
        ("root", "u1", (32,)),
    ]
)
"""Last 224 bytes of the image. `root` is BLAKE3, in key-derivation mode with ROOT_CONTEXT, of all before it."""

ROOT_CONTEXT: Final = "rollforward image container 1: root"
FRAME_KEY_CONTEXT: Final = "rollforward image container 1: frame key"
METADATA_KEY_CONTEXT: Final = "rollforward image container 1: metadata key"
SEAL_KEY_CONTEXT: Final = "rollforward image container 1: seal key"
KEY_AREA_KEY_CONTEXT: Final = "rollforward image container 1: key area key"
FINGERPRINT_KEY_CONTEXT: Final = "rollforward image container 1: fingerprint key"
TRAILER_NUMBERS: Final = tuple(name for name in TRAILER.names or () if TRAILER[name] == np.dtype("<u8"))
TRAILER_SIGNED_BYTES: Final = TRAILER.itemsize - DIGEST_BYTES

_KEY_SIZES: Final = ((KEY_AREA, 96), (KEY_SLOT, 128), (SEALED_ROW, 48))

for _dtype, _size in (
    (HEADER, 256),
    (POINT, 64),
    (RECORD, RECORD_BYTES),
    (PAGE, 40),
    (TRAILER, 224),
    *_KEY_SIZES,
):
    if _dtype.itemsize != _size:
        raise AssertionError(f"layout drifted: {_dtype} is {_dtype.itemsize} bytes, not {_size}")


def geometry_for(volume_bytes: int) -> int:
    """Choose the granule size for a new chain.

    Args:
        volume_bytes: size of the volume, in bytes.

    Returns:
        Granule size in bytes: 512 (64 KiB blocks) below 1 TiB, 4,096 (512 KiB blocks) from there on, so that
        the index of a 20 TB volume stays near 2.4 GB.
    """
    return 512 if volume_bytes < 1 << 40 else 4096
