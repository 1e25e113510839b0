"""VHDX: dynamic, with blocks of 1 MiB, so that little that is zero takes room.

Source: [MS-VHDX]; see docs/disks.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from hsr.disks import layout_vhdx as layout
from hsr.disks.form import I32, DiskKind, Part, Slots, Stamp, count_used, rounded_up

_CREATOR: Final = "rollforward"
_CASTAGNOLI: Final = 0x82F63B78
_ENTRIES_AT_ONCE: Final = 128 * layout.CHUNK_BLOCKS


class VhdxForm:
    """A dynamic disk.

    Args:
        size_bytes: what is to fit on it.
    """

    kind = DiskKind.VHDX

    def __init__(self, size_bytes: int) -> None:
        self.disk_bytes = rounded_up(size_bytes, layout.LOGICAL_SECTOR_BYTES)
        blocks = -(-self.disk_bytes // layout.BLOCK_BYTES)
        entries = blocks + (blocks - 1) // layout.CHUNK_BLOCKS
        self._table_bytes = rounded_up(8 * entries, layout.MIB)
        self.slots = Slots(layout.BLOCK_BYTES, blocks, layout.TABLE_OFFSET + self._table_bytes)

    def file_bytes(self, used: I32) -> int:
        """Return the size of the finalized file; see `DiskForm`."""
        return self.slots.end(count_used(used))

    def tables(self, used: I32, stamp: Stamp) -> Iterator[Part]:
        """Yield metadata, block allocation table, region tables and headers; see `DiskForm`."""
        yield from self._metadata(stamp)
        for first in range(0, len(used), _ENTRIES_AT_ONCE):
            part = used[first : first + _ENTRIES_AT_ONCE]
            offset = layout.TABLE_OFFSET + 8 * (first + first // layout.CHUNK_BLOCKS)
            yield offset, self._entries(part).tobytes()
        regions = self._regions()
        yield from ((offset, regions) for offset in layout.REGIONS_OFFSETS)
        for number, offset in enumerate(layout.HEADER_OFFSETS):
            yield offset, _header(number + 1, stamp)

    def _entries(self, used: I32) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        """Return entries of whole chunks, with those of the sector bitmaps in between, which stay zero."""
        slot_mib = self.slots.offset // layout.MIB + used.astype(np.int64)
        entries = np.where(used >= 0, slot_mib << 20 | layout.BLOCK_PRESENT, layout.BLOCK_ZERO)
        rows = np.arange(len(used)) + np.arange(len(used)) // layout.CHUNK_BLOCKS
        spread = np.zeros(int(rows[-1]) + 1, "<u8")
        spread[rows] = entries
        return spread

    def _metadata(self, stamp: Stamp) -> Iterator[Part]:
        both = layout.ITEM_REQUIRED | layout.ITEM_OF_DISK
        items = (
            (layout.ITEM_PARAMETERS, _u4(layout.BLOCK_BYTES) + _u4(0), layout.ITEM_REQUIRED),
            (layout.ITEM_SIZE, self.disk_bytes.to_bytes(8, "little"), both),
            (layout.ITEM_DISK_ID, stamp.identity("vhdx disk").bytes_le, both),
            (layout.ITEM_LOGICAL_SECTOR, _u4(layout.LOGICAL_SECTOR_BYTES), both),
            (layout.ITEM_PHYSICAL_SECTOR, _u4(layout.PHYSICAL_SECTOR_BYTES), both),
        )
        head = np.zeros((), layout.METADATA)
        head["signature"], head["count"] = layout.METADATA_SIGNATURE, len(items)
        entries = np.zeros(len(items), layout.ITEM)
        values = b""
        for entry, (item, value, flags) in zip(entries, items, strict=True):
            entry["id"] = np.frombuffer(item.bytes_le, np.uint8)
            entry["offset"], entry["bytes"] = layout.ITEMS_OFFSET + len(values), len(value)
            entry["flags"] = flags
            values += value
        yield layout.METADATA_OFFSET, head.tobytes() + entries.tobytes()
        yield layout.METADATA_OFFSET + layout.ITEMS_OFFSET, values

    def _regions(self) -> bytes:
        entries = np.zeros(2, layout.REGION)
        places = (
            (layout.REGION_TABLE, layout.TABLE_OFFSET, self._table_bytes),
            (layout.REGION_METADATA, layout.METADATA_OFFSET, layout.METADATA_BYTES),
        )
        for entry, (region, offset, size) in zip(entries, places, strict=True):
            entry["id"] = np.frombuffer(region.bytes_le, np.uint8)
            entry["offset"], entry["bytes"], entry["required"] = offset, size, 1
        head = np.zeros((), layout.REGIONS)
        head["signature"], head["count"] = layout.REGIONS_SIGNATURE, len(entries)
        head["checksum"] = crc32c((head.tobytes() + entries.tobytes()).ljust(layout.REGIONS_BYTES, b"\0"))
        return (head.tobytes() + entries.tobytes()).ljust(layout.REGIONS_BYTES, b"\0")

    def signatures(self, used: I32, stamp: Stamp) -> Sequence[Part]:
        """Return the identifier of the file; see `DiskForm`."""
        identifier = np.zeros((), layout.IDENTIFIER)
        identifier["signature"] = layout.FILE_SIGNATURE
        creator = _CREATOR.encode("utf-16-le")
        identifier["creator"][: len(creator)] = np.frombuffer(creator, np.uint8)
        return ((0, identifier.tobytes()),)


def _header(sequence: int, stamp: Stamp) -> bytes:
    header = np.zeros((), layout.HEADER)
    header["signature"] = layout.HEADER_SIGNATURE
    header["sequence"] = sequence
    header["file_write_id"] = np.frombuffer(stamp.identity("vhdx file").bytes_le, np.uint8)
    header["data_write_id"] = np.frombuffer(stamp.identity("vhdx data").bytes_le, np.uint8)
    header["version"] = 1
    header["log_bytes"], header["log_offset"] = layout.LOG_BYTES, layout.LOG_OFFSET
    header["checksum"] = crc32c(header.tobytes().ljust(layout.HEADER_BYTES, b"\0"))
    return header.tobytes().ljust(layout.HEADER_BYTES, b"\0")


def _u4(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _crc_table() -> tuple[int, ...]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (_CASTAGNOLI if number & 1 else 0)
        table.append(number)
    return tuple(table)


_CRC_TABLE: Final = _crc_table()


def crc32c(content: bytes) -> int:
    """Return the CRC-32C of some bytes.

    Source: RFC 3720, appendix B.4, has values to check it with.
    """
    crc = 0xFFFF_FFFF
    for byte in content:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFF_FFFF
