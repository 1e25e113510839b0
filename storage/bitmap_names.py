"""Names of dirty bitmaps: each says which point it began at, since nothing else in a bitmap does.

A bitmap named `rf-POINT` or `rf-TAG-POINT` has recorded every write since that point, whose identity begins with the
16 hexadecimal digits POINT. TAG tells the folder and volume that it is kept for.
"""

from __future__ import annotations

import re
from typing import Final

from blake3 import blake3

from policies.points import Point, PointId

_NAME: Final = re.compile(r"rf-(?:[0-9a-f]{8}-)?([0-9a-f]{16})")
_DIGITS: Final = 16


def keeper_tag(keeper: str) -> str:
    """Return the tag of a chain's keeper: 8 hexadecimal digits."""
    return blake3(keeper.encode(errors="replace")).hexdigest()[:8]


def bitmap_name(point_id: PointId, tag: str | None = None) -> str:
    """Return the name of the bitmap that begins at a point."""
    middle = "" if tag is None else f"{tag}-"
    return f"rf-{middle}{point_id.hex()[:_DIGITS]}"


def begins_at(name: str, point: Point) -> bool:
    """Tell whether a bitmap says that it began at a point."""
    match = _NAME.fullmatch(name)
    return match is not None and match[1] == point.id.hex()[:_DIGITS]
