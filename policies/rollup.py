"""What is due to be rolled up.

When a period has ended, all points captured in it become one image, which leads from the last point of the period
before, or from the base's own point, to the period's last. A day becomes a daily, a week a weekly, a month a
monthly; the oldest monthlies become a rolling image, if that is asked for. A period with a single image is rolled up
like any other; one that was missed is made up for, each by an image of its own; a fork gives each of its lines
images of its own.

A period is held by any image of its tier or a higher one that covers it whole. One that leaves points out which
could be merged now, because they came late, is due again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, tzinfo

from policies.calendar import Period, day_bounds, months_later
from policies.folder_policy import ConsolidationPolicy
from policies.holdings import TIERS, tier_of
from policies.names import Tier
from policies.points import Point, PointId, Span
from policies.timeline import Timeline, trace_timeline


@dataclass(frozen=True, slots=True)
class DueRollup:
    """A consolidation that is due.

    Attributes:
        after: the point that it is to lead from.
        upto: the point that it is to lead to.
        tier: what it is rolled up as.
        period: the local days that it sums up.
        closed_at: since when it has been due.
        reason: why it is due, in words for the administrator.
    """

    after: Point
    upto: Point
    tier: Tier
    period: Period
    closed_at: datetime
    reason: str

    @property
    def day(self) -> date:
        """The last local day that it sums up."""
        return self.period.last


@dataclass(frozen=True, slots=True)
class Rollups:
    """What is due, and what will be.

    Attributes:
        due: what is due, lower tiers first, oldest first.
        next_close_at: when the next period ends whose points are in no image of its tier yet; None if there is none.
    """

    due: tuple[DueRollup, ...]
    next_close_at: datetime | None


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
    timeline = trace_timeline(spans, zone)
    ranks = {span.name: TIERS.index(tier_of(span)) for span in timeline.tree.spans}
    return plan_rollups(timeline, ranks, ConsolidationPolicy(), now, (Tier.DAILY,)).due


def tiers_in_use(policy: ConsolidationPolicy) -> tuple[Tier, ...]:
    """Tell which tiers a folder rolls up, lowest first."""
    return TIERS[1:] if policy.rolling else TIERS[1:-1]


def plan_rollups(
    timeline: Timeline,
    ranks: Mapping[str, int],
    policy: ConsolidationPolicy,
    as_of: datetime,
    tiers: Sequence[Tier],
) -> Rollups:
    """Tell what is due to be rolled up, of all tiers.

    Args:
        timeline: the chain's points, placed in time, and the spans that may be merged.
        ranks: each span's tier, by name, as its index in `TIERS`.
        policy: when periods end.
        as_of: the moment as of which it is judged: a period that ends later has not ended.
        tiers: the tiers that are rolled up.

    Returns:
        What is due: for each tier, period and line of ancestry one, if its spans lie there without a gap and no image
        of the tier or a higher one holds as many points as could be merged.
    """
    ordered = sorted(timeline.tree.spans, key=lambda span: span.start.number if span.start else -1)
    due: list[DueRollup] = []
    closings: list[datetime] = []
    for tier in tiers:
        for rollup in _of_tier(timeline, ordered, ranks, _Rule(tier, policy, timeline, as_of)):
            if rollup.closed_at <= as_of:
                due.append(rollup)
            else:
                closings.append(rollup.closed_at)
    due.sort(key=lambda one: (TIERS.index(one.tier), one.day, one.upto.number, one.upto.id))
    return Rollups(tuple(due), min(closings, default=None))


class _Rule:
    """How one tier cuts a line into periods."""

    def __init__(self, tier: Tier, policy: ConsolidationPolicy, timeline: Timeline, as_of: datetime) -> None:
        self.tier = tier
        self.rank = TIERS.index(tier)
        self._policy = policy
        self._ends = policy.period_ends
        self._zone = timeline.zone
        self._as_of = as_of
        self._periods: dict[date, Period] = {}
        self._known: dict[Period, Period] = {}
        self._closings: dict[Period, datetime] = {}

    def period_of(self, day: date) -> Period:
        """Give the period that a day belongs to; those of a tier do not overlap, and each is one object."""
        found = self._periods.get(day)
        if found is None:
            worked_out = self._work_out(day)
            found = self._periods[day] = self._known.setdefault(worked_out, worked_out)
        return found

    def closed_at(self, period: Period) -> datetime:
        """Tell when a period is to be rolled up."""
        found = self._closings.get(period)
        if found is None:
            found = self._closings[period] = self._closing(period)
        return found

    def _work_out(self, day: date) -> Period:
        if self.tier is Tier.DAILY:
            return Period(day, day)
        if self.tier is Tier.WEEKLY:
            return self._ends.week_of(day)
        if self.tier is Tier.MONTHLY:
            return self._ends.month_of(day)
        if self._policy.rolling_yearly:
            return self._ends.year_of(day)
        month = self._ends.month_of(day)
        return _GROWING if self._closing(month) <= self._as_of else month

    def _closing(self, period: Period) -> datetime:
        if self.tier is not Tier.ROLLING:
            return day_bounds(period.last, self._zone)[1]
        if period is _GROWING:
            return self._as_of
        aged = months_later(period.last, self._policy.rolling_after_months)
        return day_bounds(aged, self._zone)[1]


_GROWING = Period(date.min, date.min)
"""Stands for all months that are old enough, where one rolling image grows."""


def _of_tier(
    timeline: Timeline, ordered: Sequence[Span], ranks: Mapping[str, int], rule: _Rule
) -> Iterator[DueRollup]:
    """Give what a tier has to roll up, be its period over or not."""
    after, ends = _bounds(timeline, rule)
    mergeable = _mergeable(ordered, after)
    holders = [span for span in ordered if span.start is not None and ranks[span.name] >= rule.rank]
    for upto in ends:
        start = after[upto.id]
        if start is None:
            continue
        possible = mergeable.get(upto.id, 0)
        if possible == 0 or _is_held(holders, start, upto, possible):
            continue
        place = timeline.places[upto.id]
        period = rule.period_of(place.day)
        closed_at = rule.closed_at(period)
        if period is _GROWING:
            period = Period(timeline.places[start.id].day, place.day)
        yield DueRollup(
            start, upto, rule.tier, period, closed_at, _reason(rule, period, timeline.zone, possible)
        )


def _bounds(timeline: Timeline, rule: _Rule) -> tuple[dict[PointId, Point | None], list[Point]]:
    """Find where periods begin and end.

    Returns:
        For each point the last one of the period before, or the base's own, or None where a gap hides it; and the
        points that are the last of their period on some line.
    """
    parents = timeline.tree.parents
    after: dict[PointId, Point | None] = {}
    periods: dict[PointId, Period] = {}
    going_on: set[PointId] = set()
    ending: set[PointId] = set()
    for identity, place in timeline.places.items():
        period = periods[identity] = rule.period_of(place.day)
        parent = parents.get(identity)
        if parent is None:
            after[identity] = None
            continue
        going_on.add(parent.id)
        is_first = periods[parent.id] is not period
        if is_first:
            ending.add(parent.id)
        after[identity] = parent if is_first or parent.id in timeline.roots else after[parent.id]
    ends = [
        place.point
        for identity, place in timeline.places.items()
        if identity in ending or identity not in going_on
    ]
    return after, ends


def _mergeable(ordered: Sequence[Span], after: Mapping[PointId, Point | None]) -> dict[PointId, int]:
    """Find the points to which spans lie end to start from where the period began, and how many they can cover."""
    mergeable: dict[PointId, int] = {}
    for span in ordered:
        start = span.start
        origin = after[span.end.id]
        if start is None or origin is None:
            continue
        covered = len(span.covers)
        if start.id != origin.id:
            before = mergeable.get(start.id)
            if before is None or after[start.id] != origin:
                continue
            covered += before
        if covered > mergeable.get(span.end.id, 0):
            mergeable[span.end.id] = covered
    return mergeable


def _is_held(holders: Iterable[Span], after: Point, upto: Point, possible: int) -> bool:
    """Tell whether some image holds a stretch with as many points as could be merged."""
    return any(
        upto.id in span.held_ids
        and after.id in span.held_ids
        and _place_in(span, upto) - _place_in(span, after) >= possible
        for span in holders
    )


def _place_in(span: Span, point: Point) -> int:
    """Tell the place of a point among those that a span covers, from 1; 0 for the one that it leads from."""
    if span.start is not None and point.id == span.start.id:
        return 0
    return 1 + bisect_left(span.covers, point.number, key=lambda covered: covered.number)


def _reason(rule: _Rule, period: Period, zone: tzinfo, count: int) -> str:
    one, more = "its point is", f"its {count} points are not all"
    if rule.tier is Tier.ROLLING:
        ended = f"{period} is old enough to be rolled up further"
    elif rule.tier is Tier.DAILY:
        ended = f"{period} has ended ({zone})"
    else:
        ended = f"the {_LENGTHS[rule.tier]} {period} has ended ({zone})"
    where = {Tier.DAILY: "consolidation"}.get(rule.tier, rule.tier.value + " image")
    if count == 1:
        return f"{ended} and {one} in no {where} yet"
    return f"{ended} and {more} in one {where} yet"


_LENGTHS = {Tier.WEEKLY: "week", Tier.MONTHLY: "month"}
