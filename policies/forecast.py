"""What a policy would do over the days to come, played on what is there now.

The chain is taken to go on as it has: so many incrementals a day, evenly spread, as large as those before. Every
local midnight is planned by the same planner that plans in earnest, and what it says is done; what is made is verified
at once. Sizes are estimates, from what was rolled up so far.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from statistics import fmean
from typing import Final

from policies.calendar import day_bounds, day_of
from policies.chain_facts import ChainFacts
from policies.folder_policy import ControlPolicy, FolderPolicy
from policies.holdings import TIERS, Holding
from policies.lifecycle import ChainPlan, plan_chain
from policies.names import Tier, image_name
from policies.points import Point, PointId, Span

USUAL_SHRINKING: Final = 0.7
"""What is left of the bytes of images that are rolled up, where nothing tells it better."""

PER_DAY_MAX: Final = 288
"""No more incrementals a day are played: one every five minutes."""

_RECENT: Final = timedelta(days=14)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Pace:
    """How a chain goes on.

    Attributes:
        per_day: incrementals a day.
        incremental_bytes: stored bytes of each.
        shrinking: what is left of the bytes of images that are rolled up, by the tier of the result, 0 to 1.
    """

    per_day: int
    incremental_bytes: int
    shrinking: Mapping[Tier, float]


@dataclass(frozen=True, slots=True)
class Tally:
    """How much of a tier there is.

    Attributes:
        files: how many images.
        stored_bytes: their sizes, in bytes.
        points: how many points such an image ends at, and none of a higher tier: what can be restored to that it keeps.
    """

    files: int = 0
    stored_bytes: int = 0
    points: int = 0


@dataclass(frozen=True, slots=True)
class Midnight:
    """What there is once the work of a midnight is done.

    Attributes:
        day: the local day that begins.
        tallies: what there is, by tier; the base, and full images, count by themselves under None.
        made: names of images that were rolled up.
        retired: names of images that were taken away.
    """

    day: date
    tallies: Mapping[Tier | None, Tally]
    made: tuple[str, ...]
    retired: tuple[str, ...]

    @property
    def total(self) -> Tally:
        """All tiers together; a point counts once."""
        tallies = self.tallies.values()
        return Tally(
            sum(one.files for one in tallies),
            sum(one.stored_bytes for one in tallies),
            sum(one.points for one in tallies),
        )


def forecast(
    facts: ChainFacts,
    policy: FolderPolicy,
    now: datetime,
    days: int,
    *,
    pace: Pace | None = None,
    control: ControlPolicy | None = None,
) -> Iterator[Midnight]:
    """Play a chain forward.

    Args:
        facts: all that is known of it; what waits for a person (freezes, blocked results) is taken to be settled.
        policy: what its folder is told to do.
        now: the present moment.
        days: how many midnights to play.
        pace: how the chain goes on; None to work it out from its history.
        control: when the daily work is done; midnight unless told otherwise.

    Yields:
        What there is after each midnight, the next one first.
    """
    stage = _Stage(facts, policy, control or ControlPolicy(), pace or pace_of(facts, now))
    begin = now
    for _ in range(days):
        end = day_bounds(day_of(begin, facts.zone), facts.zone)[1]
        stage.capture(begin, end)
        made, retired = stage.work(end)
        yield Midnight(day_of(end, facts.zone), stage.tallies(), made, retired)
        begin = end


def pace_of(facts: ChainFacts, now: datetime) -> Pace:
    """Work out from a chain's history how it goes on.

    Args:
        facts: all that is known of it.
        now: the present moment.

    Returns:
        The pace of the last two weeks in which there were incrementals; none a day where there never were any.
    """
    recent = _recent_incrementals(facts.holdings)
    shrinking = {tier: _shrinking(facts.holdings, tier) for tier in TIERS[1:]}
    if not recent:
        return Pace(0, 0, shrinking)
    times = [one.span.end.time for one in recent]
    passed = min(max(max(times) - min(times), _DAY), _RECENT)
    per_day = min(max(round(len(recent) * (_DAY / passed)), 1), PER_DAY_MAX)
    return Pace(per_day, round(fmean(one.span.stored_bytes for one in recent)), shrinking)


def tallies_of(holdings: Iterable[Holding]) -> Mapping[Tier | None, Tally]:
    """Count images.

    Args:
        holdings: the images; all of them count.

    Returns:
        How much there is, by tier; the base, and full images, under None.
    """
    found: dict[Tier | None, list[Holding]] = {}
    for one in holdings:
        found.setdefault(None if one.span.start is None else one.tier, []).append(one)
    tallies: dict[Tier | None, Tally] = {}
    counted: set[PointId] = set()
    for tier in (None, *reversed(TIERS)):
        held = found.get(tier, ())
        ends = {one.span.end.id for one in held} - counted
        counted |= ends
        if held:
            tallies[tier] = Tally(len(held), sum(one.span.stored_bytes for one in held), len(ends))
    return tallies


class _Stage:
    """A chain on which days are played."""

    def __init__(self, facts: ChainFacts, policy: FolderPolicy, control: ControlPolicy, pace: Pace) -> None:
        held = tuple(_settled(one) for one in facts.holdings if one.is_usable)
        self._facts = replace(facts, holdings=(), freezes=(), blocked={})
        self._policy = replace(policy, verification=replace(policy.verification, reverify=False))
        self._control = control
        self._pace = pace
        self._holdings = {one.name: one for one in held}
        self._last = max(
            (one.span.end for one in held), key=lambda point: (point.number, point.id), default=None
        )

    def capture(self, begin: datetime, end: datetime) -> None:
        """Let a day's incrementals land, up to its end."""
        whole_day = end - day_bounds(day_of(begin, self._facts.zone), self._facts.zone)[0]
        wanted = round(self._pace.per_day * ((end - begin) / max(whole_day, timedelta(seconds=1))))
        for index in range(wanted):
            self._capture_at(begin + (end - begin) * (index / wanted))

    def work(self, now: datetime) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Do the work of a midnight; give the names of what was made and of what was retired."""
        made: list[str] = []
        retired: list[str] = []
        while not (plan := self._plan(now)).is_idle:
            for verification in plan.verifications:
                self._holdings[verification.name] = self._holdings[verification.name].found_good(now)
            for planned in plan.consolidations:
                span = self._rolled_up(planned.sources, planned.name, planned.tier)
                self._holdings[planned.name] = Holding(span, now, now)
                made.append(planned.name)
            for retirement in plan.retirements:
                del self._holdings[retirement.name]
                retired.append(retirement.name)
        return tuple(made), tuple(retired)

    def tallies(self) -> Mapping[Tier | None, Tally]:
        """Count what there is."""
        return tallies_of(self._holdings.values())

    def _plan(self, now: datetime) -> ChainPlan:
        facts = replace(self._facts, holdings=tuple(self._holdings.values()))
        return plan_chain(facts, self._policy, now, self._control)

    def _capture_at(self, moment: datetime) -> None:
        last = self._last
        if last is None:
            return
        identity = hashlib.blake2b(last.id, digest_size=16, person=b"forecast").digest()
        point = Point(PointId(identity), last.number + 1, moment, last.volume_bytes)
        name = image_name(self._facts.volume, self._facts.base_number, point.number).filename()
        span = Span(name, last, (point,), self._pace.incremental_bytes, verified=True)
        self._holdings[name] = Holding(span, moment, moment)
        self._last = point

    def _rolled_up(self, sources: Sequence[str], name: str, tier: Tier) -> Span:
        spans = [self._holdings[source].span for source in sources]
        stored_bytes = sum(span.stored_bytes for span in spans)
        if len(spans) > 1:
            stored_bytes = round(stored_bytes * self._pace.shrinking[tier])
        covers = tuple(point for span in spans for point in span.covers)
        return Span(name, spans[0].start, covers, stored_bytes, verified=True)


def _settled(holding: Holding) -> Holding:
    """Take an image that may turn out to be good for one that did."""
    return holding if holding.is_proven else holding.found_good(holding.first_seen_at)


def _recent_incrementals(holdings: Sequence[Holding]) -> list[Holding]:
    plain = [
        one
        for one in holdings
        if one.is_usable and one.tier is Tier.INCREMENTAL and one.span.start is not None
    ]
    if not plain:
        return []
    newest = max(one.span.end.time for one in plain)
    return [one for one in plain if newest - one.span.end.time < _RECENT]


def _shrinking(holdings: Sequence[Holding], tier: Tier) -> float:
    """Tell what was left of the bytes of images, where a result and all that it was made of are still there."""
    below = [one for one in holdings if one.is_usable and one.rank == TIERS.index(tier) - 1]
    ratios = []
    for result in holdings:
        if result.tier is not tier or not result.is_usable or result.span.start is None:
            continue
        parts = [one.span for one in below if one.span.held_ids <= result.span.held_ids]
        whole = sum(len(span.covers) for span in parts) == len(result.span.covers)
        before = sum(span.stored_bytes for span in parts)
        if whole and len(parts) > 1 and before > 0:
            ratios.append(result.span.stored_bytes / before)
    return min(fmean(ratios), 1.0) if ratios else USUAL_SHRINKING
