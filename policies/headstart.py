"""HeadStart: which point a disk that is rolled forward may stand at now, how it gets there, and what holds it up.

A job keeps a disk some time, its *lag*, behind the volume. A point is due once its lag has passed, which is counted
from the later of two moments: when it was taken, and when it was first seen. A stamp that lies after the point was
first seen is wrong, and a point is never due before those that it descends from. The first point of all is due at once:
it takes longest, and there is nothing yet that could be spoiled.

A disk follows one line of ancestry, through images that were read back and found good, and never through a base once it
stands anywhere: to begin anew is for a person to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from policies.ancestry import Ancestry, trace_ancestry
from policies.cursor import Cursor, roll_on_path
from policies.holdings import Holding, Whereabouts
from policies.points import Point, PointId, Span
from policies.reach import ways_from_nothing

LAG_HOURS_MAX: Final = 23
"""A lag in hours is 1 to so many."""

LAG_DAYS_MAX: Final = 30
"""A lag in days is 1 to so many."""

FALLS_BEHIND_AFTER: Final = timedelta(hours=24)
"""A disk that has not reached for so long what it should stand at is worth a notice."""

NO_LAG: Final = timedelta(0)

Times = Mapping[PointId, datetime]
"""From when the lag of each point counts."""

_LAG: Final = re.compile(r"([0-9]{1,4})([hd]?)")


def parse_lag(words: str) -> timedelta | None:
    """Read a lag.

    Args:
        words: `0`, hours as `1h` to `23h`, or days as `1d` to `30d`.

    Returns:
        The lag; None if these words say none.
    """
    found = _LAG.fullmatch(words.strip().lower())
    if found is None:
        return None
    number, unit = int(found[1]), found[2]
    if number == 0:
        return NO_LAG
    if unit == "h" and number <= LAG_HOURS_MAX:
        return timedelta(hours=number)
    return timedelta(days=number) if unit == "d" and number <= LAG_DAYS_MAX else None


def lag_text(lag: timedelta) -> str:
    """Write a lag as `parse_lag` reads it."""
    if lag % timedelta(days=1):
        return f"{lag // timedelta(hours=1)}h"
    return f"{lag.days}d" if lag else "0"


class DiskState(StrEnum):
    """How a disk stands, in the words that people see.

    EMPTY: no image is there yet to begin with. BUILDING: its first point is being written. ROLLING: later ones are.
    UP_TO_DATE: it stands at the newest point. WAITING: newer points are there, and their lag has not passed.
    UNPROVEN: what is due waits until an image has been verified. STOPPED: what is due cannot be applied. NEEDS_FRESH:
    no image that will come can bring it further; only a disk that is begun anew can. PAUSED: a person said so.
    FINALIZED: it is a disk that is used, and takes no more points. LENT: others read it for a while, under a child.
    """

    EMPTY = "waits for a base"
    BUILDING = "building"
    ROLLING = "rolling"
    UP_TO_DATE = "up to date"
    WAITING = "waits for lag"
    UNPROVEN = "waits for verification"
    STOPPED = "stopped"
    NEEDS_FRESH = "needs a fresh build"
    PAUSED = "paused"
    FINALIZED = "finalized"
    LENT = "lent"


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """What is to be done with a disk now, and what it needs.

    Attributes:
        state: how it stands, were nobody to say otherwise.
        reason: why, in words; empty where the state says it all.
        goal: the point that it is to be brought to; None if there is nothing to do.
        path: the images that bring it there, in the order of application.
        target: the newest point that verified images bring it to: what must stay within reach; None if there is none.
        newest: the newest point of its line that is known, verified or not; None if there is none.
        next_due_at: when something becomes due by time alone; None for never.
        due_since: since when it should have stood at a later point; None if it stands where it should.
    """

    state: DiskState
    reason: str = ""
    goal: Point | None = None
    path: tuple[Span, ...] = ()
    target: Point | None = None
    newest: Point | None = None
    next_due_at: datetime | None = None
    due_since: datetime | None = None

    def behind(self, now: datetime) -> timedelta:
        """Tell for how long the disk has been behind what it should stand at."""
        return max(now - self.due_since, NO_LAG) if self.due_since is not None else NO_LAG


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """All that is known of a disk and of its chain.

    Attributes:
        cursor: where it stands.
        holdings: the chain's images, in any order.
        lag: how long it stays behind.
        capacity_bytes: the largest volume that fits on it; None before it is begun.
        building: the point of a first build that is under way; None if there is none.
    """

    cursor: Cursor
    holdings: tuple[Holding, ...]
    lag: timedelta = NO_LAG
    capacity_bytes: int | None = None
    building: PointId | None = None


def plan_disk(facts: DiskFacts, now: datetime) -> DiskPlan:
    """Decide where a disk is to go now.

    Args:
        facts: all that is known.
        now: the present moment.

    Returns:
        The plan. To carry it out and to plan again gives a plan with nothing to do.
    """
    if not any(_counts(one) for one in facts.holdings) and facts.cursor.is_blank:
        return _nowhere(facts)
    tree = trace_ancestry(one.span for one in facts.holdings)
    times = counted_times(facts.holdings, tree)
    line = _line_of(facts, tree, times)
    due_at = {point.id: times.get(point.id, point.time) + facts.lag for point in line}
    hi = facts.cursor.hi
    ends = {one.span.end.id for one in facts.holdings if _counts(one) or one.place is Whereabouts.GONE}
    floor = -1 if hi is None else hi.number
    ahead = tuple(point for point in line if point.number > floor and point.id in ends)
    reached = _reached(facts, line)
    goal = _goal(facts, reached, due_at, now)
    overdue = [point for point in ahead if due_at[point.id] <= now]
    later = [due_at[point.id] for point in ahead if due_at[point.id] > now]
    path: tuple[Span, ...] = ()
    if goal is not None:
        path = roll_on_path(facts.cursor, _usable(facts), goal.id) or ()
    state, reason = _state(facts, tree, times, ahead or line[-1:], goal, overdue)
    return DiskPlan(
        state=state,
        reason=reason,
        goal=goal,
        path=path,
        target=reached[-1] if reached else hi,
        newest=line[-1],
        next_due_at=min(later, default=None),
        due_since=min((due_at[point.id] for point in overdue), default=None),
    )


def counted_times(holdings: Iterable[Holding], tree: Ancestry) -> Times:
    """Tell from when the lag of each point counts.

    Args:
        holdings: the chain's images; those that are gone tell, too.
        tree: who descends from whom.

    Returns:
        The later of its stamp, set right, and the moment at which it was first seen by an image of its own; never
        earlier than that of its parent. What rolled-up images alone tell of is taken at its word: they came later.
    """
    own: dict[PointId, datetime] = {}
    merged: dict[PointId, datetime] = {}
    for one in holdings:
        if one.span.assumed:
            continue
        sights = own if len(one.span.covers) == 1 else merged
        for point in one.span.covers:
            sights[point.id] = min(one.first_seen_at, sights.get(point.id, one.first_seen_at))
    times: dict[PointId, datetime] = {}
    for point in tree.points.values():
        seen = own.get(point.id)
        time = seen if seen is not None else min(point.time, merged.get(point.id, point.time))
        parent = tree.parents.get(point.id)
        times[point.id] = time if parent is None else max(time, times[parent.id])
    return times


def reachable_later(cursor: Cursor, holdings: Iterable[Holding]) -> tuple[Point, ...]:
    """List the points that verified images bring a disk to without beginning it anew, its own first, by number.

    Args:
        cursor: where it stands; from a blank one, all points that can be restored.
        holdings: the chain's images.
    """
    facts = DiskFacts(cursor, tuple(holdings))
    tree = trace_ancestry(one.span for one in facts.holdings)
    return _reached(facts, tuple(tree.points.values()))


def is_due(facts: DiskFacts, point: Point, now: datetime) -> bool:
    """Tell whether the lag of a point has passed.

    Args:
        facts: all that is known of the disk and of its chain.
        point: a point of the chain.
        now: the present moment.
    """
    times = counted_times(facts.holdings, trace_ancestry(one.span for one in facts.holdings))
    return times.get(point.id, point.time) + facts.lag <= now


def _counts(one: Holding) -> bool:
    return one.place is Whereabouts.PRESENT and not one.span.assumed


def _usable(facts: DiskFacts) -> tuple[Span, ...]:
    """Give the spans that may be applied: proven ones, and a base only to a disk that stands nowhere."""
    blank = facts.cursor.is_blank
    return tuple(one.span for one in facts.holdings if one.is_proven and (blank or not one.span.is_base))


def _line_of(facts: DiskFacts, tree: Ancestry, times: Times) -> tuple[Point, ...]:
    """Give the line that the disk follows, oldest first: the one that ends last of those that it can be on."""
    hi = facts.cursor.hi
    if hi is None:
        return tree.line_to(_last(_to_begin_with(facts, tree), times))
    if hi.id not in tree.points:
        return (hi, *_beyond_gap(tree, times, hi, hi))
    line = tree.line_to(_last(_descendants(tree, hi), times))
    return (*line, *_beyond_gap(tree, times, hi, line[-1]))


def _to_begin_with(facts: DiskFacts, tree: Ancestry) -> Sequence[Point]:
    """List the points of which one may be the first of a disk, or later on the same line."""
    if facts.building is not None and facts.building in tree.points:
        return _descendants(tree, tree.points[facts.building])
    ways = ways_from_nothing(_usable(facts))
    on_way = [point for point in tree.points.values() if point.id in ways]
    if not on_way:
        return tuple(tree.points.values())
    times = counted_times(facts.holdings, tree)
    return _descendants(tree, _last(on_way, times))


def _last(points: Iterable[Point], times: Times) -> Point:
    return max(points, key=lambda point: (times.get(point.id, point.time), point.number, point.id))


def _beyond_gap(tree: Ancestry, times: Times, hi: Point, last: Point) -> tuple[Point, ...]:
    """Give the line that goes on somewhere after a point, with nothing that says how it hangs together."""
    mine = {point.id for point in (tree.line_to(hi) if hi.id in tree.points else (hi,))}
    based = {span.covers[0].id for span in tree.spans if span.is_base}
    hanging: set[PointId] = set()
    for point in tree.points.values():
        parent = tree.parents.get(point.id)
        is_root = parent is None and point.id not in mine and point.id not in based
        if (is_root and point.number > last.number) or (parent is not None and parent.id in hanging):
            hanging.add(point.id)
    if not hanging:
        return ()
    end = _last((tree.points[identity] for identity in hanging), times)
    return tuple(point for point in tree.line_to(end) if point.id in hanging)


def _descendants(tree: Ancestry, point: Point) -> list[Point]:
    """List a point and all that descends from it, ancestors first."""
    found = [tree.points.get(point.id, point)]
    for one in found:
        found.extend(tree.children.get(one.id, ()))
    return found


def _reached(facts: DiskFacts, line: Sequence[Point]) -> tuple[Point, ...]:
    """List the points of a line that usable images bring the disk to, where it stands exactly apart from none."""
    spans = _usable(facts)
    if facts.cursor.is_blank:
        ways = ways_from_nothing(spans)
        return tuple(point for point in line if point.id in ways)
    first, hi = facts.cursor.points, facts.cursor.points[-1]
    held = {hi.id} if facts.cursor.is_closed else set()
    ends = {span.end.id for span in spans if all(span.holds(point.id) for point in first)}
    if facts.cursor.is_closed:
        ends |= {hi.id}
    for span in sorted(spans, key=lambda span: span.end.number):
        if span.ascends and (span.end.id in ends or not held.isdisjoint(span.held_ids)):
            held.add(span.end.id)
    return tuple(point for point in line if point.id in held and point.number >= hi.number)


def _goal(
    facts: DiskFacts, reached: Sequence[Point], due_at: Mapping[PointId, datetime], now: datetime
) -> Point | None:
    fits = [
        point
        for point in reached
        if facts.capacity_bytes is None or point.volume_bytes <= facts.capacity_bytes
    ]
    due = [point for point in fits if due_at[point.id] <= now]
    if facts.cursor.is_blank:
        built = [point for point in fits if point.id == facts.building]
        chosen = built or due[-1:] or fits[:1]
        return chosen[0] if chosen else None
    if facts.cursor.is_closed:
        return due[-1] if due and due[-1].id != facts.cursor.points[0].id else None
    return due[-1] if due else (fits[0] if fits else None)  # torn: mended by whatever leads least far


def _nowhere(facts: DiskFacts) -> DiskPlan:
    if any(one.span.assumed and one.place is Whereabouts.PRESENT for one in facts.holdings):
        return DiskPlan(DiskState.STOPPED, "its images are in a container that cannot be read")
    return DiskPlan(DiskState.EMPTY, "no image is there that leads anywhere")


def _state(
    facts: DiskFacts,
    tree: Ancestry,
    times: Times,
    ahead: Sequence[Point],
    goal: Point | None,
    overdue: Sequence[Point],
) -> tuple[DiskState, str]:
    cursor = facts.cursor
    left = [point for point in overdue if goal is None or point.number > goal.number]
    too_large = [point for point in left if (facts.capacity_bytes or point.volume_bytes) < point.volume_bytes]
    if goal is not None:
        return (DiskState.BUILDING if cursor.is_blank else DiskState.ROLLING), f"to point {goal.number}"
    if cursor.is_blank:
        return _held_up(facts, ahead[0], None)
    if too_large and too_large[0] is left[0]:
        size = too_large[0].volume_bytes
        return (
            DiskState.NEEDS_FRESH,
            f"the volume has outgrown the disk: {size:,} bytes at point {left[0].number}",
        )
    if left or not cursor.is_closed:
        return _held_up(facts, left[0] if left else ahead[-1], cursor.hi)
    hi = cursor.points[-1]
    if ahead[-1].number > hi.number:
        return DiskState.WAITING, f"point {ahead[-1].number} is there already"
    aside = _newer_elsewhere(tree, times, hi)
    if aside is not None:
        return (
            DiskState.NEEDS_FRESH,
            f"the chain goes on from before point {hi.number}, up to point {aside.number}",
        )
    return DiskState.UP_TO_DATE, ""


def _newer_elsewhere(tree: Ancestry, times: Times, hi: Point) -> Point | None:
    """Find the end of another line that is newer than ours."""
    if hi.id not in tree.points:
        return None
    mine = {point.id for point in _descendants(tree, hi)}
    others = [p for p in tree.points.values() if p.id not in mine and times[p.id] > times[hi.id]]
    return _last(others, times) if others else None


def _held_up(facts: DiskFacts, upto: Point, hi: Point | None) -> tuple[DiskState, str]:
    """Say which image stands in the way of a point that is due."""
    floor = -1 if hi is None else hi.number
    between = sorted(
        (
            one
            for one in facts.holdings
            if one.place is not Whereabouts.ASIDE and one.span.end.number > floor and not one.is_proven
        ),
        key=lambda one: (one.span.end.number, one.name),
    )
    for one in between:
        if one.fault is not None:
            return DiskState.STOPPED, f"{one.name} is bad: {one.fault}"
        if one.place is Whereabouts.GONE:
            return DiskState.STOPPED, f"{one.name} is gone"
        if one.span.assumed:
            return DiskState.STOPPED, f"{one.name} is in a container that cannot be read"
    if between and any(not one.is_proven and one.is_present for one in between):
        return DiskState.UNPROVEN, f"{between[0].name} has not been verified"
    if hi is None:
        return DiskState.STOPPED, "no verified images lead from a base to any point"
    if not facts.cursor.is_closed:
        return (
            DiskState.STOPPED,
            "it was left between two points, and no verified image is there that holds both",
        )
    return DiskState.STOPPED, f"no verified images lead from point {hi.number} to point {upto.number}"
