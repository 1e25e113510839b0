"""The header of an image: its chain, its geometry, where it leads from and what it covers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np

from policies.errors import (
    DigestMismatchError,
    FormatError,
    NotAnImageError,
    TruncatedError,
    UnsupportedVersionError,
)
from policies.points import Point, PointId, Span
from storage import layout
from storage.digests import digest_of
from storage.foreign import refuse_foreign
from storage.key_area import decode_key_area
from storage.stored_file import StoredFile

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_END: Final = datetime(9000, 1, 1, tzinfo=UTC)
"""Times from here on are refused: near the calendar's end, no time zone could show them."""
_MICROSECOND: Final = timedelta(microseconds=1)
_SIGNED_BYTES: Final = layout.HEADER.itemsize - layout.DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an image says of itself before its frames.

    Attributes:
        chain_id: 16 bytes, common to all images of a chain.
        granule_bytes: size of a granule; a block is 128 of them.
        start: the from point; None for a base.
        covers: covered points, oldest first; frames name their origin by position in it.
        capture_ids: 16 bytes for each covered point: the attempt that captured it.
        metadata: what a later disk needs to know (volume name, source computer, …), JSON values.
        key_area: copy of the key slots, not covered by the root; empty for plain images.
        encrypted: whether frames and metadata are encrypted, and the points sealed.
        digest: 32 bytes over header, point table and metadata.
    """

    chain_id: bytes
    granule_bytes: int
    start: Point | None
    covers: tuple[Point, ...]
    capture_ids: tuple[bytes, ...]
    metadata: Mapping[str, object] = field(default_factory=dict)
    key_area: bytes = b""
    encrypted: bool = False
    digest: bytes = b""

    @property
    def block_bytes(self) -> int:
        """Size of a block in bytes."""
        return self.granule_bytes * layout.GRANULES_PER_BLOCK

    @property
    def end(self) -> Point:
        """The point that the image leads to."""
        return self.covers[-1]

    @property
    def volume(self) -> str:
        """Name of the volume, as the capture recorded it; empty if it did not."""
        name = self.metadata.get("volume")
        return name if isinstance(name, str) else ""

    def span(self, name: str, *, stored_bytes: int = 0, verified: bool = False) -> Span:
        """Return the image as a span.

        Args:
            name: its file name.
            stored_bytes: its size in bytes.
            verified: whether it was read back and found good.
        """
        return Span(name, self.start, self.covers, stored_bytes=stored_bytes, verified=verified)

    @property
    def zero_from_bytes(self) -> int:
        """Smallest volume size among from and covered points, in bytes; 0 for a base."""
        return self.span("").zero_from_bytes


def encode_header(header: ImageHeader) -> bytes:
    """Lay a header out as bytes: fixed part, point table, metadata, key area.

    Raises:
        FormatError: a part is larger than the format allows.

    Source: docs/format.md, "Header".
    """
    metadata = json.dumps(header.metadata, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    packed = metadata.encode()
    if len(header.covers) >= layout.MAX_POINTS:
        raise FormatError(
            f"an image covers at most {layout.MAX_POINTS - 1:,} points", actual=len(header.covers)
        )
    if len(packed) > layout.MAX_METADATA_BYTES or len(header.key_area) > layout.MAX_KEY_AREA_BYTES:
        raise FormatError("metadata or key area is larger than the format allows")
    fixed = np.zeros((), layout.HEADER)
    fixed["magic"] = layout.HEADER_MAGIC
    fixed["version_major"] = layout.VERSION_MAJOR
    fixed["version_minor"] = layout.VERSION_MINOR
    fixed["flags"] = (layout.HEADER_BASE if header.start is None else 0) | (
        layout.HEADER_ENCRYPTED if header.encrypted else 0
    )
    fixed["point_count"] = 1 + len(header.covers)
    fixed["metadata_bytes"] = len(packed)
    fixed["key_area_bytes"] = len(header.key_area)
    fixed["granule_bytes"] = header.granule_bytes
    fixed["block_bytes"] = header.block_bytes
    fixed["zero_from_bytes"] = header.zero_from_bytes
    fixed["chain_id"] = np.frombuffer(header.chain_id, np.uint8)
    points = _encode_points(header)
    signed = fixed.tobytes()[:_SIGNED_BYTES]
    return signed + digest_of(signed, points, packed) + points + packed + header.key_area


def _encode_points(header: ImageHeader) -> bytes:
    entries = zip((header.start, *header.covers), (bytes(layout.ID_BYTES), *header.capture_ids), strict=True)
    return b"".join([point_entry(point, capture_id) for point, capture_id in entries])


def point_entry(point: Point | None, capture_id: bytes) -> bytes:
    """Lay out one entry of the point table.

    Args:
        point: the point; None for the from point of a base.
        capture_id: 16 bytes; zero for the from point.
    """
    row = np.zeros((), layout.POINT)
    if point is not None:
        row["id"] = np.frombuffer(point.id, np.uint8)
        row["capture_id"] = np.frombuffer(capture_id, np.uint8)
        row["time_us"] = (point.time - _EPOCH) // _MICROSECOND
        row["volume_bytes"] = point.volume_bytes
        row["number"] = point.number
    return row.tobytes()


def section_bytes(fixed: bytes, path: str) -> int:
    """Return how many bytes the whole header takes, after checking its fixed part.

    Args:
        fixed: the first 256 bytes of the file.
        path: the file, for messages.

    Raises:
        NotAnImageError: the magic bytes are not ours.
        UnsupportedVersionError: a later version, an unknown flag.
        FormatError: a size is out of range.
    """
    if fixed[:8] != layout.HEADER_MAGIC:
        raise NotAnImageError(
            "not a rollforward image: its first bytes are others",
            path=path,
            hint="Is it another program's file?",
        )
    head = np.frombuffer(fixed, layout.HEADER)[0]
    if head["version_major"] != layout.VERSION_MAJOR:
        raise UnsupportedVersionError(
            "image format of another version",
            path=path,
            expected=layout.VERSION_MAJOR,
            actual=int(head["version_major"]),
            hint="Use a newer rollforward.",
        )
    if not 2 <= head["point_count"] <= layout.MAX_POINTS:
        raise FormatError(
            "number of points out of range", path=path, offset=16, actual=int(head["point_count"])
        )
    if head["metadata_bytes"] > layout.MAX_METADATA_BYTES:
        raise FormatError("metadata too large", path=path, offset=20, actual=int(head["metadata_bytes"]))
    if head["key_area_bytes"] > layout.MAX_KEY_AREA_BYTES:
        raise FormatError("key area too large", path=path, offset=24, actual=int(head["key_area_bytes"]))
    points_bytes = int(head["point_count"]) * layout.POINT.itemsize
    return layout.HEADER.itemsize + points_bytes + int(head["metadata_bytes"]) + int(head["key_area_bytes"])


def decode_header(section: bytes, path: str, *, any_slots: bool = False) -> ImageHeader:
    """Check and read a whole header.

    Args:
        section: as many bytes from the start of the file as `section_bytes` said.
        path: the file, for messages.
        any_slots: leave the key area unchecked, which the header's digest does not cover.

    Raises:
        FormatError: digest, order or bounds are wrong; its subclasses say how.

    Source: docs/format.md, "Header".
    """
    head = np.frombuffer(section[: layout.HEADER.itemsize], layout.HEADER)[0]
    points_end = layout.HEADER.itemsize + int(head["point_count"]) * layout.POINT.itemsize
    metadata_end = points_end + int(head["metadata_bytes"])
    points, packed = section[layout.HEADER.itemsize : points_end], section[points_end:metadata_end]
    digest = digest_of(section[:_SIGNED_BYTES], points, packed)
    if digest != head["digest"].tobytes():
        raise DigestMismatchError("the header is damaged: its digest does not match", path=path, offset=0)
    if int(head["flags"]) & ~layout.HEADER_FLAGS_KNOWN or head["reserved_a"] or head["reserved_b"].any():
        raise UnsupportedVersionError(
            "the header uses features unknown to this version", path=path, offset=12
        )
    granule_bytes = int(head["granule_bytes"])
    _check_geometry(granule_bytes, int(head["block_bytes"]), path)
    table = np.frombuffer(points, layout.POINT)
    start, covers = _decode_points(table, bool(int(head["flags"]) & layout.HEADER_BASE), path)
    _check_sizes((*covers, start or covers[0]), int(head["block_bytes"]), path)
    header = ImageHeader(
        chain_id=head["chain_id"].tobytes(),
        granule_bytes=granule_bytes,
        start=start,
        covers=covers,
        capture_ids=tuple(row.tobytes() for row in table["capture_id"][1:]),
        metadata=_decode_metadata(packed, path),
        key_area=section[metadata_end:],
        encrypted=bool(int(head["flags"]) & layout.HEADER_ENCRYPTED),
        digest=digest,
    )
    if not any_slots:
        _check_key_area(header, path)
    if header.zero_from_bytes != int(head["zero_from_bytes"]):
        raise FormatError(
            "zero_from_bytes is not the smallest size of its points",
            path=path,
            offset=40,
            expected=header.zero_from_bytes,
            actual=int(head["zero_from_bytes"]),
        )
    return header


def _check_key_area(header: ImageHeader, path: str) -> None:
    """The root does not cover it: it has a digest of its own."""
    if not header.encrypted:
        if header.key_area:
            raise FormatError("a plain image has key slots", path=path, offset=24)
    elif decode_key_area(header.key_area, path).chain_id != header.chain_id:
        raise FormatError("the key slots in the header belong to another chain", path=path)


def _check_geometry(granule_bytes: int, block_bytes: int, path: str) -> None:
    fits = layout.MIN_GRANULE_BYTES <= granule_bytes <= layout.MAX_GRANULE_BYTES
    if (
        not fits
        or granule_bytes & (granule_bytes - 1)
        or block_bytes != granule_bytes * layout.GRANULES_PER_BLOCK
    ):
        raise FormatError(
            f"impossible geometry: granules of {granule_bytes}, blocks of {block_bytes} bytes",
            path=path,
            offset=28,
        )


def _decode_points(table: np.ndarray, is_base: bool, path: str) -> tuple[Point | None, tuple[Point, ...]]:
    if table["reserved_a"].any() or table["reserved_b"].any():
        raise UnsupportedVersionError("a point uses features unknown to this version", path=path, offset=256)
    if is_base and table[0].tobytes() != bytes(layout.POINT.itemsize):
        raise FormatError("a base names a from point", path=path, offset=256)
    if table[0]["capture_id"].any():
        raise FormatError("the from point names a capture", path=path, offset=256)
    first = 1 if is_base else 0
    points = [_decode_point(row, path) for row in table[first:]]
    if len({point.id for point in points}) != len(points):
        raise FormatError("a point is named twice", path=path, offset=256)
    return (None, tuple(points)) if is_base else (points[0], tuple(points[1:]))


def _decode_point(row: np.void, path: str) -> Point:
    time_us = int(row["time_us"])
    if not 0 <= time_us < (_TIME_END - _EPOCH) // _MICROSECOND:
        raise FormatError("the time of a point is out of range", path=path, offset=256, actual=time_us)
    time = _EPOCH + timedelta(microseconds=time_us)
    return Point(PointId(row["id"].tobytes()), int(row["number"]), time, int(row["volume_bytes"]))


def _check_sizes(points: Iterable[Point], block_bytes: int, path: str) -> None:
    largest = layout.MAX_BLOCKS * block_bytes
    for point in points:
        if point.volume_bytes > largest:
            raise FormatError(
                "the volume size of a point is out of range",
                path=path,
                offset=256,
                expected=f"at most {largest}",
                actual=point.volume_bytes,
            )


def _decode_metadata(packed: bytes, path: str) -> Mapping[str, object]:
    try:
        metadata = json.loads(packed.decode())
        json.dumps(metadata, ensure_ascii=False).encode()  # JSON can name half a character; UTF-8 cannot
    except (ValueError, RecursionError):
        raise FormatError("the metadata is not JSON", path=path) from None
    if not isinstance(metadata, dict):
        raise FormatError("the metadata is not a JSON object", path=path)
    return metadata


def read_header(file: StoredFile, *, any_slots: bool = False) -> ImageHeader:
    """Read and check the header of an open image, all but the key area if wanted; raises as `ImageReader` does."""
    path = str(file.path)
    refuse_foreign(file)
    if file.size_bytes < layout.HEADER.itemsize:
        what = "the file is empty" if file.size_bytes == 0 else "the file is too short for an image"
        raise TruncatedError(what, path=path, offset=file.size_bytes)
    size = section_bytes(bytes(file.read(0, layout.HEADER.itemsize)), path)
    if size > file.size_bytes:
        raise TruncatedError("the file ends within its header", path=path, offset=file.size_bytes)
    return decode_header(bytes(file.read(0, size)), path, any_slots=any_slots)
