"""VMDK: one sparse file that holds its own descriptor, or a raw file with a descriptor beside it.

Source: "VMware Virtual Disk Format 5.0"; see docs/disks.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from hsr.disks import layout_vmdk as layout
from hsr.disks.form import HIDDEN_BYTES, I32, DiskKind, Part, Slots, Stamp, count_used, rounded_up

_TABLES_AT_ONCE: Final = 2048
_HEADS: Final = 255
_TRACK_SECTORS: Final = 63
_RESERVED_IDS: Final = (0, 0xFFFF_FFFE, 0xFFFF_FFFF)


class VmdkForm:
    """A sparse disk in one file ("monolithicSparse").

    Args:
        size_bytes: what is to fit on it.
        name: file name, which the descriptor repeats.
    """

    kind = DiskKind.VMDK

    def __init__(self, size_bytes: int, name: str) -> None:
        self.disk_bytes = rounded_up(size_bytes, layout.SECTOR_BYTES)
        self._name = name
        grains = -(-self.disk_bytes // layout.GRAIN_BYTES)
        self._tables = -(-grains // layout.TABLE_ENTRIES)
        self._set_bytes = self._directory_bytes + self._tables * layout.TABLE_BYTES
        overhead = self._set_offset(2)
        offset = rounded_up(max(HIDDEN_BYTES, overhead), layout.GRAIN_BYTES)
        self.slots = Slots(layout.GRAIN_BYTES, grains, offset)

    @property
    def _directory_bytes(self) -> int:
        return rounded_up(4 * self._tables, layout.SECTOR_BYTES)

    def _set_offset(self, number: int) -> int:
        """Return where a set begins: its directory, and its tables after that. There are two sets."""
        return layout.DESCRIPTOR_OFFSET + layout.DESCRIPTOR_BYTES + number * self._set_bytes

    def file_bytes(self, used: I32) -> int:
        """Return the size of the finalized file; see `DiskForm`."""
        return self.slots.end(count_used(used))

    def tables(self, used: I32, stamp: Stamp) -> Iterator[Part]:
        """Yield the descriptor, and both sets of directory and tables; see `DiskForm`."""
        text = descriptor(self._name, self.disk_bytes, stamp, is_sparse=True)
        yield layout.DESCRIPTOR_OFFSET, text.ljust(layout.DESCRIPTOR_BYTES, b"\0")
        for number in range(2):
            first = self._set_offset(number) + self._directory_bytes
            tables = (
                first + np.arange(self._tables, dtype=np.int64) * layout.TABLE_BYTES
            ) // layout.SECTOR_BYTES
            yield self._set_offset(number), tables.astype("<u4").tobytes()
            for row in range(0, self._tables, _TABLES_AT_ONCE):
                part = used[row * layout.TABLE_ENTRIES : (row + _TABLES_AT_ONCE) * layout.TABLE_ENTRIES]
                if (part >= 0).any():
                    yield first + row * layout.TABLE_BYTES, self._entries(part).tobytes()

    def _entries(self, used: I32) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
        sectors = (self.slots.offset + used.astype(np.int64) * layout.GRAIN_BYTES) // layout.SECTOR_BYTES
        return np.where(used >= 0, sectors, 0).astype("<u4")

    def signatures(self, used: I32, stamp: Stamp) -> Sequence[Part]:
        """Return the header; see `DiskForm`."""
        header = np.zeros((), layout.HEADER)
        header["magic"] = layout.MAGIC
        header["version"] = layout.VERSION
        header["flags"] = layout.FLAGS
        header["capacity_sectors"] = self.disk_bytes // layout.SECTOR_BYTES
        header["grain_sectors"] = layout.GRAIN_BYTES // layout.SECTOR_BYTES
        header["descriptor_sector"] = layout.DESCRIPTOR_OFFSET // layout.SECTOR_BYTES
        header["descriptor_sectors"] = layout.DESCRIPTOR_BYTES // layout.SECTOR_BYTES
        header["table_entries"] = layout.TABLE_ENTRIES
        header["second_directory_sector"] = self._set_offset(0) // layout.SECTOR_BYTES
        header["directory_sector"] = self._set_offset(1) // layout.SECTOR_BYTES
        header["overhead_sectors"] = self.slots.offset // layout.SECTOR_BYTES
        header["line_ends"] = np.frombuffer(layout.LINE_ENDS, np.uint8)
        return ((0, header.tobytes()),)


def descriptor(extent_name: str, disk_bytes: int, stamp: Stamp, *, is_sparse: bool) -> bytes:
    """Return the text that describes a disk of one extent.

    Args:
        extent_name: name of the file with the data, in the same folder.
        disk_bytes: its size, a multiple of 512.
        stamp: gives its identity.
        is_sparse: whether the extent is a sparse or a flat one.
    """
    sectors = disk_bytes // layout.SECTOR_BYTES
    number = int.from_bytes(stamp.identity("vmdk").bytes[:4], "big")
    content_id = 1 if number in _RESERVED_IDS else number
    lines = (
        "# Disk DescriptorFile",
        "version=1",
        'encoding="UTF-8"',
        f"CID={content_id:08x}",
        "parentCID=ffffffff",
        f'createType="{"monolithicSparse" if is_sparse else "monolithicFlat"}"',
        "",
        "# Extent description",
        f'RW {sectors} SPARSE "{extent_name}"' if is_sparse else f'RW {sectors} FLAT "{extent_name}" 0',
        "",
        "# The Disk Data Base",
        "#DDB",
        "",
        'ddb.virtualHWVersion = "4"',
        f'ddb.geometry.cylinders = "{max(sectors // (_HEADS * _TRACK_SECTORS), 1)}"',
        f'ddb.geometry.heads = "{_HEADS}"',
        f'ddb.geometry.sectors = "{_TRACK_SECTORS}"',
        'ddb.adapterType = "lsilogic"',
        "",
    )
    return "\n".join(lines).encode()
