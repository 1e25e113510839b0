"""Which points can be restored, by which files, and what stands in the way.

A span may be applied to a disk that stands exactly at its from point or at any point that it covers (the
law of applying), so the points form a graph whose steps are files: where a way leads from nothing to a
point without a gap, that point can be restored, and the way with the fewest steps is the one to take.
Assumed spans are never used.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from policies.ancestry import Ancestry, trace_ancestry
from policies.points import Point, PointId, Span


@dataclass(frozen=True, slots=True)
class Gap:
    """A point that spans lead on from, and that nothing leads to.

    Attributes:
        missing: the point that no way leads to.
        waiting: names of the spans that lead from it, in order.
        after: the last point before it that can be restored, on its own line where that is known; what is
            lost lies in (after, missing]. None when nothing before it can be restored.
        bridged: whether a usable span passes over the missing point, so that its line goes on all the same.
    """

    missing: Point
    waiting: tuple[str, ...]
    after: Point | None
    bridged: bool


@dataclass(frozen=True, slots=True)
class Fork:
    """A point from which more than one line goes on.

    Attributes:
        point: where the lines part.
        children: the first known point of each line, by number.
    """

    point: Point
    children: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Way:
    """The last step of the best way to a point; following `previous` back gives the whole way.

    Attributes:
        span: the file applied last.
        previous: the point at which it is applied; None when it is the way's first file.
        stored_bytes: size of all files of the way together, in bytes.
    """

    span: Span
    previous: PointId | None
    stored_bytes: int


def shortest_path(
    spans: Iterable[Span], target: PointId, standing: PointId | None = None
) -> tuple[Span, ...] | None:
    """Find the fewest files that lead to a point.

    Args:
        spans: the spans that may be used, in any order; assumed ones are not.
        target: the point to reach.
        standing: the point at which the disk stands exactly; None for a disk that holds nothing of use.

    Returns:
        The spans in the order in which they are to be applied, none when the disk is there already; or None
        when no way leads there. Among ways of equally many files the one with the fewest stored bytes is
        taken; names decide between equals, so that the answer never depends on the order of `spans`.
    """
    if standing is not None and standing == target:
        return ()
    usable = [span for span in spans if not span.assumed]
    if standing is None:
        first = [span for span in usable if span.is_base]
    else:
        first = [span for span in usable if span.holds(standing) and span.end.id != standing]
    return path_beginning_with(first, usable, target)


def path_beginning_with(
    first: Iterable[Span], spans: Iterable[Span], target: PointId
) -> tuple[Span, ...] | None:
    """Find the fewest files that lead to a point, where the first of them is chosen from a given few.

    Args:
        first: the spans that may be applied to the disk as it is now.
        spans: the spans that may be applied from then on, in any order.
        target: the point to reach.

    Returns:
        The spans in the order in which they are to be applied, at least one; or None when no way leads there.
    """
    ways = _spread(first, spans, target)
    if target not in ways:
        return None
    path: list[Span] = []
    point: PointId | None = target
    while point is not None:
        way = ways[point]
        path.append(way.span)
        point = way.previous
    return tuple(reversed(path))


def reachable(spans: Iterable[Span]) -> frozenset[PointId]:
    """Tell which points can be restored.

    Args:
        spans: the spans that may be used, in any order; assumed ones are not.

    Returns:
        Identities of all points that spans lead to from nothing without a gap.
    """
    waiting = sorted((span for span in spans if not span.assumed), key=lambda span: span.end.number)
    reached: set[PointId] = set()
    while True:
        left = []
        for span in waiting:
            if span.start is None or span.start.id in reached or not span.held_ids.isdisjoint(reached):
                reached.add(span.end.id)
            else:
                left.append(span)
        if len(left) == len(waiting):
            return frozenset(reached)
        waiting = left


def ways_from_nothing(spans: Iterable[Span]) -> Mapping[PointId, Way]:
    """Find the fewest files that lead to each point that can be restored.

    Args:
        spans: the spans that may be used, in any order; assumed ones are not.

    Returns:
        The last step to each point, by the point's identity; ways are chosen as by `shortest_path`.
    """
    known = tuple(spans)
    return _spread((span for span in known if span.is_base), known, None)


def gaps(spans: Iterable[Span]) -> tuple[Gap, ...]:
    """Find the points where a line begins that nothing leads to.

    Args:
        spans: spans of one chain, in any order.

    Returns:
        One gap for each such point, by number. Spans that only follow behind a gap add none of their own.
    """
    usable = [span for span in spans if not span.assumed]
    ways = ways_from_nothing(usable)
    bridged = {
        point.id for span in usable if _is_usable(span, ways) for point in span.covers if point.id not in ways
    }
    stranded = sorted(
        (span for span in usable if span.start is not None and span.start.id not in ways),
        key=lambda span: (span.start.number if span.start else 0, span.name),
    )
    starts: dict[PointId, Point] = {}
    waiting: dict[PointId, list[Span]] = {}
    for span in stranded:
        if span.start is not None:
            starts.setdefault(span.start.id, span.start)
            waiting.setdefault(span.start.id, []).append(span)
    before = _last_reached(trace_ancestry(usable), ways, starts.values())
    found: list[Gap] = []
    explained: set[PointId] = set()
    for point in starts.values():
        if point.id not in explained:
            _flood(point.id, waiting, explained)
            names = tuple(span.name for span in waiting[point.id])
            found.append(Gap(point, names, before[point.id], point.id in bridged))
    return tuple(found)


def forks(spans: Iterable[Span]) -> tuple[Fork, ...]:
    """Find the points from which more than one line goes on.

    Args:
        spans: spans of one chain, in any order.

    Returns:
        The forks, by number: points with several children of which, as far as is known, none descends from
        another.
    """
    tree = trace_ancestry(spans)
    return tuple(
        Fork(point, tree.children[point.id])
        for point in tree.points.values()
        if len(tree.children.get(point.id, ())) > 1
    )


def tips(spans: Iterable[Span]) -> tuple[Point, ...]:
    """Find where the lines end.

    Args:
        spans: spans of one chain, in any order.

    Returns:
        The points that no known point descends from, by number; also those that cannot be restored.
    """
    tree = trace_ancestry(spans)
    return tuple(point for point in tree.points.values() if point.id not in tree.children)


def tip(spans: Iterable[Span]) -> Point | None:
    """Find the newest point that can be restored.

    Args:
        spans: spans of one chain, in any order.

    Returns:
        The point, the latest of several lines' last ones; None when nothing can be restored.
    """
    points = (way.span.end for way in ways_from_nothing(spans).values())
    return max(points, key=lambda point: (point.time, point.number, point.id), default=None)


def _spread(first: Iterable[Span], spans: Iterable[Span], target: PointId | None) -> Mapping[PointId, Way]:
    """Go outward breadth first, up to the target or as far as spans lead; each span is looked at once."""
    holders = _holders(spans)
    ways: dict[PointId, Way] = {}
    steps = [Way(span, None, span.stored_bytes) for span in first if not span.assumed]
    taken = {id(way.span) for way in steps}
    while steps:
        arrived = _best_arrivals(steps, ways)
        ways.update(arrived)
        if target in arrived:
            break
        steps = []
        for way in sorted(arrived.values(), key=_preference):
            point = way.span.end.id
            for span in holders.get(point, ()):
                if span.end.id not in ways and id(span) not in taken:
                    taken.add(id(span))
                    steps.append(Way(span, point, way.stored_bytes + span.stored_bytes))
    return ways


def _holders(spans: Iterable[Span]) -> Mapping[PointId, Sequence[Span]]:
    """List the spans that hold each point at which a way may stand, which is one where some span ends."""
    usable = sorted((span for span in spans if not span.assumed), key=lambda span: span.name)
    ends = {span.end.id for span in usable}
    holders: dict[PointId, list[Span]] = {end: [] for end in ends}
    for span in usable:
        for held in span.held_ids & ends:
            holders[held].append(span)
    return holders


def _best_arrivals(steps: Sequence[Way], ways: Mapping[PointId, Way]) -> dict[PointId, Way]:
    arrived: dict[PointId, Way] = {}
    for way in steps:
        end = way.span.end.id
        if end in ways:
            continue
        rival = arrived.get(end)
        if rival is None or _preference(way) < _preference(rival):
            arrived[end] = way
    return arrived


def _preference(way: Way) -> tuple[int, str, PointId]:
    return (way.stored_bytes, way.span.name, way.span.end.id)


def _is_usable(span: Span, ways: Mapping[PointId, Way]) -> bool:
    return span.is_base or any(held in ways for held in span.held_ids - {span.end.id})


def _flood(start: PointId, waiting: Mapping[PointId, Sequence[Span]], explained: set[PointId]) -> None:
    """Mark what a gap explains: every point that spans lead to, one after another, from the missing one."""
    todo = [start]
    while todo:
        point = todo.pop()
        if point not in explained:
            explained.add(point)
            todo.extend(span.end.id for span in waiting.get(point, ()))


def _last_reached(
    tree: Ancestry, ways: Mapping[PointId, Way], missing: Iterable[Point]
) -> Mapping[PointId, Point | None]:
    """Find, for each missing point, the nearest ancestor reached, or else the last number before it."""
    nearest: dict[PointId, Point] = {}
    for point in tree.points.values():
        parent = tree.parents.get(point.id)
        if point.id in ways:
            nearest[point.id] = point
        elif parent is not None and parent.id in nearest:
            nearest[point.id] = nearest[parent.id]
    reached = sorted((way.span.end for way in ways.values()), key=lambda point: (point.number, point.id))
    numbers = [point.number for point in reached]
    found: dict[PointId, Point | None] = {}
    for point in missing:
        place = bisect_left(numbers, point.number)
        found[point.id] = nearest.get(point.id) or (reached[place - 1] if place else None)
    return found
