"""What is worth a notice: trouble that opened, trouble that cleared, and once a day a summary.

Nothing is said of what went well, and nothing twice of the same trouble: a key tells troubles apart, and what is open
was told. Trouble that comes and goes is damped in three ways. It must have lasted a while before it is told, it must
have stayed away a while before it counts as cleared, and that while doubles each time it comes back. So a share that
drops out every few minutes makes one notice, and then at most two a day.

What is known of a trouble is a record; a judgement takes the records and what is seen now, and gives the records that
follow. Records whose times lie in the future, because a clock was put back, count from now.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from typing import Final

from policies.calendar import day_of, moment_of

LETTER_PAUSE: Final = timedelta(minutes=5)
"""After something was told, what comes next is gathered for so long."""

REMEMBERED: Final = timedelta(days=1)
"""Trouble that stayed away for so long after it cleared is new trouble when it comes again."""

LONGEST_ABSENCE: Final = timedelta(hours=12)
"""No trouble must stay away longer to count as cleared."""

SPACE_MARGIN_PERCENT: Final = 2
"""Space that was low is so until it is above the threshold by so much of the device."""

_DAY = timedelta(days=1)


class TroubleKind(StrEnum):
    """Kinds of trouble.

    DAMAGED: an image was judged bad. FAILURE: work went wrong and is set aside, or goes wrong again and again.
    UNREACHABLE: a folder cannot be read. WAITING: what is due could not be done for a long time. FROZEN: nothing is
    removed, because something looks wrong. INACTIVITY: no new image for days. LOW_SPACE: a device runs full. STANDBY:
    a disk that is kept rolled forward stopped, or falls behind. RESTORE_TEST: a point was tested as a restore, and is
    bad, or it could not be tested.
    """

    DAMAGED = "damaged"
    FAILURE = "failure"
    UNREACHABLE = "unreachable"
    WAITING = "waiting"
    FROZEN = "frozen"
    INACTIVITY = "inactivity"
    LOW_SPACE = "low_space"
    STANDBY = "standby"
    RESTORE_TEST = "restore_test"


class Topic(StrEnum):
    """What a recipient can choose to be told of."""

    FAILURE = "failure"
    INACTIVITY = "inactivity"
    SPACE = "space"
    SUMMARY = "summary"


TOPIC_OF: Final[Mapping[TroubleKind, Topic]] = {
    TroubleKind.DAMAGED: Topic.FAILURE,
    TroubleKind.FAILURE: Topic.FAILURE,
    TroubleKind.UNREACHABLE: Topic.FAILURE,
    TroubleKind.WAITING: Topic.FAILURE,
    TroubleKind.FROZEN: Topic.FAILURE,
    TroubleKind.INACTIVITY: Topic.INACTIVITY,
    TroubleKind.LOW_SPACE: Topic.SPACE,
    TroubleKind.STANDBY: Topic.FAILURE,
    TroubleKind.RESTORE_TEST: Topic.FAILURE,
}
"""Which topic a kind of trouble belongs to."""


@dataclass(frozen=True, slots=True)
class Damping:
    """How patient a notice is.

    Attributes:
        opens_after: how long trouble must have lasted to be told.
        clears_after: how long it must have stayed away to count as cleared, the first time.
    """

    opens_after: timedelta
    clears_after: timedelta


_SOON: Final = timedelta(0)
_MINUTES: Final = timedelta(minutes=10)

DAMPING: Final[Mapping[TroubleKind, Damping]] = {
    TroubleKind.DAMAGED: Damping(_SOON, _MINUTES),
    TroubleKind.FAILURE: Damping(_SOON, _MINUTES),
    TroubleKind.UNREACHABLE: Damping(_MINUTES, _MINUTES),
    TroubleKind.WAITING: Damping(timedelta(hours=24), _MINUTES),
    TroubleKind.FROZEN: Damping(_SOON, _MINUTES),
    TroubleKind.INACTIVITY: Damping(_SOON, _SOON),
    TroubleKind.LOW_SPACE: Damping(_MINUTES, timedelta(hours=1)),
    TroubleKind.STANDBY: Damping(_MINUTES, _MINUTES),
    TroubleKind.RESTORE_TEST: Damping(_SOON, _SOON),
}
"""Patience by kind."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong at present.

    Attributes:
        kind: what kind of trouble.
        key: tells this trouble from every other; the same for as long as it is the same trouble.
        place: the folder or device that it is about.
        subject: the file, volume or work that it is about; empty for the place itself.
        reason: what is wrong, in words.
        hint: what to do about it.
    """

    kind: TroubleKind
    key: str
    place: str
    subject: str
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class TroubleRecord:
    """What is known of a trouble.

    Attributes:
        trouble: as it was last seen.
        began_at: since when it has been there.
        is_open: whether it was told, and not that it cleared.
        told_at: when anything was last told of it; None for never.
        absent_since: since when it has not been seen; None while it is.
        returns: how often it came back.
    """

    trouble: Trouble
    began_at: datetime
    is_open: bool = False
    told_at: datetime | None = None
    absent_since: datetime | None = None
    returns: int = 0

    @property
    def clears_after(self) -> timedelta:
        """How long it must stay away to count as cleared."""
        first = DAMPING[self.trouble.kind].clears_after
        doubled: timedelta = first * 2 ** min(self.returns, 20)
        return min(doubled, max(first, LONGEST_ABSENCE))

    def not_after(self, now: datetime) -> TroubleRecord:
        """Give the record with no time in the future."""
        return replace(
            self,
            began_at=min(self.began_at, now),
            told_at=self.told_at and min(self.told_at, now),
            absent_since=self.absent_since and min(self.absent_since, now),
        )


@dataclass(frozen=True, slots=True)
class NoticeDecision:
    """What is to be told now.

    Attributes:
        records: all that is known from now on, by key.
        opened: trouble that is told now.
        cleared: trouble that is now said to have cleared.
    """

    records: tuple[TroubleRecord, ...]
    opened: tuple[TroubleRecord, ...]
    cleared: tuple[TroubleRecord, ...]

    @property
    def says_something(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.opened or self.cleared)


def judge_notices(
    records: Iterable[TroubleRecord],
    seen: Iterable[Trouble],
    now: datetime,
    *,
    unknown: Collection[str] = (),
) -> NoticeDecision:
    """Decide what is to be told.

    Args:
        records: what was known before.
        seen: what is wrong now.
        now: the present moment.
        unknown: keys of troubles of which nobody can tell at present whether they are there; they stay as they are.

    Returns:
        What is known from now on, and what is told.
    """
    known = {record.trouble.key: record.not_after(now) for record in records}
    present = {trouble.key: trouble for trouble in seen}
    may_tell = _may_tell(known.values(), now)
    kept: list[TroubleRecord] = []
    opened: list[TroubleRecord] = []
    cleared: list[TroubleRecord] = []
    for key in sorted(known.keys() | present.keys()):
        before = known.get(key)
        if before is not None and key in unknown and key not in present:
            kept.append(before)
            continue
        after = _seen(before, present[key], now) if key in present else _absent(before, now)
        if after is None:
            continue
        if may_tell and _opens(after, now):
            after = replace(after, is_open=True, told_at=now)
            opened.append(after)
        elif may_tell and _clears(after, now):
            after = replace(after, is_open=False, told_at=now)
            cleared.append(after)
        kept.append(after)
    return NoticeDecision(tuple(kept), tuple(opened), tuple(cleared))


def summary_day(last_day: date | None, at: time, zone: tzinfo, now: datetime) -> date | None:
    """Tell for which local day the daily summary is due.

    Args:
        last_day: the day that the last summary was made on; None if there was none.
        at: the time of day at which it is made.
        zone: the time zone of that.
        now: the present moment.

    Returns:
        The day of the last such moment, unless a summary was made on it or later; days that were missed make none.
    """
    day = day_of(now, zone)
    if moment_of(day, at, zone) > now and day > date.min:
        day -= _DAY
    return None if last_day is not None and last_day >= day else day


def is_inactive(newest_at: datetime, limit_days: int | None, now: datetime) -> bool:
    """Tell whether a volume has had no new image for too long.

    Args:
        newest_at: when its newest image was first seen.
        limit_days: after how many days it is worth a notice; None for never.
        now: the present moment.
    """
    return limit_days is not None and now - newest_at > timedelta(days=limit_days)


def is_space_low(free_bytes: int, size_bytes: int, limit_percent: int | None, *, was_low: bool) -> bool:
    """Tell whether a device runs full.

    Args:
        free_bytes: what is free.
        size_bytes: its size.
        limit_percent: below how much of its size free space is low; None for never.
        was_low: whether it was low before; then a little more must be free to be well.
    """
    if limit_percent is None or size_bytes <= 0:
        return False
    limit = min(limit_percent + (SPACE_MARGIN_PERCENT if was_low else 0), 100)
    return free_bytes * 100 < size_bytes * limit


def _may_tell(known: Iterable[TroubleRecord], now: datetime) -> bool:
    """Tell whether the last notice is long enough ago."""
    told = [one.told_at for one in known if one.told_at is not None]
    return all(moment == now or now - moment >= LETTER_PAUSE for moment in told)


def _seen(before: TroubleRecord | None, trouble: Trouble, now: datetime) -> TroubleRecord:
    if before is None:
        return TroubleRecord(trouble, began_at=now)
    if before.absent_since is None:
        return replace(before, trouble=trouble)
    returned = replace(before, trouble=trouble, absent_since=None, returns=before.returns + 1)
    return replace(returned, began_at=now) if not before.is_open and _is_over(before, now) else returned


def _absent(before: TroubleRecord | None, now: datetime) -> TroubleRecord | None:
    """Give what is known of a trouble that is not there; None once it is forgotten."""
    if before is None:
        return None
    after = replace(before, absent_since=before.absent_since or now)
    if before.told_at is None:
        return None if _is_over(after, now) else after  # never told: nobody need know that it passed
    return after if before.is_open or now - before.told_at < REMEMBERED else None


def _is_over(record: TroubleRecord, now: datetime) -> bool:
    return record.absent_since is not None and now - record.absent_since >= record.clears_after


def _opens(record: TroubleRecord, now: datetime) -> bool:
    is_there = not record.is_open and record.absent_since is None
    return is_there and now - record.began_at >= DAMPING[record.trouble.kind].opens_after


def _clears(record: TroubleRecord, now: datetime) -> bool:
    return record.is_open and _is_over(record, now)
