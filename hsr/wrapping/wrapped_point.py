"""A point in time as a disk: the volume in a partition, made up while it is read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

from hsr.disks.form import Stamp
from hsr.serving.point import PointReader
from hsr.serving.readable import Readable
from hsr.wrapping.contents import START_BYTES
from hsr.wrapping.whole_disks import refuse_whole_disk
from hsr.wrapping.wrapping import Wrap, wrapping_for


class WrappedPoint:
    """A disk with one partition, which holds a volume as it was at a point. Nothing is written anywhere.

    Args:
        volume: the volume.
        wrap: what it is wrapped in.
        metadata: of the image that leads to the point.
        stamp: identifiers that were not captured are derived from it.

    Raises:
        ConfigurationError: the volume is too large for that, or has partitions itself.
        FormatError: an image is damaged.
        StorageError: one cannot be read.
    """

    def __init__(self, volume: Readable, wrap: Wrap, metadata: Mapping[str, object], stamp: Stamp) -> None:
        self.wrapping = wrapping_for(wrap, volume.size_bytes)
        self.size_bytes, self.block_bytes = self.wrapping.disk_bytes, volume.block_bytes
        self._volume = volume
        if wrap is not Wrap.NONE:
            refuse_whole_disk(read_start(volume), "the volume")
        self._begin = self.wrapping.offset
        self._end = self._begin + volume.size_bytes
        self._laid = self.wrapping.parts(self._read_volume, metadata, stamp)
        """What is not read from the volume: bytes by their place on the disk, none overlapping."""
        self._laid_offsets = [offset for offset, _ in self._laid]

    def _read_volume(self, offset: int, size: int) -> bytes:
        out = bytearray(size)
        self._volume.read_into(offset, memoryview(out))
        return bytes(out)

    def _laid_within(self, offset: int, stop: int) -> list[tuple[int, bytes]]:
        first = max(bisect_right(self._laid_offsets, offset) - 1, 0)
        return [part for part in self._laid[first:] if part[0] < stop and part[0] + len(part[1]) > offset]

    def read_at_once(self, offset: int, size: int) -> bytes | None:
        """Read a few bytes, if no medium has to be waited for; see `PointReader`."""
        stop = offset + size
        if self._begin <= offset and stop <= self._end and not self._laid_within(offset, stop):
            return self._volume.read_at_once(offset - self._begin, size)
        return None

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill a buffer with what the disk holds; see `PointReader`."""
        stop = offset + len(out)
        first, last = min(max(offset, self._begin), stop), max(min(stop, self._end), offset)
        if first < last:
            self._volume.read_into(first - self._begin, out[first - offset : last - offset])
            out[: first - offset] = bytes(first - offset)
            out[last - offset :] = bytes(stop - last)
        else:
            out[:] = bytes(len(out))
        for at, part in self._laid_within(offset, stop):
            begin, end = max(at, offset), min(at + len(part), stop)
            out[begin - offset : end - offset] = part[begin - at : end - at]

    def warm(self, offset: int, size: int) -> None:
        """Have ready what will be asked for soon; see `PointReader`."""
        first, last = max(offset, self._begin), min(offset + size, self._end)
        if first < last:
            self._volume.warm(first - self._begin, last - first)

    def extents(self, offset: int, size: int) -> list[tuple[int, bool]]:
        """Say where the disk holds anything; see `PointReader`."""
        stop = offset + size
        if offset < self._begin:
            return [(min(stop, self._begin) - offset, True)]
        if offset >= self._end:
            return [(size, True)]
        return self._volume.extents(offset - self._begin, min(stop, self._end) - offset)


def disk_at(point: PointReader, wrap: Wrap) -> Readable:
    """Offer a point as a disk.

    Args:
        point: the volume.
        wrap: what it is wrapped in.

    Raises:
        ConfigurationError: the volume is too large for that, or has partitions itself.
        FormatError: an image is damaged.
        StorageError: one cannot be read.
    """
    if wrap is Wrap.NONE:
        return point
    header = point.header
    stamp = Stamp(header.chain_id + header.end.id, header.end.time)
    return WrappedPoint(point, wrap, header.metadata, stamp)


def read_start(volume: Readable) -> bytes:
    """Read what tells what a volume holds."""
    start = bytearray(min(START_BYTES, volume.size_bytes))
    volume.read_into(0, memoryview(start))
    return bytes(start)
