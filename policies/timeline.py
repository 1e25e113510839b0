"""To which local day each point of a chain belongs, whatever its own clock said.

A stamp is taken at its word as far as nothing speaks against it. It lies not after the moment at which the point, or
any that descends from it, was first seen; and not before its predecessor's. So times never fall along a line, and a
clock that was set forward for an hour moves nothing but what was captured in that hour.

Only points at which an image begins or ends are placed: no period can be bounded by another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo

from policies.ancestry import Ancestry, trace_joints
from policies.calendar import day_bounds, day_of
from policies.points import Point, PointId, Span

_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a point lies in time.

    Attributes:
        point: the point.
        time: its stamp, set right.
        day: its local day; never earlier than its parent's.
        day_end: when that day ends, UTC.
    """

    point: Point
    time: datetime
    day: date
    day_end: datetime


@dataclass(frozen=True, slots=True)
class Timeline:
    """The points at which a chain's images begin or end, placed in time.

    Attributes:
        tree: who descends from whom.
        places: where each point lies, ancestors before descendants.
        roots: identities of points that a base or a synthetic full leads to first, so that lines begin there.
        zone: the time zone in which days are counted.
    """

    tree: Ancestry
    places: Mapping[PointId, Place]
    roots: frozenset[PointId]
    zone: tzinfo


def trace_timeline(
    spans: Iterable[Span],
    zone: tzinfo,
    seen_at: Mapping[PointId, datetime] | None = None,
    now: datetime = _NEVER,
) -> Timeline:
    """Place the points of a chain in time.

    Args:
        spans: its spans, in any order; assumed ones, and those that contradict others, are not used.
        zone: the time zone in which days are counted.
        seen_at: when points were first seen, as far as known.
        now: the present moment; no point is later.

    Returns:
        The timeline. It depends on the set of spans alone, not on their order.
    """
    tree = trace_joints(spans)
    latest = _latest_times(tree, seen_at or {}, now)
    places: dict[PointId, Place] = {}
    for point in tree.points.values():
        time = min(point.time, latest[point.id])
        parent = tree.parents.get(point.id)
        above = None if parent is None else places[parent.id]
        if above is not None and time < above.day_end:
            places[point.id] = Place(point, max(time, above.time), above.day, above.day_end)
        else:
            day = day_of(time, zone)
            places[point.id] = Place(point, time, day, day_bounds(day, zone)[1])
    roots = frozenset(span.covers[0].id for span in tree.spans if span.start is None)
    return Timeline(tree, places, roots, zone)


def first_sights(
    files: Iterable[tuple[Span, datetime]], remembered: Mapping[PointId, datetime]
) -> dict[PointId, datetime]:
    """Tell when the points at which images begin or end were first seen.

    Args:
        files: spans, each with the moment at which its file was first seen; assumed ones tell nothing.
        remembered: what files told that are gone since.

    Returns:
        The earliest of these moments, by point.
    """
    known = [(span, seen) for span, seen in files if not span.assumed]
    joints = {span.end.id for span, _ in known}
    joints.update(span.start.id for span, _ in known if span.start is not None)
    sights = dict(remembered)
    for span, seen in known:
        for held in span.held_ids & joints:
            before = sights.get(held)
            if before is None or seen < before:
                sights[held] = seen
    return sights


def _latest_times(
    tree: Ancestry, seen_at: Mapping[PointId, datetime], now: datetime
) -> dict[PointId, datetime]:
    """Tell when each point existed at the latest: it, or one that descends from it, was seen then."""
    latest: dict[PointId, datetime] = {}
    for identity in reversed(tuple(tree.points)):
        bound = min(now, seen_at.get(identity, now))
        for child in tree.children.get(identity, ()):
            bound = min(bound, latest[child.id])
        latest[identity] = bound
    return latest
