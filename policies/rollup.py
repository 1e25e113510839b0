"""What is due to be rolled up.

When a day has ended, all points captured in it become one daily, which leads from the last point of the day
before, or from the base's own point, to the day's last. A day with a single incremental is rolled up like
any other; a day that was missed is made up for, each by a daily of its own; a fork gives each of its lines
a daily of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, tzinfo

from policies.ancestry import Ancestry, trace_ancestry
from policies.calendar import day_bounds, day_of
from policies.names import Tier, parse_image_name
from policies.points import Point, PointId, Span


@dataclass(frozen=True, slots=True)
class DueRollup:
    """A consolidation that is due.

    Attributes:
        after: the point that it is to lead from.
        upto: the point that it is to lead to.
        tier: what it is rolled up as.
        day: the local day that it sums up.
        reason: why it is due, in words for the administrator.
    """

    after: Point
    upto: Point
    tier: Tier
    day: date
    reason: str


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a point lies on its line.

    Attributes:
        depth: how many known points come before it.
        day: its local day; never earlier than its parent's, whatever its own clock said.
        day_end: when that day ends, UTC.
        after: the last point of the day before, or the base's own; None where a gap hides it.
    """

    depth: int
    day: date
    day_end: datetime
    after: Point | None


def due_dailies(spans: Iterable[Span], now: datetime, zone: tzinfo) -> tuple[DueRollup, ...]:
    """Tell which dailies are due.

    Args:
        spans: the good spans of one chain, in any order; assumed ones are not used.
        now: the present moment.
        zone: the folder's time zone, in which days are counted.

    Returns:
        One for each local day that has ended, on each line of ancestry, that has points, whose spans lie
        there without a gap, and of which no consolidation holds as many points as could be merged; oldest
        day first. A day that still runs has none.
    """
    tree = trace_ancestry(spans)
    places = _places(tree, zone)
    mergeable = _mergeable(tree, places)
    rolled_up = _rolled_up(tree, places)
    due = [
        _due(place.after, point, places, zone)
        for point, place in _day_ends(tree, places)
        if place.after is not None
        and place.day_end <= now
        and mergeable.get(point.id, 0) > rolled_up.get(point.id, 0)
    ]
    return tuple(sorted(due, key=lambda rollup: (rollup.day, rollup.upto.number, rollup.upto.id)))


def _places(tree: Ancestry, zone: tzinfo) -> Mapping[PointId, _Place]:
    """Place every point on its line, ancestors first."""
    bases = {span.covers[0].id for span in tree.spans if span.is_base}
    places: dict[PointId, _Place] = {}
    for point in tree.points.values():
        parent = tree.parents.get(point.id)
        if parent is None:
            day = day_of(point.time, zone)
            places[point.id] = _Place(0, day, day_bounds(day, zone)[1], None)
            continue
        above = places[parent.id]
        if point.time < above.day_end:
            after = parent if parent.id in bases else above.after
            places[point.id] = _Place(above.depth + 1, above.day, above.day_end, after)
        else:
            day = day_of(point.time, zone)
            places[point.id] = _Place(above.depth + 1, day, day_bounds(day, zone)[1], parent)
    return places


def _day_ends(tree: Ancestry, places: Mapping[PointId, _Place]) -> Iterator[tuple[Point, _Place]]:
    """Give each point that is the last of its day on some line."""
    for point in tree.points.values():
        place = places[point.id]
        children = tree.children.get(point.id, ())
        if not children or any(places[child.id].day != place.day for child in children):
            yield point, place


def _mergeable(tree: Ancestry, places: Mapping[PointId, _Place]) -> Mapping[PointId, int]:
    """Find the points to which spans lie end to start from where the day began, and how many they can cover."""
    mergeable: dict[PointId, int] = {}
    for span in sorted(tree.spans, key=lambda span: span.start.number if span.start else -1):
        after = places[span.end.id].after
        if span.start is None or after is None:
            continue
        covered = len(span.covers)
        if span.start.id != after.id:
            if span.start.id not in mergeable or places[span.start.id].after != after:
                continue
            covered += mergeable[span.start.id]
        mergeable[span.end.id] = max(covered, mergeable.get(span.end.id, 0))
    return mergeable


def _rolled_up(tree: Ancestry, places: Mapping[PointId, _Place]) -> Mapping[PointId, int]:
    """Find the points whose day, up to them, some consolidation holds, and how many points of it at most."""
    rolled_up: dict[PointId, int] = {}
    for span in tree.spans:
        name = parse_image_name(span.name)
        is_consolidation = len(span.covers) > 1 or (name is not None and name.is_consolidation)
        if span.start is None or not is_consolidation:
            continue
        rank = {point.id: index for index, point in enumerate((span.start, *span.covers))}
        for point in span.covers:
            after = places[point.id].after
            if after is not None and after.id in rank:
                held = rank[point.id] - rank[after.id]
                rolled_up[point.id] = max(held, rolled_up.get(point.id, 0))
    return rolled_up


def _due(after: Point, upto: Point, places: Mapping[PointId, _Place], zone: tzinfo) -> DueRollup:
    place = places[upto.id]
    count = place.depth - places[after.id].depth
    one, more = (
        "its point is in no consolidation yet",
        f"its {count} points are not all in one consolidation yet",
    )
    reason = f"{place.day.isoformat()} has ended ({zone}) and {one if count == 1 else more}"
    return DueRollup(after, upto, Tier.DAILY, place.day, reason)
