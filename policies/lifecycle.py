"""The whole life of a chain: what is due now, what waits and why, when to ask again.

One planner for every event, every midnight and every look of a person. It takes what is known of a chain, what its
folder is told to do, and the present moment; it gives decisions with reasons, and has no effects. Doing what it says
and asking again leads to a plan that has nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, tzinfo
from enum import StrEnum

from policies.calendar import Period
from policies.freezing import Freeze
from policies.holdings import Claim, Hold, Holding
from policies.names import Tier
from policies.points import Point, PointId
from policies.retention import Fate


@dataclass(frozen=True, slots=True)
class ChainFacts:
    """All that is known of a chain at one moment.

    Attributes:
        volume: name of the volume, as in file names.
        base_number: number of the chain's base, as in file names.
        zone: the folder's time zone.
        holdings: the chain's image files, in any order; those that are bad, gone or set aside among them.
        seen_at: when points were first seen whose stamps cannot be right (`holdings.worth_remembering`), also by files
            that are gone since.
        holds: what people want to stay.
        claims: what work and disks need.
        freezes: why nothing of the chain may be removed at present, as `freezing` judges it.
        waived: keys of freezes that a person has said are well.
        taken: names of other files in the folder, so that no result is given one of them.
        blocked: results, by name, that are not to be tried at present, each with its reason (quarantine, back-off).
    """

    volume: str
    base_number: int
    zone: tzinfo
    holdings: tuple[Holding, ...] = ()
    seen_at: Mapping[PointId, datetime] = field(default_factory=dict)
    holds: tuple[Hold, ...] = ()
    claims: tuple[Claim, ...] = ()
    freezes: tuple[Freeze, ...] = ()
    waived: frozenset[str] = frozenset()
    taken: frozenset[str] = frozenset()
    blocked: Mapping[str, str] = field(default_factory=dict)


class VerificationCause(StrEnum):
    """Why an image is to be read back, most urgent first."""

    NEW = "new"
    NEEDED = "needed"
    PERIODIC = "periodic"


@dataclass(frozen=True, slots=True)
class PlannedVerification:
    """An image to be read back.

    Attributes:
        name: its file name.
        cause: why, in a word.
        reason: why, in words for the administrator.
    """

    name: str
    cause: VerificationCause
    reason: str


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
class PlannedRetirement:
    """An image to be taken away.

    Attributes:
        name: its file name.
        tier: what it was rolled up as.
        covered_by: file name of the image that holds all that it does.
        to_incrementals: whether it is moved into `Incrementals` in place of being deleted.
        reason: why it may go, in words for the administrator.
    """

    name: str
    tier: Tier
    covered_by: str
    to_incrementals: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Something that is due and cannot be done yet.

    Attributes:
        subject: file name of what is waited with.
        reason: what it waits for, in words for the administrator.
        until: when to look again; None if only an event can change it.
    """

    subject: str
    reason: str
    until: datetime | None = None


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
        waits: what is due and cannot be done yet.
        freezes: why nothing may be removed at present; those found by this plan among them.
        next_due_at: when something becomes due by time alone; None for never.
    """

    verifications: tuple[PlannedVerification, ...] = ()
    consolidations: tuple[PlannedConsolidation, ...] = ()
    retirements: tuple[PlannedRetirement, ...] = ()
    fates: tuple[Fate, ...] = ()
    waits: tuple[Wait, ...] = ()
    freezes: tuple[Freeze, ...] = ()
    next_due_at: datetime | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be done now."""
        return not (self.verifications or self.consolidations or self.retirements)
