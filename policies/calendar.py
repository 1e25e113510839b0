"""Days, weeks and months as the people of a folder's time zone count them.

A local day has 23, 24 or 25 hours, and where a clock skipped a whole day, none. Days follow each other
without a hole and do not overlap: a day that has begun does not begin again because the clock is put back
across midnight.

Longer periods are made of whole days and lie within each other. A month ends with the day that the folder's
settings name; a week ends with the weekday that they name, or with the month, whichever comes first; a year
ends with the last month that ends in it. So a month is exactly its weeks, and a week exactly its days.
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, date, datetime, time, timedelta, tzinfo
from enum import IntEnum
from functools import lru_cache

_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)


class Weekday(IntEnum):
    """A day of the week, numbered as `datetime.date.weekday` does."""

    MONDAY = 0
    TUESDAY = 1
    WEDNESDAY = 2
    THURSDAY = 3
    FRIDAY = 4
    SATURDAY = 5
    SUNDAY = 6


LAST_WEEK = -1
"""Stands for "last" where the first, second, third or fourth weekday of a month could stand."""


@dataclass(frozen=True, slots=True)
class MonthEnd:
    """With which day a month ends, for the purpose of rolling up.

    Attributes:
        day: day of the month, 1 to 31; where a month is shorter, its last day. Ignored if a weekday is given.
        weekday: the weekday on which it ends; None where it ends on a date.
        week: which of these weekdays in the month: 1 to 4, or -1 for the last.
    """

    day: int = 31
    weekday: Weekday | None = None
    week: int = LAST_WEEK

    def __post_init__(self) -> None:
        """Refuse what no month has.

        Raises:
            ValueError: a number is out of range.
        """
        if not 1 <= self.day <= 31:
            raise ValueError(f"a month has no day {self.day}")
        if self.week not in (1, 2, 3, 4, LAST_WEEK):
            raise ValueError(f"not every month has a weekday number {self.week}")

    def in_month(self, year: int, month: int) -> date:
        """Tell the day that a calendar month's end falls on.

        Args:
            year: the year, 1 to 9999.
            month: the month, 1 to 12.
        """
        first_weekday, length = monthrange(year, month)
        if self.weekday is None:
            return date(year, month, min(self.day, length))
        first = 1 + (self.weekday - first_weekday) % 7
        if self.week == LAST_WEEK:
            return date(year, month, first + (length - first) // 7 * 7)
        return date(year, month, first + (self.week - 1) * 7)


LAST_DAY_OF_MONTH = MonthEnd()
"""The 31st, or the last day of a month that is shorter."""


@dataclass(frozen=True, slots=True)
class Period:
    """A run of whole local days.

    Attributes:
        first: its first day.
        last: its last day, not before the first.
    """

    first: date
    last: date

    def __str__(self) -> str:
        """Give the day, or the first and the last one."""
        if self.first == self.last:
            return self.last.isoformat()
        return f"{self.first.isoformat()} to {self.last.isoformat()}"

    def bounds(self, zone: tzinfo) -> tuple[datetime, datetime]:
        """Tell when the period begins and ends.

        Args:
            zone: the time zone in which days are counted.

        Returns:
            Its first moment and the first moment after it, both UTC: half-open, to the second.
        """
        return day_bounds(self.first, zone)[0], day_bounds(self.last, zone)[1]


@dataclass(frozen=True, slots=True)
class PeriodEnds:
    """With which days weeks and months end.

    Attributes:
        week_end: the last day of a week.
        month_end: the last day of a month.
    """

    week_end: Weekday = Weekday.SATURDAY
    month_end: MonthEnd = LAST_DAY_OF_MONTH

    def week_of(self, day: date) -> Period:
        """Give the week that holds a day; the month's bounds cut it short."""
        month = self.month_of(day)
        behind = (day.weekday() - self.week_end - 1) % 7
        ahead = (self.week_end - day.weekday()) % 7
        first = day - timedelta(days=behind) if day.toordinal() > behind else date.min
        last = day + timedelta(days=ahead) if date.max.toordinal() - day.toordinal() > ahead else date.max
        return Period(max(first, month.first), min(last, month.last))

    def month_of(self, day: date) -> Period:
        """Give the month that holds a day."""
        end = self.month_end.in_month(day.year, day.month)
        if day <= end:
            return Period(_day_after(self._end_before(day)), end)
        return Period(_day_after(end), self._end_after(day))

    def year_of(self, day: date) -> Period:
        """Give the year that holds a day: all months that end in one calendar year."""
        year = self.month_of(day).last.year
        last = self.month_end.in_month(year, 12)
        if day > last:
            return Period(_day_after(last), date.max)
        if year == date.min.year:
            return Period(date.min, last)
        return Period(_day_after(self.month_end.in_month(year - 1, 12)), last)

    def _end_before(self, day: date) -> date | None:
        """Give the end of the calendar month before a day's."""
        if day.month > 1:
            return self.month_end.in_month(day.year, day.month - 1)
        return None if day.year == date.min.year else self.month_end.in_month(day.year - 1, 12)

    def _end_after(self, day: date) -> date:
        """Give the end of the calendar month after a day's."""
        if day.month < 12:
            return self.month_end.in_month(day.year, day.month + 1)
        return date.max if day.year == MAXYEAR else self.month_end.in_month(day.year + 1, 1)


def months_later(day: date, months: int) -> date:
    """Count months on from a day.

    Args:
        day: the day.
        months: how many, 0 or more.

    Returns:
        The day of the same number, or the last of a month that is shorter; the last day of all at the end of time.
    """
    index = day.year * 12 + day.month - 1 + months
    year, month = index // 12, index % 12 + 1
    if year > MAXYEAR:
        return date.max
    return date(year, month, min(day.day, monthrange(year, month)[1]))


def moment_of(day: date, at: time, zone: tzinfo) -> datetime:
    """Tell when a local day reaches a time of day.

    Args:
        day: the day.
        at: the time of day, without a time zone.
        zone: the time zone in which days are counted.

    Returns:
        The moment, UTC, never outside the day: where the clock skips that time, the time is counted on from before;
        where it comes twice, the first; on a day that does not exist, when it would have begun.
    """
    start, end = day_bounds(day, zone)
    try:
        moment = datetime.combine(day, at, zone).astimezone(UTC)
    except OverflowError:
        return start
    return min(max(moment, start), end)


def day_of(time: datetime, zone: tzinfo) -> date:
    """Tell to which local day a moment belongs.

    Args:
        time: the moment, with a time zone of its own.
        zone: the time zone in which days are counted.

    Returns:
        The day whose bounds hold the moment.

    Raises:
        ValueError: the moment has no time zone.
    """
    day = _local_date(time, zone)
    is_put_back = day < date.max and time >= day_bounds(day, zone)[1]
    return day + timedelta(days=1) if is_put_back else day


def day_bounds(day: date, zone: tzinfo) -> tuple[datetime, datetime]:
    """Tell when a local day begins and ends.

    Args:
        day: the day.
        zone: the time zone in which days are counted.

    Returns:
        Its first moment and the first moment after it, both UTC: half-open, to the second.
    """
    start = _FIRST if day == date.min else _first_moment(day, zone)
    end = _LAST if day == date.max else _first_moment(day + timedelta(days=1), zone)
    return start, end


def _day_after(day: date | None) -> date:
    """Give the next day; that after nothing is the first of all."""
    if day is None:
        return date.min
    return day + _DAY if day < date.max else day


@lru_cache(maxsize=4096)
def _first_moment(day: date, zone: tzinfo) -> datetime:
    """Find the first moment at which the local calendar shows a day, or a later one."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    try:
        guesses = [midnight.replace(fold=fold).astimezone(UTC) for fold in (0, 1)]
    except OverflowError:
        return _LAST if day.year == MAXYEAR else _FIRST
    early, late = min(guesses), max(guesses)
    if early == late or _local_date(early, zone) >= day:
        return early
    while late - early > _SECOND:
        middle = early + timedelta(seconds=(late - early) // _SECOND // 2)
        if _local_date(middle, zone) >= day:
            late = middle
        else:
            early = middle
    return late


def _local_date(time: datetime, zone: tzinfo) -> date:
    if time.tzinfo is None:
        raise ValueError(f"a time without a time zone: {time}")
    try:
        return time.astimezone(zone).date()
    except OverflowError:
        return date.max if time.year == MAXYEAR else date.min
