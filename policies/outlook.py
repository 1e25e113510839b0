"""What a plan that found nothing to do knows in advance.

Most that happens to a chain is that its newest line grows by one good incremental, within a day that still runs.
Then nothing is due that was not due before, except that the day will end. An outlook tells so from a handful of
values, however long the chain is; where it cannot tell, the whole chain is planned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from policies.calendar import day_bounds, day_of
from policies.control import Control
from policies.folder_policy import FolderPolicy
from policies.holdings import Holding
from policies.names import Tier
from policies.points import PointId
from policies.reverify import next_check_of
from policies.timeline import Timeline


@dataclass(frozen=True, slots=True)
class LineEnd:
    """Where a line ends.

    Attributes:
        point: identity of its last point.
        time: when that was taken, set right.
        day_end: when the point's local day ends.
    """

    point: PointId
    time: datetime
    day_end: datetime


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a plan that found nothing to do knows in advance.

    Attributes:
        made_at: when it was made.
        next_due_at: when something becomes due by time alone; None for never.
        highest: the highest number of a point.
        ends: where the lines end that verified images lead to.
    """

    made_at: datetime
    next_due_at: datetime | None
    highest: int
    ends: tuple[LineEnd, ...]

    def extended(
        self, holding: Holding, policy: FolderPolicy, control: Control, now: datetime
    ) -> Outlook | None:
        """Tell whether nothing is due now that a line has grown by an image.

        Nothing else may have happened to the chain since this outlook was made.

        Args:
            holding: a file that was not known before, as it is now.
            policy: what the folder is told to do, as when this outlook was made.
            control: as of when the daily work is judged now.
            now: the present moment.

        Returns:
            The outlook from now on, nothing being due; None if that cannot be told without a plan of the whole chain.
        """
        if now < self.made_at or (self.next_due_at is not None and now >= self.next_due_at):
            return None
        before = self._end_below(holding, now)
        if before is None or control.as_of is None:
            return None
        grown = _grown(before, holding, control)
        if grown.day_end <= control.as_of:
            return None
        moments = (
            self.next_due_at,
            control.first_from(grown.day_end) if policy.consolidation.enabled else None,
            next_check_of(holding, policy.verification, control),
        )
        return replace(
            self,
            made_at=now,
            next_due_at=min((moment for moment in moments if moment is not None), default=None),
            highest=holding.span.end.number,
            ends=tuple(grown if end is before else end for end in self.ends),
        )

    def as_plain(self) -> dict[str, object]:
        """Write it as plain values, to be kept with the chain; `outlook_from_plain` reads it back."""
        return {
            "made_at": self.made_at.isoformat(),
            "next_due_at": None if self.next_due_at is None else self.next_due_at.isoformat(),
            "highest": self.highest,
            "ends": [[end.point.hex(), end.time.isoformat(), end.day_end.isoformat()] for end in self.ends],
        }

    def _end_below(self, holding: Holding, now: datetime) -> LineEnd | None:
        """Find the end that a good incremental leads on from, if that is all it does."""
        span = holding.span
        plain = holding.tier is Tier.INCREMENTAL and len(span.covers) == 1 and holding.is_proven
        if span.start is None or not plain:
            return None
        if span.end.number <= self.highest or not span.ascends:
            return None
        start = span.start.id
        return next(
            (end for end in self.ends if end.point == start and end.time <= holding.first_seen_at <= now),
            None,
        )


def outlook_from_plain(plain: object) -> Outlook | None:
    """Read what `Outlook.as_plain` wrote.

    Args:
        plain: plain values, as JSON gives them back.

    Returns:
        The outlook; None if this is none, so that the whole chain is planned.
    """
    if not isinstance(plain, Mapping):
        return None
    try:
        made_at, next_due_at, highest, ends = (
            plain[key] for key in ("made_at", "next_due_at", "highest", "ends")
        )
        return Outlook(
            made_at=datetime.fromisoformat(made_at),
            next_due_at=None if next_due_at is None else datetime.fromisoformat(next_due_at),
            highest=int(highest),
            ends=tuple(
                LineEnd(
                    PointId(bytes.fromhex(point)),
                    datetime.fromisoformat(time),
                    datetime.fromisoformat(day_end),
                )
                for point, time, day_end in ends
            ),
        )
    except (TypeError, KeyError, ValueError):
        return None


def outlook_of(
    timeline: Timeline,
    seen_at: dict[PointId, datetime],
    within_reach: Iterable[PointId],
    next_due_at: datetime | None,
    now: datetime,
) -> Outlook | None:
    """Give the outlook of a plan that has nothing to do.

    Args:
        timeline: the chain's points, placed in time.
        seen_at: when points were first seen.
        within_reach: the points that verified images lead to.
        next_due_at: when something becomes due by time alone.
        now: the present moment.

    Returns:
        The outlook; None while a point seems to lie in the future, whose place is not certain yet.
    """
    reached = frozenset(within_reach)
    places = timeline.places
    for identity, place in places.items():
        if place.time >= now and min(place.point.time, seen_at.get(identity, now)) > now:
            return None
    ends = tuple(
        LineEnd(identity, place.time, place.day_end)
        for identity, place in places.items()
        if identity in reached and identity not in timeline.tree.children
    )
    highest = max((place.point.number for place in places.values()), default=-1)
    return Outlook(now, next_due_at, highest, ends)


def _grown(before: LineEnd, holding: Holding, control: Control) -> LineEnd:
    """Place a line's new end, as the timeline does."""
    end = holding.span.end
    time = min(end.time, holding.first_seen_at)
    if time < before.day_end:
        return LineEnd(end.id, max(time, before.time), before.day_end)
    return LineEnd(end.id, time, day_bounds(day_of(time, control.zone), control.zone)[1])
