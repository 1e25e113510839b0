"""A virtual disk that holds a volume in a partition, written to by whoever knows the volume only."""

from __future__ import annotations

from typing import Self

from hsr.disks.disk import VirtualDisk
from hsr.disks.form import DiskKind, Stamp
from hsr.disks.pieces import Pieces
from hsr.wrapping.traits import Traits
from hsr.wrapping.wrapping import Wrapping


class WrappedDisk:
    """A `VirtualDisk` whose offsets are those of the volume.

    The tables lie within the first and the last MiB of the disk, which nobody sees before it is finalized. So they may
    be put there at any time, and should be when the disk is begun: finalizing then needs no image any more.

    Args:
        disk: as large as the wrapping says; closed with this one.
        wrapping: where the volume lies on it.
    """

    def __init__(self, disk: VirtualDisk, wrapping: Wrapping) -> None:
        if disk.size_bytes != wrapping.disk_bytes:
            raise ValueError("the disk has another size than the wrapping says")
        self._disk, self._wrapping = disk, wrapping

    @property
    def kind(self) -> DiskKind:
        """What it is to be."""
        return self._disk.kind

    @property
    def size_bytes(self) -> int:
        """Size of the volume."""
        return self._wrapping.volume_bytes

    @property
    def is_finalizing(self) -> bool:
        """Whether it takes no more writes, and can only be finalized."""
        return self._disk.is_finalizing

    @property
    def serial(self) -> int:
        """A number to keep with the cursor; see `VirtualDisk`."""
        return self._disk.serial

    def put_tables(self, traits: Traits, stamp: Stamp) -> None:
        """Write the partition tables.

        Args:
            traits: what the partition says of itself.
            stamp: identifiers that were not captured are derived from it.

        Raises:
            ConfigurationError: it is being finalized.
            RestoreError: the medium refuses; the disk has to be opened again.

        Crash: some of the tables; put them again.
        """
        for offset, part in self._wrapping.tables(traits, stamp):
            self._disk.write(Pieces.single(offset, part))

    def write(self, pieces: Pieces) -> None:
        """Write pieces of the volume; see `VirtualDisk`.

        A sector that may have to be patched is in a piece whole or not at all.
        """
        if not pieces.are_sound(self.size_bytes):
            raise ValueError("pieces overlap, are out of order, or lie outside the volume")
        for placed in self._wrapping.placed(pieces):
            self._disk.write(placed)

    def zero(self, start: int, stop: int) -> None:
        """Make a range of the volume read as zero; see `VirtualDisk`."""
        if not 0 <= start <= stop <= self.size_bytes:
            raise ValueError("the range lies outside the volume")
        self._disk.zero(self._wrapping.offset + start, self._wrapping.offset + stop)

    def sync(self) -> None:
        """Make all that was written durable; see `VirtualDisk`."""
        self._disk.sync()

    def finalize(self, stamp: Stamp) -> None:
        """Make it a disk that any program opens, and close it; see `VirtualDisk`."""
        self._disk.finalize(stamp)

    def close(self) -> None:
        """Close it; what was not synced may be lost."""
        self._disk.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
