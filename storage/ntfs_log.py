"""Whether the log of an NTFS file system, $LogFile, says that all is on the disk.

The log begins with two restart pages of 4 KiB, written in turn; the one with the greater sequence number counts.
Source: the description of $LogFile in the documentation and headers of the Linux-NTFS project.

Restart page, little-endian:

| offset | size | field | meaning |
|---:|---:|---|---|
| 0 | 4 | magic | `RSTR` |
| 24 | 2 | area_offset | where the restart area begins |
| 26 | 2 | minor | version of the log |
| 28 | 2 | major | 1; 2 while Windows keeps metadata in its cache, also when it sleeps |

Restart area:

| offset | size | field | meaning |
|---:|---:|---|---|
| 0 | 8 | sequence | grows with each change |
| 12 | 2 | client | 0xFFFF: nobody has the log open |
| 14 | 2 | flags | bit 1: the volume was dismounted |
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

_PAGE: Final = struct.Struct("<4s20xHHH")
_AREA: Final = struct.Struct("<Q4xHH")
_PAGE_BYTES: Final = 4096
_PAGES: Final = 16
_STRIDE_BYTES: Final = 510
"""The last two bytes of each sector of a page are kept elsewhere: what is read here lies before them."""
_NOBODY: Final = 0xFFFF
_DISMOUNTED: Final = 2

LOG_HEAD_BYTES: Final = _PAGES * _PAGE_BYTES
"""How much of the log tells whether it is clean."""


@dataclass(frozen=True, slots=True, order=True)
class _Restart:
    sequence: int
    is_clean: bool


def is_clean_log(head: bytes) -> bool:
    """Tell whether a log says that nothing has to be replayed.

    Args:
        head: its first LOG_HEAD_BYTES bytes.

    Returns:
        True only if that is certain: it was wiped, or closed by a dismount.
    """
    if len(head) != LOG_HEAD_BYTES:
        return False
    if head == b"\xff" * LOG_HEAD_BYTES:
        return True
    pages = [_restart(head[at : at + _PAGE_BYTES]) for at in (0, _PAGE_BYTES)]
    known = [page for page in pages if page is not None]
    return len(known) == len(pages) and _newest_is_clean(known)


def _newest_is_clean(pages: list[_Restart]) -> bool:
    newest = max(page.sequence for page in pages)
    return all(page.is_clean for page in pages if page.sequence == newest)


def _restart(page: bytes) -> _Restart | None:
    magic, area_offset, _, major = _PAGE.unpack_from(page)
    if magic != b"RSTR" or not _PAGE.size <= area_offset <= _STRIDE_BYTES - _AREA.size:
        return None
    sequence, client, flags = _AREA.unpack_from(page, area_offset)
    return _Restart(sequence, major == 1 and (client == _NOBODY or bool(flags & _DISMOUNTED)))
