"""Weeks, months and years: made of whole days, within each other."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from policies.calendar import LAST_WEEK, MonthEnd, Period, PeriodEnds, Weekday, moment_of, months_later
from policies.control import control_at
from policies.folder_policy import ControlPolicy

LAST_FRIDAY = MonthEnd(weekday=Weekday.FRIDAY)
FOURTH_MONDAY = MonthEnd(weekday=Weekday.MONDAY, week=4)


def day(text: str) -> date:
    return date.fromisoformat(text)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("end", "year", "month", "expected"),
    [
        (MonthEnd(), 2026, 1, "2026-01-31"),
        (MonthEnd(), 2026, 2, "2026-02-28"),
        (MonthEnd(), 2028, 2, "2028-02-29"),
        (MonthEnd(30), 2026, 2, "2026-02-28"),
        (MonthEnd(1), 2026, 2, "2026-02-01"),
        (LAST_FRIDAY, 2026, 1, "2026-01-30"),
        (LAST_FRIDAY, 2026, 7, "2026-07-31"),
        (LAST_FRIDAY, 2026, 2, "2026-02-27"),
        (FOURTH_MONDAY, 2026, 1, "2026-01-26"),
        (FOURTH_MONDAY, 2026, 6, "2026-06-22"),
        (MonthEnd(weekday=Weekday.THURSDAY, week=1), 2026, 1, "2026-01-01"),
        (MonthEnd(weekday=Weekday.WEDNESDAY, week=1), 2026, 1, "2026-01-07"),
        (MonthEnd(weekday=Weekday.SUNDAY, week=LAST_WEEK), 2026, 2, "2026-02-22"),
    ],
)
def test_the_end_of_a_month(end, year, month, expected):
    assert end.in_month(year, month) == day(expected)


@pytest.mark.parametrize(
    ("ends", "of", "week", "month"),
    [
        # 1 January 2026 is a Thursday: the first week has three days
        (PeriodEnds(), "2026-01-01", "2026-01-01 to 2026-01-03", "2026-01-01 to 2026-01-31"),
        (PeriodEnds(), "2026-01-04", "2026-01-04 to 2026-01-10", "2026-01-01 to 2026-01-31"),
        (PeriodEnds(), "2026-01-31", "2026-01-25 to 2026-01-31", "2026-01-01 to 2026-01-31"),
        (PeriodEnds(), "2026-03-30", "2026-03-29 to 2026-03-31", "2026-03-01 to 2026-03-31"),
        (PeriodEnds(), "2026-08-01", "2026-08-01", "2026-08-01 to 2026-08-31"),
        (PeriodEnds(Weekday.SUNDAY), "2026-05-31", "2026-05-25 to 2026-05-31", "2026-05-01 to 2026-05-31"),
        (PeriodEnds(Weekday.SUNDAY), "2026-05-25", "2026-05-25 to 2026-05-31", "2026-05-01 to 2026-05-31"),
        # a month that ends on the 15th cuts the week of Monday the 12th to Saturday the 17th
        (
            PeriodEnds(month_end=MonthEnd(15)),
            "2026-01-14",
            "2026-01-11 to 2026-01-15",
            "2025-12-16 to 2026-01-15",
        ),
        (
            PeriodEnds(month_end=MonthEnd(15)),
            "2026-01-16",
            "2026-01-16 to 2026-01-17",
            "2026-01-16 to 2026-02-15",
        ),
        (PeriodEnds(month_end=LAST_FRIDAY), "2026-01-31", "2026-01-31", "2026-01-31 to 2026-02-27"),
        (
            PeriodEnds(month_end=LAST_FRIDAY),
            "2026-01-30",
            "2026-01-25 to 2026-01-30",
            "2025-12-27 to 2026-01-30",
        ),
        (
            PeriodEnds(month_end=FOURTH_MONDAY),
            "2026-12-31",
            "2026-12-29 to 2027-01-02",
            "2026-12-29 to 2027-01-25",
        ),
    ],
)
def test_weeks_end_with_their_weekday_or_with_the_month(ends, of, week, month):
    assert str(ends.week_of(day(of))) == week
    assert str(ends.month_of(day(of))) == month


@pytest.mark.parametrize(
    ("end", "of", "expected"),
    [
        (MonthEnd(), "2026-06-01", "2026-01-01 to 2026-12-31"),
        (MonthEnd(15), "2026-12-15", "2025-12-16 to 2026-12-15"),
        (MonthEnd(15), "2026-12-16", "2026-12-16 to 2027-12-15"),
        (LAST_FRIDAY, "2026-12-26", "2026-12-26 to 2027-12-31"),
    ],
)
def test_a_year_is_the_months_that_end_in_it(end, of, expected):
    assert str(PeriodEnds(month_end=end).year_of(day(of))) == expected


@pytest.mark.parametrize("week_end", list(Weekday))
@pytest.mark.parametrize(
    "end", [MonthEnd(), MonthEnd(15), MonthEnd(1), MonthEnd(30), LAST_FRIDAY, FOURTH_MONDAY]
)
def test_periods_tile_time_and_lie_within_each_other(week_end, end):
    ends = PeriodEnds(week_end, end)
    days = [date(2027, 11, 1) + timedelta(days=count) for count in range(800)]
    for of in (ends.week_of, ends.month_of, ends.year_of):
        periods = list(dict.fromkeys(of(one) for one in days))
        assert all(behind.first - before.last == timedelta(days=1) for before, behind in pairwise(periods))
        for one in days:
            assert of(one).first <= one <= of(one).last
            assert of(of(one).first) == of(of(one).last) == of(one)
    for one in days:
        week, month, year = ends.week_of(one), ends.month_of(one), ends.year_of(one)
        assert year.first <= month.first <= week.first
        assert week.last <= month.last <= year.last
        assert week.last.weekday() == week_end or week.last == month.last
        assert (week.last - week.first).days < 7
        assert (month.last - month.first).days < 35


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/New_York", "America/St_Johns", "Pacific/Apia", "Africa/Cairo"]
)
def test_their_moments_leave_no_hole_and_do_not_overlap(zone):
    ends = PeriodEnds(Weekday.FRIDAY)  # Samoa left out Friday, 30 December 2011
    days = [date(2011, 6, 1) + timedelta(days=count) for count in range(400)]
    for of in (ends.week_of, ends.month_of, ends.year_of):
        bounds = [period.bounds(ZoneInfo(zone)) for period in dict.fromkeys(of(one) for one in days)]
        assert all(before[1] == behind[0] for before, behind in pairwise(bounds))


def test_a_week_with_a_short_day_and_one_without_a_day():
    start, end = PeriodEnds().week_of(day("2026-03-24")).bounds(ZoneInfo("Europe/Berlin"))
    assert (start, end) == (utc("2026-03-21 23:00"), utc("2026-03-28 23:00"))
    start, end = PeriodEnds(Weekday.SUNDAY).week_of(day("2026-03-24")).bounds(ZoneInfo("Europe/Berlin"))
    assert end - start == timedelta(hours=7 * 24 - 1)
    start, end = PeriodEnds(Weekday.FRIDAY).week_of(day("2011-12-28")).bounds(ZoneInfo("Pacific/Apia"))
    assert end - start == timedelta(days=6)


def test_the_ends_of_time_have_periods_too():
    for ends in (PeriodEnds(), PeriodEnds(Weekday.MONDAY, MonthEnd(15)), PeriodEnds(month_end=FOURTH_MONDAY)):
        for one in (date.min, date.max, date(9999, 12, 20), date(1, 1, 20)):
            for of in (ends.week_of, ends.month_of, ends.year_of):
                assert of(one).first <= one <= of(one).last
                assert of(one).bounds(UTC)


@pytest.mark.parametrize("wrong", [{"day": 0}, {"day": 32}, {"week": 0}, {"week": 5}, {"week": -2}])
def test_what_no_month_has_is_refused(wrong):
    with pytest.raises(ValueError, match="month"):
        MonthEnd(**wrong)


@pytest.mark.parametrize(
    ("of", "months", "expected"),
    [
        ("2026-01-31", 1, "2026-02-28"),
        ("2026-01-31", 0, "2026-01-31"),
        ("2026-01-31", 13, "2027-02-28"),
        ("2026-12-15", 12, "2027-12-15"),
        ("9999-12-15", 1, "9999-12-31"),
    ],
)
def test_months_later(of, months, expected):
    assert months_later(day(of), months) == day(expected)


@pytest.mark.parametrize(
    ("zone", "of", "at", "expected"),
    [
        ("Europe/Berlin", "2026-01-15", "00:00", "2026-01-14 23:00"),
        ("Europe/Berlin", "2026-01-15", "23:59", "2026-01-15 22:59"),
        ("Europe/Berlin", "2026-03-29", "02:30", "2026-03-29 01:30"),  # there is no half past two
        ("Europe/Berlin", "2026-10-25", "02:30", "2026-10-25 00:30"),  # the first of two
        ("Africa/Cairo", "2026-04-24", "00:00", "2026-04-23 22:00"),  # there is no midnight
        ("America/Havana", "2025-11-02", "00:00", "2025-11-02 04:00"),
        ("Pacific/Apia", "2011-12-30", "12:00", "2011-12-30 10:00"),  # there is no such day
    ],
)
def test_when_a_day_reaches_a_time_of_day(zone, of, at, expected):
    assert moment_of(day(of), time.fromisoformat(at), ZoneInfo(zone)) == utc(expected)


@pytest.mark.parametrize(
    ("now", "at", "as_of", "following"),
    [
        ("2026-01-15 22:59:59", "00:00", "2026-01-14 23:00", "2026-01-15 23:00"),
        ("2026-01-15 23:00", "00:00", "2026-01-15 23:00", "2026-01-16 23:00"),
        ("2026-01-15 01:00", "03:00", "2026-01-14 02:00", "2026-01-15 02:00"),
        ("2026-01-15 02:00", "03:00", "2026-01-15 02:00", "2026-01-16 02:00"),
    ],
)
def test_the_daily_work_is_judged_as_of_the_last_control_time(now, at, as_of, following):
    control = control_at(utc(now), ControlPolicy(at=time.fromisoformat(at)), ZoneInfo("Europe/Berlin"))
    assert control.as_of == utc(as_of)
    assert control.first_from(utc(now) + timedelta(microseconds=1)) == utc(following)


def test_a_suspended_daily_work_is_judged_only_when_it_is_started():
    off, now = ControlPolicy(enabled=False), utc("2026-01-15 12:00")
    assert control_at(now, off, UTC).as_of is None
    assert control_at(now, off, UTC, started=True).as_of == now
    assert not control_at(now, off, UTC, started=True).runs


def test_a_period_in_words():
    assert str(Period(day("2026-01-01"), day("2026-01-01"))) == "2026-01-01"
