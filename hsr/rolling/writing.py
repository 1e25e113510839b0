"""Writing points to a disk: one from nothing, along several images at once, or one span onto what is there."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from itertools import chain, islice

import numpy as np

from hsr.disks.disk import VirtualDisk
from hsr.disks.form import HIDDEN_BYTES, DiskKind
from hsr.disks.pieces import I64, Pieces
from hsr.rolling.cursor_file import Place
from storage import kernels
from storage.overlay import Overlay
from storage.replay import BlockReader, Parcel


class VolumeWriter:
    """Writes what images hold to the volume's place on a disk.

    Args:
        disk: the disk.
        place: where the volume lies on it.
        overlay: the images.
        reader: decodes them.

    Attributes:
        written_bytes: bytes that were written.
    """

    def __init__(self, disk: VirtualDisk, place: Place, overlay: Overlay, reader: BlockReader) -> None:
        self._disk, self._place, self._overlay, self._reader = disk, place, overlay, reader
        self.written_bytes = 0

    def zero(self, start: int, stop: int) -> None:
        """Zero a range of the volume's room; nothing, if it ends before it begins."""
        base = self._place.offset_bytes
        stop = min(stop, self._place.room_bytes)
        if start < stop:
            self._disk.zero(base + start, base + stop)

    def zero_disk_from(self, volume_offset: int) -> None:
        """Zero the disk from a byte of the volume on; all of it, if that is the first one.

        What lies on a device between the volume's room and the disk's last MiB stays as it was: nothing ever uses it.
        """
        start = self._place.offset_bytes + volume_offset if volume_offset else 0
        end = self._disk.size_bytes
        if self._disk.kind is DiskKind.DEVICE:
            room_end = self._place.offset_bytes + self._place.room_bytes
            self._disk.zero(start, room_end)
            start = max(room_end, end - HIDDEN_BYTES)
        self._disk.zero(start, end)

    @contextmanager
    def decoding(self) -> Iterator[Iterator[Parcel]]:
        """Begin to decode what the images show, beside whatever is done before the first parcel is taken.

        Raises:
            FormatError: an image is damaged.
            StorageError: an image cannot be read.
        """
        with closing(self._reader.parcels(clears=False)) as parcels:
            first = list(islice(parcels, 1))
            yield chain(first, parcels)

    def write_seen(self, parcel: Parcel) -> None:
        """Write exactly the granules that the images show of a parcel.

        Raises:
            RestoreError: the disk's medium refuses.
        """
        masks = parcel.seen_lo, parcel.seen_hi
        self._write(parcel, *kernels.granule_runs(*masks, self._overlay.granule_bytes))

    def write_all(self, done_bytes: int) -> Generator[tuple[Parcel, int], None, None]:
        """Write the volume whole, to a disk that holds zeros from `done_bytes` on; a device may hold anything.

        Args:
            done_bytes: where to begin: a multiple of the block size, or the volume's end.

        Yields:
            Each parcel that is written, and up to where the volume is whole then.

        Raises:
            FormatError: an image is damaged.
            RestoreError: the disk's medium refuses.
            StorageError: an image cannot be read.
        """
        unit, is_device = self._overlay.block_bytes, self._disk.kind is DiskKind.DEVICE
        if is_device and not done_bytes:
            self._disk.zero(0, self._place.offset_bytes)
        with closing(self._reader.parcels(-(-done_bytes // unit))) as parcels:
            for parcel in parcels:
                stop = min((int(parcel.blocks[-1]) + 1) * unit, self._overlay.end_bytes)
                filled = np.flatnonzero(kernels.filled_blocks(parcel.plain.view(np.uint64)))
                if is_device:
                    self._zero_around(parcel.blocks[filled], done_bytes, stop)
                self._write(parcel, filled, np.zeros(len(filled), np.int64), np.full(len(filled), unit))
                done_bytes = stop
                yield parcel, done_bytes
        if is_device:
            self.zero_disk_from(done_bytes)

    def _zero_around(self, blocks: I64, start: int, stop: int) -> None:
        """Zero what of a range of the volume is in none of some blocks."""
        unit, base = self._overlay.block_bytes, self._place.offset_bytes
        lows, highs = np.append(start, (blocks + 1) * unit), np.append(blocks * unit, stop)
        for low, high in zip(lows.tolist(), highs.tolist(), strict=True):
            if low < high:
                self._disk.zero(base + low, base + high)

    def _write(self, parcel: Parcel, rows: I64, firsts: I64, lengths: I64) -> None:
        """Write runs of a parcel's blocks, but nothing beyond the volume's end.

        Args:
            parcel: the blocks.
            rows: int64, ascending: in which block each run lies.
            firsts: int64: where it begins in it.
            lengths: int64: bytes of it.
        """
        unit = self._overlay.block_bytes
        offsets = parcel.blocks[rows] * unit + firsts
        lengths = np.minimum(lengths, self._overlay.end_bytes - offsets)
        offsets += self._place.offset_bytes
        pieces = Pieces(parcel.plain.reshape(-1), rows * unit + firsts, offsets, lengths)
        if len(lengths) and lengths[-1] <= 0:
            pieces = pieces.where(lengths > 0)
        self._disk.write(pieces)
        self.written_bytes += int(pieces.lengths.sum())
