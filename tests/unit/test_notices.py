"""What is told, and what is not."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.notices import (
    DAMPING,
    LETTER_PAUSE,
    TOPIC_OF,
    Trouble,
    TroubleKind,
    TroubleRecord,
    is_inactive,
    is_space_low,
    judge_notices,
    summary_day,
)

START = datetime(2026, 3, 2, 6, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def trouble(kind: TroubleKind = TroubleKind.DAMAGED, key: str = "one") -> Trouble:
    return Trouble(kind, key, "/srv/images", "A-b001.spf", "stored data is damaged")


def play(timeline: Iterable[tuple[int, Iterable[Trouble]]]) -> list[tuple[int, str, str]]:
    """Judge at each minute given; return (minute, opened or cleared, key)."""
    records: tuple[TroubleRecord, ...] = ()
    told = []
    for minute, seen in timeline:
        decision = judge_notices(records, seen, START + minute * MINUTE)
        records = decision.records
        told += [(minute, "opened", one.trouble.key) for one in decision.opened]
        told += [(minute, "cleared", one.trouble.key) for one in decision.cleared]
    return told


def test_one_when_it_opens_nothing_while_it_lasts_one_when_it_clears():
    there = [(minute, [trouble()]) for minute in range(600)]
    gone = [(minute, []) for minute in range(600, 1_200)]
    assert play(there + gone) == [(0, "opened", "one"), (610, "cleared", "one")]


def test_nothing_of_success():
    assert play((minute, []) for minute in range(100)) == []


def test_what_passes_quickly_is_never_told():
    nap = [trouble(TroubleKind.UNREACHABLE)]
    assert play([(0, nap), (5, nap), (9, []), (30, []), (40, nap), (45, [])]) == []


def test_what_comes_and_goes_too_quickly_for_each_time_is_told_all_the_same():
    nap = [trouble(TroubleKind.UNREACHABLE)]
    assert play((minute, nap if minute % 5 < 3 else []) for minute in range(60)) == [(10, "opened", "one")]


def test_flapping_is_damped():
    flapping = [(minute, [trouble()] if minute // 11 % 2 == 0 else []) for minute in range(0, 7 * 1_440)]
    told = play(flapping)
    assert told == [(0, "opened", "one"), (21, "cleared", "one"), (26, "opened", "one")]


def test_at_most_a_few_a_day_however_it_flaps():
    for period in (15, 40, 90, 200, 500, 1_000):
        seen = [
            (minute, [trouble()] if minute // period % 2 == 0 else []) for minute in range(0, 5 * 1_440, 5)
        ]
        by_day = [[one for one in play(seen) if one[0] // 1_440 == day] for day in range(5)]
        assert len(by_day[0]) <= 14
        assert all(len(day) <= 3 for day in by_day[2:]), (period, by_day)


def test_a_storm_is_gathered():
    storm = [(minute, [trouble(key=f"{number}") for number in range(minute + 1)]) for minute in range(12)]
    told = play(storm)
    assert [minute for minute, _, _ in told] == [0] + [5] * 5 + [10] * 5
    assert len({key for _, _, key in told}) == 11


def test_what_nobody_can_tell_stays_as_it_is():
    low = trouble(TroubleKind.LOW_SPACE)
    records = judge_notices([TroubleRecord(low, START)], [low], START + 20 * MINUTE).records
    later = judge_notices(records, [], START + timedelta(days=3), unknown={"one"})
    assert later.records == records
    assert not later.says_something


def test_a_clock_that_was_put_back_holds_nothing_up():
    far = START + timedelta(days=400)
    records = judge_notices([], [trouble()], far).records
    after = judge_notices(records, [], START)
    cleared = judge_notices(after.records, [], START + 11 * MINUTE)
    assert [one.trouble.key for one in cleared.cleared] == ["one"]
    other = judge_notices(records, [trouble(), trouble(key="two")], START + LETTER_PAUSE)
    again = judge_notices(other.records, [trouble(), trouble(key="two")], START + 2 * LETTER_PAUSE)
    assert [one.trouble.key for one in (*other.opened, *again.opened)] == ["two"]


@given(
    st.lists(st.tuples(st.integers(0, 900), st.sets(st.sampled_from("abc"))), max_size=60),
    st.sampled_from(TroubleKind),
)
def test_each_trouble_opens_and_clears_in_turn(steps: list[tuple[int, set[str]]], kind: TroubleKind):
    minute, timeline = 0, []
    for wait, keys in steps:
        minute += wait
        timeline.append((minute, [trouble(kind, key) for key in keys]))
    last_told = None
    states = dict.fromkeys("abc", "cleared")
    for at, what, key in play(timeline):
        assert states[key] != what
        states[key] = what
        assert last_told is None or at == last_told or at - last_told >= 5
        last_told = at


@given(st.sets(st.sampled_from("abc")), st.sampled_from(TroubleKind))
def test_the_same_moment_again_says_nothing_more(keys: set[str], kind: TroubleKind):
    seen = [trouble(kind, key) for key in keys]
    first = judge_notices([], seen, START)
    second = judge_notices(first.records, seen, START)
    assert second.records == first.records
    assert not second.says_something


def test_every_kind_has_its_patience_and_its_topic():
    assert set(DAMPING) == set(TOPIC_OF) == set(TroubleKind)


def test_inactivity_counts_from_the_newest_image():
    assert not is_inactive(START, 3, START + timedelta(days=3))
    assert is_inactive(START, 3, START + timedelta(days=3, seconds=1))
    assert not is_inactive(START, None, START + timedelta(days=9_999))


def test_low_space_ends_a_little_above_where_it_began():
    assert not is_space_low(10, 100, 10, was_low=False)
    assert is_space_low(9, 100, 10, was_low=False)
    assert is_space_low(11, 100, 10, was_low=True)
    assert not is_space_low(12, 100, 10, was_low=True)
    assert not is_space_low(0, 100, None, was_low=True)
    assert not is_space_low(0, 0, 10, was_low=True)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
@pytest.mark.parametrize("at", [time(0, 0), time(2, 30), time(23, 59)])
def test_one_summary_a_local_day_through_both_changes_of_the_clock(zone: str, at: time):
    last: date | None = date(2026, 3, 1)
    days = []
    now = datetime(2026, 3, 2, 12, tzinfo=UTC)
    while now < datetime(2026, 11, 20, tzinfo=UTC):
        due = summary_day(last, at, ZoneInfo(zone), now)
        if due is not None:
            days.append(due)
            last = due
        now += timedelta(minutes=30)
    assert days == [days[0] + timedelta(days=number) for number in range(len(days))]
    assert len(days) >= 261


def test_missed_summaries_are_not_made_up_for():
    due = summary_day(date(2026, 3, 1), time(7), ZoneInfo("UTC"), datetime(2026, 3, 20, 6, tzinfo=UTC))
    assert due == date(2026, 3, 19)
    assert summary_day(due, time(7), ZoneInfo("UTC"), datetime(2026, 3, 20, 6, 59, tzinfo=UTC)) is None
    assert summary_day(due, time(7), ZoneInfo("UTC"), datetime(2026, 3, 10, tzinfo=UTC)) is None
