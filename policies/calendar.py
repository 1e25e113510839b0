"""Days as the people of a folder's time zone count them.

A local day has 23, 24 or 25 hours, and where a clock skipped a whole day, none. Days follow each other
without a hole and do not overlap: a day that has begun does not begin again because the clock is put back
across midnight.
"""

from __future__ import annotations

from datetime import MAXYEAR, UTC, date, datetime, timedelta, tzinfo

_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)
_SECOND = timedelta(seconds=1)


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
