"""Where a HeadStart disk stands, and which span may be applied to it next.

A disk that is being rolled forward does not always stand at one point: while a span is being written, each
granule holds its old value, its new one, or the zero that stands in between where the volume was smaller
for a while. The cursor is the exact set of points whose values may be on the disk. It is made wider,
durably, before the first write, and closed again after the last synced one; a span may be applied when it
holds every point of the cursor.

A base clears the whole disk before it writes, and what it leaves half done is the value of no point at all.
While one is being applied the cursor is blank, and only a base, any base, can go on from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from policies.errors import MissingPointError
from policies.points import Point, PointId, Span
from policies.reach import path_beginning_with, shortest_path


@dataclass(frozen=True, slots=True)
class Cursor:
    """The points whose values may be on a disk.

    Attributes:
        points: the points in order of ancestry; one when the disk stands exactly there, none when nothing is
            known of what it holds.
    """

    points: tuple[Point, ...] = ()

    @classmethod
    def blank(cls) -> Cursor:
        """Give the cursor of a disk of which nothing is known: a new one, or one that a base was torn on."""
        return cls(())

    @classmethod
    def closed(cls, point: Point) -> Cursor:
        """Give the cursor of a disk that stands exactly at a point."""
        return cls((point,))

    @property
    def is_blank(self) -> bool:
        """Whether nothing is known of what the disk holds."""
        return not self.points

    @property
    def is_closed(self) -> bool:
        """Whether the disk stands exactly at one point: only then may it be finalized."""
        return len(self.points) == 1

    @property
    def lo(self) -> Point | None:
        """The first point whose values may be on the disk; None when blank."""
        return self.points[0] if self.points else None

    @property
    def hi(self) -> Point | None:
        """The last point whose values may be on the disk; None when blank."""
        return self.points[-1] if self.points else None

    def widened(self, span: Span) -> Cursor:
        """Say what may be on the disk from the first write of a span on.

        Args:
            span: the span that is about to be applied.

        Returns:
            The cursor to make durable before the first write.

        Raises:
            MissingPointError: the span may not be applied to this disk.
        """
        _check_usable(self, span)
        if span.start is None:
            return Cursor.blank()
        line = (span.start, *span.covers)
        sizes = {point.id: point.volume_bytes for point in line}
        within = {point.id for point in self.points}
        possible = within | {span.end.id}
        if not any(sizes[point] == span.zero_from_bytes for point in possible):
            possible |= _zero_witness(line, span.zero_from_bytes)
        return Cursor(tuple(point for point in line if point.id in possible))

    def after(self, span: Span) -> Cursor:
        """Say where the disk stands once a span's last write is synced.

        Args:
            span: the span that was applied.

        Returns:
            The cursor, closed at the span's end.

        Raises:
            MissingPointError: the span could not be applied to this disk.
        """
        _check_usable(self, span)
        return Cursor.closed(span.end)


def usable(cursor: Cursor, span: Span) -> bool:
    """Tell whether applying a span gives exactly its end, whatever mixture the disk holds.

    Args:
        cursor: where the disk stands.
        span: the span.

    Returns:
        Whether the span holds every point of the cursor; to a blank disk only a base may be applied. An
        assumed span may never be.
    """
    if span.assumed:
        return False
    if cursor.is_blank:
        return span.is_base
    return span.holds(*(point.id for point in cursor.points))


def roll_on_path(cursor: Cursor, spans: Iterable[Span], target: PointId) -> tuple[Span, ...] | None:
    """Find the spans that bring a disk to a point.

    A base that would overwrite the whole disk is taken only where no other spans lead on.

    Args:
        cursor: where the disk stands.
        spans: the spans that may be used, in any order.
        target: the point to reach.

    Returns:
        The spans in the order in which they are to be applied, as few as possible, none when the disk is
        there already; or None when no way leads there, and the disk could only be begun anew.
    """
    known = tuple(spans)
    if cursor.is_blank:
        return shortest_path(known, target)
    for allowed in ([span for span in known if not span.is_base], known):
        path = _path_from(cursor, allowed, target)
        if path is not None:
            return path
    return None


def next_span(cursor: Cursor, spans: Iterable[Span], target: PointId) -> Span | None:
    """Choose the span to apply next on the way to a point.

    Args:
        cursor: where the disk stands.
        spans: the spans that may be used, in any order.
        target: the point to reach.

    Returns:
        The span, or None when the disk is there already or no way leads there.
    """
    path = roll_on_path(cursor, spans, target)
    return path[0] if path else None


def _path_from(cursor: Cursor, spans: Iterable[Span], target: PointId) -> tuple[Span, ...] | None:
    if cursor.is_closed:
        return shortest_path(spans, target, cursor.points[0].id)
    known = tuple(spans)
    return path_beginning_with((span for span in known if usable(cursor, span)), known, target)


def _zero_witness(line: tuple[Point, ...], zero_from_bytes: int) -> set[PointId]:
    """Name the point at which everything was zero that the span zeroes first."""
    return {next(point.id for point in line if point.volume_bytes == zero_from_bytes)}


def _check_usable(cursor: Cursor, span: Span) -> None:
    if not usable(cursor, span):
        places = ", ".join(str(point.number) for point in cursor.points) or "no known point"
        raise MissingPointError(
            f"image {span.name!r} cannot be applied to a disk that stands at {places}",
            hint="Begin the disk anew from a base image.",
        )
