"""Which of the due consolidations can be carried out now, from which images, under which name.

A tier is made of the one below it: what is still to be made, or verified, down there is waited for; what cannot be
made there is passed over, and its sources are taken instead. Nothing is rolled up from an image that was not read
back and found good after it was published.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

from policies.calendar import Period
from policies.differentials import differential_below_merged
from policies.errors import ChainError
from policies.merging import MergePlan, plan_merge
from policies.names import Tier, image_name
from policies.points import Point, PointId
from policies.rollup import DueRollup
from policies.timeline import Timeline


@dataclass(frozen=True, slots=True)
class PlannedConsolidation:
    """Images to be rolled up into one; all of them are verified.

    Attributes:
        name: file name of the result.
        tier: what it is rolled up as.
        period: the local days that it sums up; of a growing rolling image, all up to the last.
        after: the point that it leads from.
        upto: the point that it leads to.
        sources: file names of the images, oldest first.
        covers: the points that the result covers, oldest first.
        reason: why it is due, in words for the administrator.
    """

    name: str
    tier: Tier
    period: Period
    after: Point
    upto: Point
    sources: tuple[str, ...]
    covers: tuple[Point, ...]
    reason: str

    @property
    def day(self) -> date:
        """The last local day that it sums up."""
        return self.period.last


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that is due and cannot be done yet.

    Attributes:
        subject: file name of what is waited with.
        reason: what stands in the way, a sentence for the administrator.
        until: when to look again; None if only an event can change it.
    """

    subject: str
    reason: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Consolidations:
    """What becomes of what is due.

    Attributes:
        ready: what can be carried out now, lower tiers first, oldest first.
        waits: what cannot, and why.
        unproven: names of images that must be verified first.
        sources: what each image is to be rolled up into, by name: such images must stay until it is done.
    """

    ready: tuple[PlannedConsolidation, ...] = ()
    waits: tuple[Wait, ...] = ()
    unproven: frozenset[str] = frozenset()
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What stands around the consolidations of a chain.

    Attributes:
        volume: name of the volume, as in file names.
        base_number: number of the chain's base, as in file names.
        proven: names of images that something may rest on.
        taken: names of files that are there, of whatever kind, each with what it is, in words.
        blocked: results, by name, that are not to be tried at present, each with its reason.
        suspended: why nothing is rolled up at all at present; None if nothing speaks against it.
    """

    volume: str
    base_number: int
    proven: Collection[str]
    taken: Mapping[str, str]
    blocked: Mapping[str, str]
    suspended: str | None = None


def plan_consolidations(due: Sequence[DueRollup], timeline: Timeline, around: Surroundings) -> Consolidations:
    """Tell what can be rolled up now.

    Args:
        due: what is due, lower tiers first, oldest first.
        timeline: the chain's points and the spans that may be merged, unproven ones among them.
        around: names and states.

    Returns:
        What can be carried out now, in any order; what waits and why.
    """
    ready: list[PlannedConsolidation] = []
    waits: list[Wait] = []
    unproven: set[str] = set()
    given: set[str] = set()
    sources: dict[str, str] = {}
    coming: dict[PointId, list[DueRollup]] = {}
    for rollup in due:
        found = _try(rollup, timeline, around, _coming_below(rollup, coming, timeline))
        if not isinstance(found, Wait) and found.name in given:
            found = Wait(found.name, "its name is taken: another line has a result of this name")
        if isinstance(found, Wait):
            waits.append(found)
            continue
        given.add(found.name)
        sources.update(dict.fromkeys(found.sources, found.name))
        coming.setdefault(rollup.upto.id, []).append(rollup)
        if isinstance(found, PlannedConsolidation):
            ready.append(found)
        else:
            unproven.update(found.unproven)
            waits.append(Wait(found.name, found.reason))
    return Consolidations(tuple(ready), tuple(waits), frozenset(unproven), sources)


@dataclass(frozen=True, slots=True)
class _Coming:
    """A result that will be made once something else is done, which is on its way."""

    name: str
    reason: str
    sources: tuple[str, ...] = ()
    unproven: frozenset[str] = frozenset()


def _try(
    rollup: DueRollup, timeline: Timeline, around: Surroundings, below: DueRollup | None
) -> PlannedConsolidation | Wait | _Coming:
    """Give what is to be done, or what is on its way, or what stands in the way."""
    plain_name = _name(around, rollup, None)
    if around.suspended is not None:
        return Wait(plain_name, around.suspended)
    if below is not None:
        return _Coming(plain_name, f"the {below.tier.value} of {below.period} comes first")
    try:
        plan = _merge(timeline, rollup)
    except ChainError as error:
        return Wait(plain_name, str(error))
    name = _name(around, rollup, plan)
    if name in around.taken:
        return Wait(name, f"its name is taken: {around.taken[name]}")
    if name in around.blocked:
        return Wait(name, around.blocked[name])
    sources = tuple(source.name for source in plan.sources)
    unproven = [source for source in sources if source not in around.proven]
    if unproven:
        return _Coming(name, f"verification of {_listed(unproven)} comes first", sources, frozenset(unproven))
    return PlannedConsolidation(
        name=name,
        tier=rollup.tier,
        period=rollup.period,
        after=rollup.after,
        upto=rollup.upto,
        sources=sources,
        covers=plan.covers,
        reason=rollup.reason,
    )


def _coming_below(
    rollup: DueRollup, coming: Mapping[PointId, Sequence[DueRollup]], timeline: Timeline
) -> DueRollup | None:
    """Find, on the way that is to be rolled up, what a lower tier is still to make."""
    if not coming:
        return None
    here: Point | None = rollup.upto
    while here is not None and here.id != rollup.after.id:
        for lower in coming.get(here.id, ()):
            if lower.tier is not rollup.tier and lower.after.number >= rollup.after.number:
                return lower
        here = timeline.tree.parents.get(here.id)
    return None


def _merge(timeline: Timeline, rollup: DueRollup) -> MergePlan:
    """Choose the sources among the spans that lie within the stretch: no other could be one."""
    first, last = rollup.after.number, rollup.upto.number
    within = [
        span
        for span in timeline.tree.spans
        if span.start is not None and span.start.number >= first and span.end.number <= last
    ]
    return plan_merge(within, rollup.after, rollup.upto)


def _name(around: Surroundings, rollup: DueRollup, plan: MergePlan | None) -> str:
    below = None if plan is None else differential_below_merged(plan.sources)
    tiers = (rollup.tier,)
    return image_name(
        around.volume, around.base_number, rollup.upto.number, tiers, differential=below
    ).filename()


def _listed(names: Sequence[str]) -> str:
    if len(names) <= 2:
        return " and ".join(names)
    return f"{names[0]} … {names[-1]} ({len(names)} images)"
