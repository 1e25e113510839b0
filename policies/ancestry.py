"""Who descends from whom: the tree of points, as far as the headers of the spans tell it.

A span names points in order of ancestry, yet need not name all (a differential leaves out those between).
All ancestors of a point lie on one line, and numbers ascend along it: so the nearest known ancestor of a
point is the one with the highest number among those that any span names directly before it.

Spans that contradict this are left out: one whose numbers do not ascend, or that numbers a point otherwise
than a span of a lesser name did. What is left can hold no cycle. Assumed spans prove nothing and are left
out too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    sound, points = _sound_spans(spans)
    parents: dict[PointId, Point] = {}
    for span in sound:
        line = span.covers if span.start is None else (span.start, *span.covers)
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


def _sound_spans(spans: Iterable[Span]) -> tuple[tuple[Span, ...], dict[PointId, Point]]:
    points: dict[PointId, Point] = {}
    sound: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.name, span.end.id)):
        line = span.covers if span.start is None else (span.start, *span.covers)
        ascends = all(older.number < newer.number for older, newer in pairwise(line))
        agrees = all(points.get(point.id, point).number == point.number for point in line)
        if span.assumed or not ascends or not agrees:
            continue
        sound.append(span)
        for point in line:
            points.setdefault(point.id, point)
    return tuple(sound), points


def _rank(point: Point) -> tuple[int, PointId]:
    return (point.number, point.id)
