"""When a disk is due for a restore test: by day, week and month, across DST, made up for once."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.calendar import MonthEnd, PeriodEnds, Weekday, day_of
from policies.control import control_at
from policies.folder_policy import ControlPolicy
from policies.restore_tests import DueTest, Rhythm, due_test

BERLIN = ZoneInfo("Europe/Berlin")
DAY = timedelta(days=1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
ENDS = PeriodEnds()


def due(
    rhythm: Rhythm, now: datetime, since: datetime, *, at: time = time(2, 30), ends: PeriodEnds = ENDS
) -> DueTest:
    return due_test(rhythm, ends, control_at(now, ControlPolicy(at=at), BERLIN), since, now)


def berlin(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=BERLIN).astimezone(UTC)  # type: ignore[arg-type,misc]


def test_never_is_never():
    assert due(Rhythm.NEVER, berlin(2026, 3, 2, 12), LONG_AGO) == DueTest(None, None)


def test_nothing_is_due_while_the_daily_work_is_suspended():
    now = berlin(2026, 3, 2, 12)
    suspended = control_at(now, ControlPolicy(enabled=False), BERLIN)
    assert due_test(Rhythm.DAILY, ENDS, suspended, LONG_AGO, now) == DueTest(None, None)


def test_a_day_is_due_at_its_control_time_and_once():
    before, at = berlin(2026, 3, 2, 2, 29), berlin(2026, 3, 2, 2, 30)
    yesterday = berlin(2026, 3, 1, 9)
    assert due(Rhythm.DAILY, before, yesterday) == DueTest(None, at)
    assert due(Rhythm.DAILY, at, yesterday) == DueTest(at, at + DAY)
    assert due(Rhythm.DAILY, at, at) == DueTest(None, at + DAY)


def test_a_week_and_a_month_are_due_on_their_first_days():
    friday = berlin(2026, 3, 6, 12)
    week = due(Rhythm.WEEKLY, friday, LONG_AGO)
    assert week == DueTest(berlin(2026, 3, 1, 2, 30), berlin(2026, 3, 8, 2, 30))  # both Sundays
    month = due(Rhythm.MONTHLY, friday, LONG_AGO)
    assert month == DueTest(berlin(2026, 3, 1, 2, 30), berlin(2026, 4, 1, 2, 30))
    ends = PeriodEnds(Weekday.WEDNESDAY, MonthEnd(weekday=Weekday.FRIDAY))
    assert due(Rhythm.WEEKLY, friday, LONG_AGO, ends=ends).due_since == berlin(2026, 3, 5, 2, 30)
    assert due(Rhythm.MONTHLY, friday, LONG_AGO, ends=ends) == DueTest(
        berlin(2026, 2, 28, 2, 30), berlin(2026, 3, 28, 2, 30)
    )


def test_clocks_that_go_on_or_back_cost_no_test():
    skipped = due(Rhythm.DAILY, berlin(2026, 3, 29, 12), berlin(2026, 3, 28, 12))
    assert skipped.due_since == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)  # 2:30 is 3:30 that day
    twice = due(Rhythm.DAILY, berlin(2026, 10, 25, 12), berlin(2026, 10, 24, 12))
    assert twice.due_since == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # the first of the two
    again = due(Rhythm.DAILY, datetime(2026, 10, 25, 1, 45, tzinfo=UTC), twice.due_since)
    assert again.due_since is None


@pytest.mark.parametrize(
    ("rhythm", "missed"), [(Rhythm.DAILY, 9), (Rhythm.WEEKLY, 70), (Rhythm.MONTHLY, 200)]
)
def test_of_several_that_were_missed_one_is_made_up_for(rhythm: Rhythm, missed: int):
    now = berlin(2026, 8, 20, 12)
    found = due(rhythm, now, now - missed * DAY)
    assert found.due_since is not None
    assert due(rhythm, now, now).due_since is None


def test_a_test_in_a_time_that_has_not_come_yet_does_not_count():
    now = berlin(2026, 8, 20, 12)
    assert due(Rhythm.MONTHLY, now, now + 500 * DAY).due_since == berlin(2026, 8, 1, 2, 30)


ZONES = ("Europe/Berlin", "America/Sao_Paulo", "Pacific/Apia", "Australia/Lord_Howe", "UTC")
LENGTHS = {Rhythm.DAILY: (1, 2), Rhythm.WEEKLY: (7, 7), Rhythm.MONTHLY: (20, 45)}


@given(
    rhythm=st.sampled_from(tuple(LENGTHS)),
    zone=st.sampled_from(ZONES),
    begin=st.integers(0, 12_000_000).map(lambda minutes: LONG_AGO - 4000 * DAY + timedelta(minutes=minutes)),
    hours=st.lists(st.integers(1, 400), min_size=1, max_size=40),
    at=st.times().map(lambda moment: moment.replace(second=0, microsecond=0)),
    ends=st.builds(
        PeriodEnds,
        st.sampled_from(Weekday),
        st.one_of(st.builds(MonthEnd, st.integers(1, 31)), st.just(MonthEnd())),
    ),
)
def test_whenever_it_is_looked_each_period_has_one_test_at_most(
    rhythm: Rhythm, zone: str, begin: datetime, hours: list[int], at: time, ends: PeriodEnds
):
    place, policy = ZoneInfo(zone), ControlPolicy(at=at)
    now = since = begin
    promised: datetime | None = None
    periods: set[date] = set()
    for step in hours:
        now += timedelta(hours=step)
        found = due_test(rhythm, ends, control_at(now, policy, place), since, now)
        assert found.next_at is not None
        assert found.next_at > now
        if found.due_since is None:
            assert promised is None or now < promised
        else:
            assert since < found.due_since <= now
            days = (found.next_at - found.due_since) / DAY
            low, high = LENGTHS[rhythm]
            assert low - 1.1 <= days <= high + 1.1
            assert day_of(found.due_since, place) not in periods
            periods.add(day_of(found.due_since, place))
            since = now
        promised = found.next_at
