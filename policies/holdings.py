"""What a managed folder holds of a chain, and who needs it.

A holding is an image file as the catalogue knows it: the way that it leads, when it was first seen, when it was
proven. Holds are a person's wish that something stays; claims are the needs of work and of disks that stand at a
point.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from policies.cursor import Cursor
from policies.names import Tier, parse_image_name
from policies.points import Point, PointId, Span

TIERS: Final = (Tier.INCREMENTAL, Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY, Tier.ROLLING)
"""All tiers, lowest first."""

OLD_CLAIM: Final = timedelta(days=30)
"""A claim that does not expire is worth a notice from this age on."""


class Whereabouts(StrEnum):
    """Where an image file is.

    PRESENT: in its folder. ASIDE: moved into `Incrementals`, or on its way out: it counts for nothing any more.
    GONE: not there, and nobody of ours took it away.
    """

    PRESENT = "present"
    ASIDE = "aside"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Holding:
    """An image file of a chain.

    Attributes:
        span: the way that it leads, as its header says, or, if assumed, as its name does.
        first_seen_at: when it was first noticed, by the agent's clock.
        verified_at: when it was first read back and found good after it was published; None if never.
        checked_at: when it last was; None if never.
        fault: why it is bad; None if nothing is known against it.
        place: where it is.
        plain_bytes: how many bytes of the volume it holds, before compression; None if unknown.
        tier: the highest that its name says; of a merged image whose name says none, daily.
        rank: the tier's index in `TIERS`.
        is_present: whether it lies in its folder.
        is_usable: whether it may turn out to be good: there, not judged bad, vouched for by its header.
        proven_at: since when something may rest on it: the later of first seen and first verified; None if nothing may.
        seed: a number that is the same for the same image, wherever it is asked, and evenly spread.
    """

    span: Span
    first_seen_at: datetime
    verified_at: datetime | None = None
    checked_at: datetime | None = None
    fault: str | None = None
    place: Whereabouts = Whereabouts.PRESENT
    plain_bytes: int | None = None
    tier: Tier = field(init=False)
    rank: int = field(init=False, repr=False, compare=False)
    is_present: bool = field(init=False, repr=False, compare=False)
    is_usable: bool = field(init=False, repr=False, compare=False)
    proven_at: datetime | None = field(init=False, repr=False, compare=False)
    seed: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Work out once what is asked of a holding again and again."""
        tier = tier_of(self.span)
        is_present = self.place is Whereabouts.PRESENT
        is_usable = is_present and self.fault is None and not self.span.assumed
        is_proven = is_usable and self.span.verified and self.verified_at is not None
        proven_at = max(self.first_seen_at, self.verified_at) if is_proven and self.verified_at else None
        object.__setattr__(self, "tier", tier)
        object.__setattr__(self, "rank", TIERS.index(tier))
        object.__setattr__(self, "is_present", is_present)
        object.__setattr__(self, "is_usable", is_usable)
        object.__setattr__(self, "proven_at", proven_at)
        object.__setattr__(self, "seed", _seed_of(self.span))

    @property
    def name(self) -> str:
        """File name, unique within the folder."""
        return self.span.name

    @property
    def is_proven(self) -> bool:
        """Whether something may rest on it: usable, and read back and found good after it was published."""
        return self.proven_at is not None

    def found_good(self, now: datetime) -> Holding:
        """Say what is known once the image was read back and found good.

        Times that have not come yet were told by a clock that was wrong: the image has been there, and good, since now
        at the latest.

        Args:
            now: the present moment.
        """
        return replace(
            self,
            span=self.span if self.span.verified else replace(self.span, verified=True),
            first_seen_at=min(self.first_seen_at, now),
            verified_at=now if self.verified_at is None else min(self.verified_at, now),
            checked_at=now,
            fault=None,
        )

    @property
    def last_checked_at(self) -> datetime | None:
        """When it was last found good; None if never."""
        return self.checked_at or self.verified_at


@dataclass(frozen=True, slots=True)
class Hold:
    """A person's wish that an image stays, or that a point stays restorable.

    Attributes:
        reason: why, in the person's words.
        placed_by: who wished it.
        placed_at: when.
        name: the file that stays, and whose end stays restorable; None if the hold is on a point.
        point: the point that stays restorable; None if the hold is on a file.
        until: when the wish ends by itself; None if it lasts until it is taken back.
    """

    reason: str
    placed_by: str
    placed_at: datetime
    name: str | None = None
    point: PointId | None = None
    until: datetime | None = None

    def is_alive(self, now: datetime) -> bool:
        """Tell whether it still counts."""
        return self.until is None or now < self.until

    @property
    def needed_by(self) -> str:
        """Who needs it, in words."""
        return f"the hold of {self.placed_by} ({self.reason})"


@dataclass(frozen=True, slots=True)
class Claim:
    """A need of work that runs, or of a disk that stands at a point.

    Attributes:
        holder: whose need it is, in words, such as "the HeadStart job 'stand-by'".
        claimed_at: since when.
        expires_at: until when unless it is renewed; None for a need that lasts until it is given up.
        names: files that must stay as they are, such as those of an unfinished transfer.
        target: the point that must stay within reach; None if the files alone matter.
        standing: the disk that is to be rolled on to the target; None where it is to be restored from nothing.
    """

    holder: str
    claimed_at: datetime
    expires_at: datetime | None = None
    names: frozenset[str] = frozenset()
    target: Point | None = None
    standing: Cursor | None = None

    def is_alive(self, now: datetime) -> bool:
        """Tell whether it still counts."""
        return self.expires_at is None or now < self.expires_at

    def is_old(self, now: datetime) -> bool:
        """Tell whether somebody should look whether it is still wanted."""
        return self.expires_at is None and now - self.claimed_at >= OLD_CLAIM


def tier_of(span: Span) -> Tier:
    """Tell what an image was rolled up as.

    Args:
        span: the image.

    Returns:
        The highest tier that its name says; of a merged span whose name says none, daily; of a base, a synthetic
        full and all else, incremental.
    """
    name = parse_image_name(span.name)
    if name is not None and name.tiers:
        return name.tiers[-1]
    return Tier.DAILY if span.start is not None and len(span.covers) > 1 else Tier.INCREMENTAL


def worth_remembering(holdings: Iterable[Holding]) -> Mapping[PointId, datetime]:
    """Tell which first sights must outlive the files that showed them.

    A stamp that lies after the moment at which its point was first seen is wrong; the day that the point belongs to
    then rests on that moment, also when the file is long gone.

    Args:
        holdings: the files, in any order.

    Returns:
        When each such point was first seen.
    """
    seen: dict[PointId, datetime] = {}
    for holding in holdings:
        for point in holding.span.covers:
            if point.time > holding.first_seen_at:
                known = seen.get(point.id, holding.first_seen_at)
                seen[point.id] = min(known, holding.first_seen_at)
    return seen


def _seed_of(span: Span) -> int:
    start = b"" if span.start is None else span.start.id
    text = b"|".join((span.name.encode(errors="surrogateescape"), start, span.end.id))
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
