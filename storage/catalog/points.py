"""Points and spans in the catalogue's columns."""

from __future__ import annotations

from datetime import datetime

from policies.points import Point, PointId, Span
from storage.catalog.models import Image, ImageState


def pack_point(point: Point) -> dict[str, str | int]:
    """Return a point as JSON values: id (hexadecimal), number, time (ISO 8601) and volume_bytes."""
    return {
        "id": point.id.hex(),
        "number": point.number,
        "time": point.time.isoformat(),
        "volume_bytes": point.volume_bytes,
    }


def unpack_point(packed: dict[str, str | int]) -> Point:
    """Return the point that `pack_point` wrote."""
    return Point(
        id=PointId(bytes.fromhex(str(packed["id"]))),
        number=int(packed["number"]),
        time=datetime.fromisoformat(str(packed["time"])),
        volume_bytes=int(packed["volume_bytes"]),
    )


def span_of(image: Image) -> Span | None:
    """Return the span that an image file is; None while its header has not been read."""
    if not image.covers:
        return None
    return Span(
        name=image.name,
        start=unpack_point(image.start) if image.start is not None else None,
        covers=tuple(unpack_point(point) for point in image.covers),
        stored_bytes=image.stored_bytes,
        verified=image.state is ImageState.GOOD,
        assumed=image.assumed,
    )
