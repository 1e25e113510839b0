"""Logs of NTFS file systems, in the states that Windows leaves them in. Source: as in storage/ntfs_log.py."""

from __future__ import annotations

import struct
from typing import Final

NOBODY: Final = 0xFFFF
DISMOUNTED: Final = 2
PAGE_BYTES: Final = 4096
LOG_BYTES: Final = 2 << 20


def restart_page(
    sequence: int, *, client: int = 0, flags: int = 0, version: tuple[int, int] = (1, 1)
) -> bytes:
    """Make a restart page that ntfs-3g takes for whole."""
    page = bytearray(PAGE_BYTES)
    major, minor = version
    struct.pack_into("<4sHHQIIHHH", page, 0, b"RSTR", 30, 9, 0, PAGE_BYTES, PAGE_BYTES, 64, minor, major)
    free = NOBODY if client != NOBODY else 0
    struct.pack_into("<QHHHHIHHQ", page, 64, sequence, 1, free, client, flags, 67 - 22, 224, 64, LOG_BYTES)
    struct.pack_into("<IHHII", page, 64 + 32, 0, 48, 64, 1, 0)
    struct.pack_into("<QQHHH6xI", page, 128, 0, sequence, NOBODY, NOBODY, 0, 8)
    page[160:168] = "NTFS".encode("utf-16-le")
    for sector in range(8):  # update sequence number 0, and the zeros that it stands for
        struct.pack_into("<H", page, 32 + 2 * sector, 0)
    return bytes(page)
