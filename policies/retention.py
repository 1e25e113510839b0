"""How long images stay, and why each stays or goes.

An image is due to go once an image of a higher tier holds all its points and the point that it leads from, that one
was verified after it was published, and the tier's days have passed since both were there. What is due goes only as
far as the set of removals, judged as a whole, breaks no promise. Promised are the points at which all images that stay
begin and end, and what holds and claims name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from policies.folder_policy import RetentionPolicy
from policies.holdings import Claim, Hold, Holding
from policies.names import Tier
from policies.points import Point, PointId
from policies.reach import reachable
from policies.retiring import Promise, judge_retirement


class Ground(StrEnum):
    """Why an image stays or goes.

    BASE: what all else leads on from. ASSUMED: only its name says what it holds. NOT_ROLLED_UP: no verified image of a
    higher tier holds it. PERMANENT: its tier stays for good. YOUNG: its days have not passed. HELD: a hold or a claim
    names it. NEEDED: without it something promised would be out of reach. FROZEN: nothing is removed at present.
    SUSPENDED: nothing is removed unless it is told to. ROLLED_UP: it goes.
    """

    BASE = "base"
    ASSUMED = "assumed"
    NOT_ROLLED_UP = "not rolled up"
    PERMANENT = "permanent"
    YOUNG = "young"
    HELD = "held"
    NEEDED = "needed"
    FROZEN = "frozen"
    SUSPENDED = "suspended"
    ROLLED_UP = "rolled up"


@dataclass(frozen=True, slots=True)
class Fate:
    """Whether an image stays.

    Attributes:
        holding: the image.
        ground: why, in a word; `ROLLED_UP` alone means that it goes.
        cover: the verified image that holds all that it does; None if there is none.
        due_at: since when, or from when on, it may go by its age; None if that is not in sight.
        detail: who needs it, or what keeps it, in words; empty if nothing is to be added.
    """

    holding: Holding
    ground: Ground
    cover: Holding | None = None
    due_at: datetime | None = None
    detail: str = ""

    @property
    def stays(self) -> bool:
        """Whether it stays."""
        return self.ground is not Ground.ROLLED_UP

    @property
    def reason(self) -> str:
        """Why it stays or goes, in words for the administrator."""
        rolled_up = "" if self.cover is None else f"it is rolled up into {self.cover.name}"
        due = "" if self.due_at is None else f"{self.due_at:%Y-%m-%d %H:%M} UTC"
        return {
            Ground.BASE: "all images of the chain lead on from it",
            Ground.ASSUMED: "only its name says what it holds, and nothing is removed on the word of a name",
            Ground.NOT_ROLLED_UP: "no verified image of a higher tier holds all that it does",
            Ground.PERMANENT: f"{self.holding.tier.value} images stay for good",
            Ground.YOUNG: f"{rolled_up}, and stays until {due}",
            Ground.HELD: f"{self.detail} needs it",
            Ground.NEEDED: f"{rolled_up}, but {self.detail}",
            Ground.FROZEN: f"{rolled_up}, but nothing is removed at present: {self.detail}",
            Ground.SUSPENDED: f"{rolled_up}, but {self.detail}",
            Ground.ROLLED_UP: f"{rolled_up}, and its days ended on {due}",
        }[self.ground]


@dataclass(frozen=True, slots=True)
class PlannedRetirement:
    """An image to be taken away.

    Attributes:
        name: its file name.
        tier: what it was rolled up as.
        covered_by: file name of an image that stays and holds all that it does.
        to_incrementals: whether it is moved into `Incrementals` in place of being deleted.
        reason: why it may go, in words for the administrator.
    """

    name: str
    tier: Tier
    covered_by: str
    to_incrementals: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Needs:
    """What must stay, whatever the policy says.

    Attributes:
        holds: what people want to stay.
        claims: what work and disks need, as far as it still counts.
    """

    holds: tuple[Hold, ...] = ()
    claims: tuple[Claim, ...] = ()

    def of_names(self) -> dict[str, str]:
        """Give who needs each file that is named."""
        named = {name: claim.holder for claim in self.claims for name in claim.names}
        return named | {hold.name: hold.needed_by for hold in self.holds if hold.name is not None}

    def promises(self, points: Mapping[PointId, Point]) -> tuple[Promise, ...]:
        """Give the points that must stay within reach.

        Args:
            points: the known points, by identity.
        """
        held = [
            Promise(points[hold.point], hold.needed_by)
            for hold in self.holds
            if hold.point is not None and hold.point in points
        ]
        claimed = [
            Promise(claim.target, claim.holder, claim.standing)
            for claim in self.claims
            if claim.target is not None
        ]
        return (*held, *claimed)


def fates_by_age(
    holdings: Iterable[Holding], policy: RetentionPolicy, needed: Mapping[str, str], now: datetime
) -> tuple[Fate, ...]:
    """Tell which images may go by tier and age alone.

    Args:
        holdings: the images of a chain, in any order; those that are gone or set aside get no fate.
        policy: how long images stay.
        needed: who needs which file, by name.
        now: the present moment.

    Returns:
        The fate of each image that is present, by name.
    """
    present = sorted((one for one in holdings if one.is_present), key=lambda one: one.name)
    covers = _covers_by_end(present)
    return tuple(_by_age(holding, covers, policy, needed, now) for holding in present)


def promises_of(
    fates: Sequence[Fate], needs: Needs, within_reach: Collection[PointId]
) -> tuple[Promise, ...]:
    """Tell what must be within reach once all that is due has gone.

    Args:
        fates: what becomes of the images by tier and age.
        needs: what must stay whatever the policy says.
        within_reach: the points that verified images lead to now.

    Returns:
        A promise for each point at which an image that stays begins or ends, as far as it is within reach now; and
        those of holds and claims, within reach or not.
    """
    staying: dict[PointId, Promise] = {}
    points: dict[PointId, Point] = {}
    for fate in fates:
        span = fate.holding.span
        if span.assumed:
            continue
        for point in (span.end,) if span.start is None else (span.end, span.start):
            if fate.stays and point.id in within_reach and point.id not in staying:
                staying[point.id] = Promise(point, fate.holding.name)
    if any(hold.point is not None for hold in needs.holds):
        points = {
            point.id: point
            for fate in fates
            if not fate.holding.span.assumed
            for point in fate.holding.span.covers
        }
    held = [
        Promise(fate.holding.span.end, hold.needed_by)
        for hold in needs.holds
        for fate in fates
        if hold.name == fate.holding.name and not fate.holding.span.assumed
    ]
    return (*staying.values(), *held, *needs.promises(points))


def spare_what_is_promised(
    fates: Sequence[Fate], holdings: Iterable[Holding], promised: Sequence[Promise]
) -> tuple[Fate, ...]:
    """Take off the removals whatever a promise needs that holds now.

    Args:
        fates: what becomes of the images by tier and age.
        holdings: the images of the chain.
        promised: what must be within reach afterwards.

    Returns:
        The fates, with all that is needed staying, and who needs it. Promises that do not hold now forbid nothing.
    """
    going = {fate.holding.name for fate in fates if not fate.stays}
    spans = [one.span for one in holdings if one.is_proven]
    keepers: dict[str, str] = {}
    while going:
        verdict = judge_retirement(spans, going, promised)
        spared = verdict.spare & going
        if not spared:
            break
        reasons = {broken.lost: broken.reason for broken in verdict.broken if broken.lost is not None}
        for name in spared:
            keepers[name] = reasons.get(name, next(iter(reasons.values()), "something promised needs it"))
        going -= spared
    return tuple(
        replace(fate, ground=Ground.NEEDED, detail=keepers[fate.holding.name])
        if fate.holding.name in keepers
        else fate
        for fate in fates
    )


def keep_all(fates: Iterable[Fate], ground: Ground, detail: str) -> tuple[Fate, ...]:
    """Let stay whatever would go.

    Args:
        fates: what becomes of the images.
        ground: why it stays, in a word.
        detail: why, in words for the administrator.
    """
    return tuple(fate if fate.stays else replace(fate, ground=ground, detail=detail) for fate in fates)


def retirements_of(fates: Sequence[Fate], policy: RetentionPolicy) -> tuple[PlannedRetirement, ...]:
    """Give what is to be taken away.

    Args:
        fates: what becomes of the images in the end.
        policy: where what goes is put.
    """
    known = {fate.holding.name: fate for fate in fates}
    return tuple(
        PlannedRetirement(
            name=fate.holding.name,
            tier=fate.holding.tier,
            covered_by=_staying_cover(fate, known),
            to_incrementals=policy.move_to_incrementals,
            reason=fate.reason,
        )
        for fate in fates
        if not fate.stays
    )


def _staying_cover(fate: Fate, known: Mapping[str, Fate]) -> str:
    """Follow an image's cover to one that stays: each is of a higher tier, or holds more, than the one before."""
    while not fate.stays and fate.cover is not None:
        fate = known[fate.cover.name]
    return fate.holding.name


def within_reach(holdings: Iterable[Holding], *, proven: bool) -> frozenset[PointId]:
    """Tell which points images lead to from nothing.

    Args:
        holdings: the images of a chain.
        proven: whether only those count that something may rest on; otherwise all that may turn out to be good.
    """
    return reachable(one.span for one in holdings if (one.is_proven if proven else one.is_usable))


def _by_age(
    holding: Holding,
    covers: Mapping[PointId, Sequence[Holding]],
    policy: RetentionPolicy,
    needed: Mapping[str, str],
    now: datetime,
) -> Fate:
    if holding.span.assumed:
        return Fate(holding, Ground.ASSUMED)
    if holding.span.start is None:
        return Fate(holding, Ground.BASE)
    cover = _cover_of(holding, covers.get(holding.span.end.id, ()))
    if holding.name in needed:
        return Fate(holding, Ground.HELD, cover, detail=needed[holding.name])
    if holding.tier is Tier.MONTHLY and not (cover and policy.expire_monthlies):
        return Fate(holding, Ground.PERMANENT)
    if cover is None or cover.proven_at is None:
        return Fate(holding, Ground.PERMANENT if holding.tier is Tier.ROLLING else Ground.NOT_ROLLED_UP)
    due_at = max(cover.proven_at, holding.first_seen_at) + _kept_for(holding.tier, policy)
    return Fate(holding, Ground.ROLLED_UP if due_at <= now else Ground.YOUNG, cover, due_at)


def _kept_for(tier: Tier, policy: RetentionPolicy) -> timedelta:
    """Tell how long a tier stays once a higher one holds it; what a rolling image holds stays as incrementals do."""
    days = {Tier.DAILY: policy.keep_daily_days, Tier.WEEKLY: policy.keep_weekly_days}
    return timedelta(days=days.get(tier, policy.keep_intraday_days))


def _covers_by_end(holdings: Sequence[Holding]) -> Mapping[PointId, Sequence[Holding]]:
    """List, for each point at which an image ends, the proven consolidations that hold it, longest proven first."""
    ends = {one.span.end.id for one in holdings if one.span.start is not None}
    covers: dict[PointId, list[Holding]] = {}
    proven = [
        (one.proven_at, one.rank, one.name, one)
        for one in holdings
        if one.rank > 0 and one.span.start is not None and one.proven_at is not None
    ]
    for _, _, _, cover in sorted(proven, key=lambda entry: entry[:3]):
        for end in cover.span.held_ids & ends:
            covers.setdefault(end, []).append(cover)
    return covers


def _cover_of(holding: Holding, candidates: Iterable[Holding]) -> Holding | None:
    """Choose the first image of a higher tier that holds all that another does; of two rolling ones, the fuller."""
    held = holding.span.held_ids
    for cover in candidates:
        is_above = cover.rank > holding.rank
        is_fuller = holding.tier is cover.tier is Tier.ROLLING and len(cover.span.held_ids) > len(held)
        if (is_above or is_fuller) and cover.span.held_ids >= held:
            return cover
    return None
