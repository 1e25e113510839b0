"""Disks whose file is the disk, byte for byte: raw files, block devices, the flat extent of a VMDK."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hsr.disks.form import I32, SECTOR_BYTES, DiskKind, Part, Stamp, rounded_up


class FlatForm:
    """A disk without tables.

    Args:
        kind: a raw file, a block device, or the flat extent of a VMDK.
        size_bytes: what is to fit on it.
    """

    slots = None

    def __init__(self, kind: DiskKind, size_bytes: int) -> None:
        self.kind = kind
        is_exact = kind is not DiskKind.VMDK_FLAT
        self.disk_bytes = size_bytes if is_exact else rounded_up(size_bytes, SECTOR_BYTES)

    def file_bytes(self, used: I32) -> int:
        """Return the size of the file; see `DiskForm`."""
        return self.disk_bytes

    def tables(self, used: I32, stamp: Stamp) -> Iterator[Part]:
        """Yield nothing; see `DiskForm`."""
        return iter(())

    def signatures(self, used: I32, stamp: Stamp) -> Sequence[Part]:
        """Return nothing: what it holds makes it a disk, or a descriptor beside it; see `DiskForm`."""
        return ()


def content_path(path: Path, kind: DiskKind) -> Path:
    """Return the file that holds the content of a disk: its own, or the flat extent beside a descriptor."""
    return path.with_name(f"{path.stem}-flat.vmdk") if kind is DiskKind.VMDK_FLAT else path
