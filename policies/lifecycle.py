"""The whole life of a chain: what is due now, what waits and why, when to ask again.

One planner for every event, every midnight and every look of a person. It takes what is known of a chain, what its
folder is told to do, and the present moment; it gives decisions with reasons, and has no effects. Doing what it says
and asking again leads to a plan that has nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from policies.broken import LostPoint, freeze_of_broken, lost_points
from policies.chain_facts import ChainFacts
from policies.consolidating import (
    Consolidations,
    PlannedConsolidation,
    Surroundings,
    Wait,
    plan_consolidations,
)
from policies.control import Control, control_at
from policies.folder_policy import ControlPolicy, FolderPolicy, VerificationPolicy
from policies.freezing import Freeze, FreezeKind
from policies.outlook import Outlook, outlook_of
from policies.points import PointId
from policies.retention import (
    Fate,
    Ground,
    Needs,
    PlannedRetirement,
    fates_by_age,
    keep_all,
    promises_of,
    retirements_of,
    spare_what_is_promised,
    within_reach,
)
from policies.retiring import BrokenPromise, Promise, judge_retirement
from policies.reverify import (
    PlannedVerification,
    VerificationCause,
    next_verification_at,
    plan_verifications,
)
from policies.rollup import Rollups, plan_rollups, tiers_in_use
from policies.timeline import Timeline, first_sights, trace_timeline

__all__ = [
    "ChainFacts",
    "ChainPlan",
    "Fate",
    "PlannedConsolidation",
    "PlannedRetirement",
    "PlannedVerification",
    "VerificationCause",
    "Wait",
    "plan_chain",
]

_DEFAULT_CONTROL = ControlPolicy()


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """What is to be done with a chain.

    The retirements were judged as one set, on the images that are there now: they may all be carried out, in any
    order, even if nothing else is.

    Attributes:
        verifications: images to be read back, most urgent first.
        consolidations: what is to be rolled up now, lower tiers first, oldest first.
        retirements: what is to be taken away now.
        fates: of every holding that is present, whether it stays and why, by name.
        promised: the points that must be within reach once the retirements are carried out, with who needs them.
        waits: what is due and cannot be done yet.
        freezes: why nothing may be removed at present; those found by this plan among them.
        next_due_at: when something becomes due by time alone; None for never.
        outlook: what is known in advance if nothing is to be done now; None otherwise.
    """

    verifications: tuple[PlannedVerification, ...] = ()
    consolidations: tuple[PlannedConsolidation, ...] = ()
    retirements: tuple[PlannedRetirement, ...] = ()
    fates: tuple[Fate, ...] = ()
    promised: tuple[Promise, ...] = ()
    waits: tuple[Wait, ...] = ()
    freezes: tuple[Freeze, ...] = ()
    next_due_at: datetime | None = None
    outlook: Outlook | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be done now."""
        return not (self.verifications or self.consolidations or self.retirements)

    def fate_of(self, name: str) -> Fate | None:
        """Tell what becomes of an image.

        Args:
            name: its file name.

        Returns:
            Its fate; None if it is not there.
        """
        return next((fate for fate in self.fates if fate.holding.name == name), None)


def plan_chain(
    facts: ChainFacts,
    policy: FolderPolicy,
    now: datetime,
    control: ControlPolicy = _DEFAULT_CONTROL,
    *,
    started: bool = False,
) -> ChainPlan:
    """Tell what is due for a chain.

    Args:
        facts: all that is known of it.
        policy: what its folder is told to do.
        now: the present moment.
        control: when the daily work is done.
        started: whether a person has started the daily work just now.

    Returns:
        The plan.
    """
    moment = control_at(now, control, facts.zone, started=started)
    sights = first_sights(((one.span, one.first_seen_at) for one in facts.holdings), facts.seen_at)
    usable = [one for one in facts.holdings if one.is_usable]
    timeline = trace_timeline((one.span for one in usable), facts.zone, sights, now)
    frozen = [
        freeze
        for freeze in facts.freezes
        if freeze.key not in facts.waived and freeze.kind is not FreezeKind.BROKEN
    ]
    rollups = _rollups(facts, timeline, policy, moment)
    consolidations = plan_consolidations(rollups.due, timeline, _surroundings(facts, frozen))
    verification = _while_frozen(policy.verification, frozen)
    verifications = plan_verifications(facts.holdings, verification, moment, now, consolidations.unproven)
    reached = within_reach(facts.holdings, proven=True)
    retention = _retention(facts, policy, moment, reached, frozen, consolidations.sources, now)
    retirements = retirements_of(retention.fates, policy.retention)
    next_due_at = _next_due_at(facts, policy, moment, rollups, consolidations, retention, now)
    is_idle = not (verifications or consolidations.ready or retirements)
    return ChainPlan(
        verifications=verifications,
        consolidations=consolidations.ready,
        retirements=retirements,
        fates=retention.fates,
        promised=retention.promised,
        waits=consolidations.waits,
        freezes=retention.freezes,
        next_due_at=next_due_at,
        outlook=outlook_of(timeline, sights, reached, next_due_at, now) if is_idle else None,
    )


@dataclass(frozen=True, slots=True)
class _Retention:
    fates: tuple[Fate, ...]
    promised: tuple[Promise, ...]
    freezes: tuple[Freeze, ...]


def _rollups(facts: ChainFacts, timeline: Timeline, policy: FolderPolicy, control: Control) -> Rollups:
    """Find what is due to be rolled up; nothing is while that is switched off, or the daily work is."""
    if not policy.consolidation.enabled or control.as_of is None:
        return Rollups((), None)
    ranks = {one.name: one.rank for one in facts.holdings}
    tiers = tiers_in_use(policy.consolidation)
    return plan_rollups(timeline, ranks, policy.consolidation, control.as_of, tiers)


def _while_frozen(policy: VerificationPolicy, frozen: Iterable[Freeze]) -> VerificationPolicy:
    """Have nothing verified again on the word of a clock that jumped."""
    is_clock_wrong = any(freeze.kind is FreezeKind.CLOCK for freeze in frozen)
    return replace(policy, reverify=False) if is_clock_wrong else policy


def _surroundings(facts: ChainFacts, frozen: Iterable[Freeze]) -> Surroundings:
    taken = dict.fromkeys(facts.taken, "another file has it")
    for one in facts.holdings:
        if one.is_present:
            fault = "it does not hold all that is due" if one.fault is None else f"it is bad, {one.fault}"
            taken[one.name] = f"{one.name} is there already, and {fault}"
    clock = next((freeze for freeze in frozen if freeze.kind is FreezeKind.CLOCK), None)
    return Surroundings(
        volume=facts.volume,
        base_number=facts.base_number,
        proven={one.name for one in facts.holdings if one.is_proven},
        taken=taken,
        blocked=facts.blocked,
        suspended=None if clock is None else f"the clock cannot be trusted: {clock.reason}",
    )


def _retention(
    facts: ChainFacts,
    policy: FolderPolicy,
    control: Control,
    reached: frozenset[PointId],
    frozen: Sequence[Freeze],
    sources: Mapping[str, str],
    now: datetime,
) -> _Retention:
    needs = Needs(
        tuple(hold for hold in facts.holds if hold.is_alive(now)),
        tuple(claim for claim in facts.claims if claim.is_alive(now)),
    )
    needed = {source: f"the making of {result}" for source, result in sources.items()} | needs.of_names()
    fates = fates_by_age(facts.holdings, policy.retention, needed, now)
    promised = promises_of(fates, needs, reached)
    failing, unproven = _failing_now(facts, needs, promised)
    lost = _lost(facts, fates, reached)
    broken = freeze_of_broken(lost, failing, facts.freezes, now)
    freezes = (*frozen, *([broken] if broken is not None and broken.key not in facts.waived else ()))
    fates = spare_what_is_promised(fates, facts.holdings, promised)
    if not policy.consolidation.enabled:
        fates = keep_all(fates, Ground.SUSPENDED, "consolidation is switched off for this folder")
    elif control.as_of is None:
        fates = keep_all(fates, Ground.SUSPENDED, "the daily work is not done unless it is started by hand")
    elif freezes:
        fates = keep_all(fates, Ground.FROZEN, freezes[0].reason)
    elif unproven:
        fates = keep_all(
            fates, Ground.NEEDED, f"{unproven[0].promise.needed_by} needs what is not verified yet"
        )
    return _Retention(fates, promised, freezes)


def _lost(facts: ChainFacts, fates: Iterable[Fate], reached: frozenset[PointId]) -> tuple[LostPoint, ...]:
    """Find where ways break off; what is not verified yet counts as a way."""
    found = lost_points(fates, reached)
    return lost_points(fates, within_reach(facts.holdings, proven=False)) if found else ()


def _failing_now(
    facts: ChainFacts, needs: Needs, promised: Sequence[Promise]
) -> tuple[tuple[BrokenPromise, ...], tuple[BrokenPromise, ...]]:
    """Find the promises of holds and claims that nothing keeps now; then those that unverified images alone keep."""
    if not needs.holds and not needs.claims:
        return (), ()
    unkept = judge_retirement([one.span for one in facts.holdings if one.is_proven], (), promised).broken
    if not unkept:
        return (), ()
    hoped_for = [replace(one.span, verified=True) for one in facts.holdings if one.is_usable]
    failing = judge_retirement(hoped_for, (), [broken.promise for broken in unkept]).broken
    lost = [broken.promise for broken in failing]
    return failing, tuple(broken for broken in unkept if broken.promise not in lost)


def _next_due_at(
    facts: ChainFacts,
    policy: FolderPolicy,
    control: Control,
    rollups: Rollups,
    consolidations: Consolidations,
    retention: _Retention,
    now: datetime,
) -> datetime | None:
    """Tell when something becomes due though nothing happens."""
    moments = [freeze.ends_at for freeze in retention.freezes]
    moments.extend(wait.until for wait in consolidations.waits)
    moments.append(next_verification_at(facts.holdings, policy.verification, control))
    if control.runs and rollups.next_close_at is not None:
        moments.append(control.first_from(rollups.next_close_at))
    if control.runs and policy.consolidation.enabled:
        moments.extend(fate.due_at for fate in retention.fates if fate.ground is Ground.YOUNG)
    moments.extend(claim.expires_at for claim in facts.claims)
    moments.extend(hold.until for hold in facts.holds)
    return min((moment for moment in moments if moment is not None and moment > now), default=None)
