"""Which differential an image stands on, for its name.

A differential leads from the base, or from a later point, straight to the present. What is captured next goes on from
there, and its name says so, as does that of what such images are merged into.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from policies.names import parse_image_name
from policies.points import Point, Span


def differential_below(spans: Iterable[Span], point: Point) -> int | None:
    """Tell which differential the next incremental stands on.

    Args:
        spans: spans of one chain, in any order.
        point: the point that the incremental leads from.

    Returns:
        The number of the differential that leads to the point, or that an image stands on that does; None if no
        image there names one.
    """
    names = (parse_image_name(span.name) for span in spans if span.end.id == point.id)
    return max((name.differential for name in names if name and name.differential is not None), default=None)


def differential_below_merged(sources: Sequence[Span]) -> int | None:
    """Tell which differential the image stands on that some are merged into. The same sources give the same answer.

    Args:
        sources: the spans that are merged, oldest first.

    Returns:
        What the oldest stands on, by its name. A differential that is merged itself is below no longer: None.
    """
    name = parse_image_name(sources[0].name)
    return None if name is None or name.is_differential or name.is_full else name.differential
