"""Which spans are merged to roll up a stretch of a chain.

A merge takes spans that lie end to start along one line of ancestry. Where several sets of files would do,
the one that names the most points wins, for its result may be applied at each of them; then the one with
the fewest files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from policies.ancestry import Ancestry, trace_ancestry
from policies.errors import ForkError, MissingPointError
from policies.points import Point, PointId, Span


@dataclass(frozen=True, slots=True)
class MergePlan:
    """What is to be merged.

    Attributes:
        sources: the spans, oldest first; each starts where the one before ends.
        start: the point that the result leads from; None for a synthetic full.
        covers: the points that the result covers, oldest first.
    """

    sources: tuple[Span, ...]
    start: Point | None
    covers: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class _Tiling:
    """The best tiling found up to a point: points covered, files and bytes used, and its last span."""

    covered: int
    files: int
    stored_bytes: int
    last: Span | None

    def extended(self, span: Span) -> _Tiling:
        return _Tiling(
            self.covered + len(span.covers), self.files + 1, self.stored_bytes + span.stored_bytes, span
        )

    def merit(self) -> tuple[int, int, int]:
        return (self.covered, -self.files, -self.stored_bytes)


def plan_merge(spans: Iterable[Span], after: Point | None, upto: Point) -> MergePlan:
    """Choose the spans that together lead from one point to another.

    Args:
        spans: spans of one chain, in any order. Assumed spans, and those that contradict others, are not
            used.
        after: the point that the result is to lead from; None to lead from nothing (a synthetic full).
        upto: the point that the result is to lead to.

    Returns:
        The plan.

    Raises:
        MissingPointError: no such points, or the spans between them have a gap; the message names it.
        ForkError: the points lie on different lines of ancestry.
    """
    tree = trace_ancestry(spans)
    origin = None if after is None else after.id
    tilings: dict[PointId | None, _Tiling] = {origin: _Tiling(0, 0, 0, None)}
    for span in sorted(tree.spans, key=_start_number):
        here = tilings.get(None if span.start is None else span.start.id)
        if here is None:
            continue
        found, rival = here.extended(span), tilings.get(span.end.id)
        if rival is None or found.merit() > rival.merit():
            tilings[span.end.id] = found
    if upto.id not in tilings or upto.id == origin:
        raise _why_not(tree, tilings.keys(), after, upto)
    sources: list[Span] = []
    point: PointId | None = upto.id
    while point != origin:
        last = tilings[point].last
        if last is None:
            break
        sources.append(last)
        point = None if last.start is None else last.start.id
    sources.reverse()
    covers = tuple(point for span in sources for point in span.covers)
    return MergePlan(tuple(sources), sources[0].start, covers)


def point_numbered(spans: Iterable[Span], number: int) -> Point:
    """Find a chain's point by its number.

    Args:
        spans: spans of one chain, in any order.
        number: the number, 0 being the base's own point.

    Returns:
        The point.

    Raises:
        MissingPointError: no span names a point of this number.
        ForkError: more than one point has this number, each on a line of its own.
    """
    found = [point for point in trace_ancestry(spans).points.values() if point.number == number]
    if not found:
        raise MissingPointError(f"no image of the chain names point {number}")
    if len(found) > 1:
        times = ", ".join(sorted(point.time.isoformat(sep=" ", timespec="seconds") for point in found))
        raise ForkError(
            f"point {number} lies on {len(found)} lines of ancestry, taken {times}",
            hint="Name the point by its time, or the file that ends there.",
        )
    return found[0]


def _start_number(span: Span) -> tuple[int, str]:
    return (-1 if span.start is None else span.start.number, span.name)


def _why_not(
    tree: Ancestry, tiled: Iterable[PointId | None], after: Point | None, upto: Point
) -> MissingPointError | ForkError:
    """Say what stands between two points that no tiling joins."""
    for wanted in (upto,) if after is None else (after, upto):
        if wanted.id not in tree.points:
            return MissingPointError(f"no image of the chain names point {wanted.number}")
    if after is not None and (after.id == upto.id or after.number >= upto.number):
        return MissingPointError(f"point {after.number} does not come before point {upto.number}")
    line = tree.line_to(upto)
    on_line = {point.id for point in line}
    if after is not None and after.id not in on_line and after.number in {point.number for point in line}:
        return ForkError(
            f"point {after.number} and point {upto.number} lie on different lines of ancestry",
            expected=f"a point on the line to point {upto.number}",
            actual=f"point {after.number} of {after.time.isoformat(sep=' ', timespec='seconds')}",
        )
    reached = on_line.intersection(tiled)
    if not reached and after is not None:
        reached = {point.id for point in line if point.number < after.number}
    return _gap_error(line, reached, after)


def _gap_error(
    line: Sequence[Point], reached: Collection[PointId | None], after: Point | None
) -> MissingPointError:
    """Name the two known points of a line between which the way breaks off."""
    before = None
    for here, following in pairwise(line):
        if here.id in reached:
            before, behind = here, following
    origin = "nothing" if after is None else f"point {after.number}"
    breach = f"no images lead from {origin} to point {line[-1].number}"
    if before is None:
        cause = "there is no base image" if after is None else f"nothing leads to point {line[0].number}"
        return MissingPointError(f"{breach}: {cause}")
    return MissingPointError(
        f"{breach}: between point {before.number} and point {behind.number} there is a gap",
        hint=f"Bring back the image that leads from point {before.number} to point {behind.number}.",
    )
