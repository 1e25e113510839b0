"""Days as the people of a folder's time zone count them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from policies.calendar import day_bounds, day_of


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


BOUNDS = [
    # zone, day, first moment, first moment after, hours
    ("UTC", "2026-03-29", "2026-03-29 00:00", "2026-03-30 00:00", 24),
    ("Europe/Berlin", "2026-01-15", "2026-01-14 23:00", "2026-01-15 23:00", 24),
    ("Europe/Berlin", "2026-03-29", "2026-03-28 23:00", "2026-03-29 22:00", 23),
    ("Europe/Berlin", "2026-10-25", "2026-10-24 22:00", "2026-10-25 23:00", 25),
    ("America/New_York", "2026-03-08", "2026-03-08 05:00", "2026-03-09 04:00", 23),
    ("America/New_York", "2026-11-01", "2026-11-01 04:00", "2026-11-02 05:00", 25),
    ("Asia/Kathmandu", "2026-06-01", "2026-05-31 18:15", "2026-06-01 18:15", 24),
    ("Australia/Lord_Howe", "2026-10-04", "2026-10-03 13:30", "2026-10-04 13:00", 23.5),
    # midnight itself does not exist, or exists twice
    ("Africa/Cairo", "2026-04-24", "2026-04-23 22:00", "2026-04-24 21:00", 23),
    ("America/Havana", "2025-11-02", "2025-11-02 04:00", "2025-11-03 05:00", 25),
    # the clock went from 23:30 to 00:30: the day began half an hour late by its own count
    ("America/Toronto", "1919-03-31", "1919-03-31 04:30", "1919-04-01 04:00", 23.5),
    # the clock went from 00:01 back to 23:01: the day had begun, and goes on
    ("America/St_Johns", "2006-10-29", "2006-10-29 02:30", "2006-10-30 03:30", 25),
    # Samoa went round the date line and left this day out
    ("Pacific/Apia", "2011-12-30", "2011-12-30 10:00", "2011-12-30 10:00", 0),
]


@pytest.mark.parametrize(("zone", "day", "start", "end", "hours"), BOUNDS)
def test_when_a_day_begins_and_ends(zone, day, start, end, hours):
    bounds = day_bounds(date.fromisoformat(day), ZoneInfo(zone))
    assert bounds == (utc(start), utc(end))
    assert all(moment.tzinfo is UTC for moment in bounds)
    assert bounds[1] - bounds[0] == timedelta(hours=hours)


@pytest.mark.parametrize(("zone", "day", "start", "end", "hours"), BOUNDS)
def test_a_moment_belongs_to_the_day_whose_bounds_hold_it(zone, day, start, end, hours):
    first, tick = utc(start), timedelta(microseconds=1)
    if hours:
        assert day_of(first, ZoneInfo(zone)) == date.fromisoformat(day)
        assert day_of(utc(end) - tick, ZoneInfo(zone)) == date.fromisoformat(day)
    assert day_of(first - tick, ZoneInfo(zone)) < date.fromisoformat(day)
    assert day_of(utc(end), ZoneInfo(zone)) > date.fromisoformat(day)


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/New_York", "America/St_Johns", "Africa/Cairo", "Pacific/Apia", "UTC"]
)
def test_days_follow_each_other_without_hole_or_overlap(zone):
    days = [date(2006, 1, 1) + timedelta(days=n) for n in range(366 * 7)]
    bounds = [day_bounds(day, ZoneInfo(zone)) for day in days]
    assert all(before[1] == behind[0] for before, behind in pairwise(bounds))


def test_a_clock_put_back_across_midnight_does_not_bring_the_day_before_again():
    zone = ZoneInfo("America/St_Johns")
    assert utc("2006-10-29 03:00").astimezone(zone).date() == date(2006, 10, 28)
    assert day_of(utc("2006-10-29 03:00"), zone) == date(2006, 10, 29)


def test_a_fixed_offset_is_a_zone_too():
    zone = timezone(timedelta(hours=-3))
    assert day_of(utc("2026-03-02 02:59"), zone) == date(2026, 3, 1)
    assert day_of(utc("2026-03-02 03:00"), zone) == date(2026, 3, 2)


def test_a_moment_may_be_told_in_any_zone():
    moment = utc("2026-10-25 23:30").astimezone(ZoneInfo("Asia/Tokyo"))
    assert day_of(moment, ZoneInfo("Europe/Berlin")) == date(2026, 10, 26)


def test_a_moment_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="without a time zone"):
        day_of(datetime(2026, 3, 2), UTC)  # noqa: DTZ001


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago", "UTC", "Europe/Berlin"])
def test_the_ends_of_time_have_days_too(zone):
    for moment in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):
        start, end = day_bounds(day_of(moment, ZoneInfo(zone)), ZoneInfo(zone))
        assert start <= moment <= end
