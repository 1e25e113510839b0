"""Restore tests of a HeadStart job: when its disks are due for one, and what is thought of what was found.

The point is tested at which a disk stands, as it is restored from its images. A test is due at the control time of each
day, of the first day of each week, or of the first day of each month, as the folder ends its weeks and months. One that
was missed is made up for; of several only the last is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Final

from policies.calendar import PeriodEnds
from policies.control import Control

SATA: Final = "sata"
"""What the disk of a point that is started hangs on, if nothing else is said."""

MARKER_MAX: Final = 200
"""Longest marker, in letters."""


def can_mark(words: str) -> bool:
    """Tell whether words can say that a guest is up: blank ones would be found on a console that says nothing."""
    return bool(words.strip()) and len(words) <= MARKER_MAX and words.isprintable()


_DAY: Final = timedelta(days=1)
_WEEK_DAYS: Final = 7


class Verdict(StrEnum):
    """What is thought of a point, or of a part of it."""

    GOOD = "good"
    UNCLEAR = "unclear"
    BAD = "bad"


class Rhythm(StrEnum):
    """How often a job's disks are tested."""

    NEVER = "never"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


@dataclass(frozen=True, slots=True)
class RestoreTesting:
    """How a job's disks are tested.

    Attributes:
        rhythm: how often.
        starts: whether the point is started, too.
        marker: words on its serial console that say that it is up; None to wait for its screen to settle.
        bus: what its disk hangs on, as `hsr.booting.machine.Bus` names it.
    """

    rhythm: Rhythm = Rhythm.NEVER
    starts: bool = False
    marker: str | None = None
    bus: str = SATA

    @property
    def words(self) -> str:
        """Say it."""
        if self.rhythm is Rhythm.NEVER:
            return "never"
        how = ", with a start" if self.starts else ""
        how += f" from {self.bus}" if self.bus != SATA else ""
        return f"{self.rhythm.value}{how}" + ("" if self.marker is None else f" to {self.marker!r}")


NO_TESTING: Final = RestoreTesting()
"""What a job does where nothing else is said."""


@dataclass(frozen=True, slots=True)
class DueTest:
    """Whether a test is due, and when the next one will be.

    Attributes:
        due_since: since when; None if none is due.
        next_at: when the next one is due by time alone; None for never.
    """

    due_since: datetime | None
    next_at: datetime | None


def due_test(rhythm: Rhythm, ends: PeriodEnds, control: Control, since: datetime, now: datetime) -> DueTest:
    """Tell whether a disk is due for a test.

    Args:
        rhythm: how often it is tested.
        ends: with which days the folder's weeks and months end.
        control: as of when the daily work is judged.
        since: when it was last tested; if never, since when its job is there.
        now: the present moment.

    Returns:
        Whether it is due. A test that began at a time which has not come yet, because the clock was put back, does not
        count. Nothing is due while the daily work is suspended.
    """
    if rhythm is Rhythm.NEVER or not control.runs:
        return DueTest(None, None)
    last, following = _days_around(control.day, rhythm, ends)
    begun_at = control.moment_on(last)
    is_due = since < begun_at or since > now
    return DueTest(begun_at if is_due else None, control.moment_on(following))


def _days_around(day: date, rhythm: Rhythm, ends: PeriodEnds) -> tuple[date, date]:
    """Give the last day of tests that is not after a day, and the one that follows it."""
    if rhythm is Rhythm.DAILY:
        return day, day + _DAY
    if rhythm is Rhythm.WEEKLY:
        last = day - timedelta(days=(day.weekday() - ends.week_end - 1) % _WEEK_DAYS)
        return last, last + timedelta(days=_WEEK_DAYS)
    month = ends.month_of(day)
    return month.first, month.last + _DAY
