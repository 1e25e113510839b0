"""What a FAT says of being in use, and putting that aside, so that a check tells of the rest.

A machine that mounts a FAT marks it as dirty, in the boot sector and in the second entry of each table, until it is
unmounted; how many clusters are free is a hint, and may be old. Neither is damage.

Source: Microsoft FAT specification (2005), sections 3.1 to 3.5 and 4.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from policies.errors import RestoreError

_STATE_16: Final = 0x25
_STATE_32: Final = 0x41
_DIRTY: Final = 0x01
_CLEAN_16: Final = (3, 0x80)
"""Which byte of a table of FAT16 says that it is clean, and with which bit."""
_CLEAN_32: Final = (7, 0x08)
_FREE_COUNT: Final = 488
_UNKNOWN: Final = b"\xff" * 4
_FAT12_CLUSTERS_MAX: Final = 4084
_ENTRY_BYTES: Final = 32


def settle(file: Path) -> None:
    """Have a FAT look as if it had been unmounted, and its free clusters were still to be counted.

    Args:
        file: the file system, to be written to.

    Raises:
        RestoreError: it cannot be written.

    Crash: some of it is done.
    """
    try:
        with file.open("r+b", buffering=0) as disk:
            _settle(disk.fileno())
    except OSError as error:
        raise RestoreError(error.strerror or str(error), path=str(file)) from error


def _settle(disk: int) -> None:
    boot = os.pread(disk, 512, 0)

    def number(offset: int, size: int) -> int:
        return int.from_bytes(boot[offset : offset + size], "little")

    sector_bytes, tables_at, count = number(11, 2), number(14, 2), number(16, 1)
    table_sectors = number(22, 2)
    is_32 = table_sectors == 0
    if is_32:
        table_sectors = number(36, 4)
        os.pwrite(disk, _UNKNOWN, number(48, 2) * sector_bytes + _FREE_COUNT)
    _change(disk, _STATE_32 if is_32 else _STATE_16, clear=_DIRTY)
    root_sectors = -(-number(17, 2) * _ENTRY_BYTES // max(sector_bytes, 1))
    data_sectors = (number(19, 2) or number(32, 4)) - tables_at - count * table_sectors - root_sectors
    if not is_32 and data_sectors // max(number(13, 1), 1) <= _FAT12_CLUSTERS_MAX:
        return  # tables of FAT12 say nothing of it
    at, bit = _CLEAN_32 if is_32 else _CLEAN_16
    for table in range(count):
        _change(disk, (tables_at + table * table_sectors) * sector_bytes + at, fill=bit)


def _change(disk: int, offset: int, *, clear: int = 0, fill: int = 0) -> None:
    """Clear and fill bits of a byte."""
    for byte in os.pread(disk, 1, offset):
        os.pwrite(disk, bytes([byte & ~clear | fill]), offset)
