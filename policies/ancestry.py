"""Who descends from whom: the tree of points, as far as the headers of the spans tell it.

A span names points in order of ancestry, yet need not name all (a differential leaves out those between).
All ancestors of a point lie on one line, and numbers ascend along it: so the nearest known ancestor of a
point is the one with the highest number among those that any span names directly before it.

Spans that contradict this are left out: one whose numbers do not ascend, or that numbers a point otherwise
than a span of a lesser name did. What is left can hold no cycle. Assumed spans prove nothing and are left
out too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from policies.points import Point, PointId, Span


@dataclass(frozen=True, slots=True)
class Ancestry:
    """The known tree of points.

    Attributes:
        spans: the spans that it rests on, by name.
        points: every point that they name, by identity, numbers ascending: ancestors come before descendants.
        parents: the nearest known ancestor of each point that has one.
        children: points by their nearest known ancestor, numbers ascending.
    """

    spans: tuple[Span, ...]
    points: Mapping[PointId, Point]
    parents: Mapping[PointId, Point]
    children: Mapping[PointId, tuple[Point, ...]]

    def line_to(self, end: Point) -> tuple[Point, ...]:
        """Follow a point back to the oldest known ancestor.

        Args:
            end: the point.

        Returns:
            Its known ancestors, oldest first, and the point itself.
        """
        line = [end]
        while (parent := self.parents.get(line[-1].id)) is not None:
            line.append(parent)
        return tuple(reversed(line))


def trace_ancestry(spans: Iterable[Span]) -> Ancestry:
    """Work out the tree of points.

    Args:
        spans: spans of one chain, in any order.

    Returns:
        The tree. It depends on the set of spans alone, not on their order.
    """
    return _trace(spans, None)


def trace_joints(spans: Iterable[Span]) -> Ancestry:
    """Work out the tree of those points at which a span begins or ends.

    However many points an image names, only these matter to where another may be joined to it. A chain of years has
    many points and few joints.

    Args:
        spans: spans of one chain, in any order.

    Returns:
        The tree of the joints alone: a joint's parent is the nearest known ancestor that is one.
    """
    known = tuple(spans)
    joints = {span.end.id for span in known}
    joints.update(span.start.id for span in known if span.start is not None)
    return _trace(known, joints)


def _trace(spans: Iterable[Span], wanted: Collection[PointId] | None) -> Ancestry:
    sound, points, lines = _sound_spans(spans, wanted)
    parents: dict[PointId, Point] = {}
    for line in lines:
        for older, newer in pairwise(line):
            known = parents.get(newer.id)
            if known is None or _rank(known) < _rank(points[older.id]):
                parents[newer.id] = points[older.id]
    ordered = sorted(points.values(), key=_rank)
    children: dict[PointId, list[Point]] = {}
    for point in ordered:
        if (parent := parents.get(point.id)) is not None:
            children.setdefault(parent.id, []).append(point)
    return Ancestry(
        spans=sound,
        points={point.id: point for point in ordered},
        parents=parents,
        children={parent: tuple(points) for parent, points in children.items()},
    )


def _sound_spans(
    spans: Iterable[Span], wanted: Collection[PointId] | None
) -> tuple[tuple[Span, ...], dict[PointId, Point], list[Sequence[Point]]]:
    """Leave out what contradicts itself or others; give the points and lines of the rest, as far as wanted."""
    points: dict[PointId, Point] = {}
    sound: list[Span] = []
    lines: list[Sequence[Point]] = []
    for span in sorted(spans, key=lambda span: (span.name, span.end.id)):
        if span.assumed or not span.ascends:
            continue
        line = span.covers if span.start is None else (span.start, *span.covers)
        if wanted is not None and len(span.covers) > 1:
            line = tuple(point for point in line if point.id in wanted)
        if all(points.get(point.id, point).number == point.number for point in line):
            sound.append(span)
            lines.append(line)
            for point in line:
                points.setdefault(point.id, point)
    return tuple(sound), points, lines


def _rank(point: Point) -> tuple[int, PointId]:
    return (point.number, point.id)
