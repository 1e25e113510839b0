"""Which dailies are due."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from policies.merging import plan_merge
from policies.names import Tier
from policies.points import Span
from policies.rollup import due_dailies
from tests.notation import Chain, chain

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-{text}").replace(tzinfo=UTC)


def days(text: str) -> dict[str, datetime]:
    """Read "0 1 2 | 3 4 | 5": points by day, from 2 March on, taken from 08:00 UTC on."""
    return {
        word: at("03-02 08:00") + timedelta(days=day, minutes=15 * place)
        for day, words in enumerate(text.split("|"))
        for place, word in enumerate(words.split())
    }


def due(made: Chain, now: datetime, zone=UTC) -> list[str]:
    return [
        f"{made.words([rollup.after])}-{made.words([rollup.upto])}"
        for rollup in due_dailies(made.spans, now, zone)
    ]


WEEK_LATER = at("03-09 12:00")


@pytest.mark.parametrize(
    ("text", "by_day", "expected"),
    [
        ("b i1 i2 i3", "0 1 2 3", "0-3"),
        ("b i1 i2 i3", "0 | 1 2 | 3", "0-2 2-3"),
        ("b i1", "0 1", "0-1"),
        ("b", "0", ""),
        ("b i1 i2 i3", "0 1 | | | 2 | 3", "0-1 1-2 2-3"),
        # done already
        ("b i1 i2 i3 cd(1-2)", "0 1 2 | 3", "2-3"),
        ("b i1 cd(1-1)", "0 1", ""),
        ("b cd(1-2) i3 i4 i5", "0 1 2 | 3 4 5", "2-5"),
        ("b cd(1-2) cd(3-5)", "0 1 2 | 3 4 5", ""),
        ("b i1 i2 i3 i4 cw(1-4)", "0 1 2 | 3 4", ""),
        ("b cm(1-4)", "0 1 2 | 3 4", ""),
        ("b i1 i2 i3 i4 cw(1-3)", "0 1 2 | 3 4", "2-4"),
        # not done: a differential leaves points out, a full is no daily, a daily came too early
        ("b i1 i2 diff(0>2)", "0 1 2", "0-2"),
        ("b i1 i2 full(0-2)", "0 1 2", "0-2"),
        ("b i1 i2 i3 cd(1-2)", "0 1 2 3", "0-3"),
        ("b i1? i2?", "0 1 2", ""),
        # cannot be done: the sources are gone
        ("b full(0-3) i4", "0 1 | 2 3 | 4", "3-4"),
        ("b i1 i3 i4", "0 1 2 3 4", "0-1"),
        ("b i1 i3 i4 | i5", "0 1 | 2 3 4 | 5", "0-1 4-5"),
        ("b i1 i2 full(0-3) diff(1>3)", "0 1 2 | 3", "0-2"),
        ("i3 i4", "2 | 3 4", "2-4"),
        ("i3 i4 i5", "2 3 | 4 5", "3-5"),
        # forks
        ("b i1 i2 i2'", "0 1 | 2 2'", "0-1 1-2 1-2'"),
        ("b i1 i2 i3 i3'", "0 1 2 | 3 | 3'", "0-2 2-3 2-3'"),
        ("b i1 i2 i2' i3'", "0 1 2 | 2' 3'", "0-1 0-2 1-3'"),
        ("b i1 i2 i3 cd(1-3) i3'", "0 1 2 3 3'", "0-3'"),
    ],
)
def test_days_that_ended_without_a_daily(text, by_day, expected):
    made = chain(text.replace("|", ""), times=days(by_day))
    assert due(made, WEEK_LATER) == expected.split()


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("03-02 23:59:59", ""),
        ("03-03 00:00:00", "0-2"),
        ("03-03 23:59:59", "0-2"),
        ("03-04 00:00:00", "0-2 2-4"),
    ],
)
def test_a_day_that_still_runs_is_left_alone(now, expected):
    made = chain("b i1 i2 i3 i4", times=days("0 1 2 | 3 4"))
    assert due(made, at(now)) == expected.split()


def test_a_consolidation_that_leaves_a_point_out_is_no_daily():
    made = chain("b i1 i2 i3", times=days("0 1 2 3"))
    leaping = Span("D_VOL-b001-i003-cd.spi", made[0], (made[2], made[3]))
    assert [rollup.upto for rollup in due_dailies([*made.spans, leaping], WEEK_LATER, UTC)] == [made[3]]


def test_a_point_that_is_known_and_cannot_be_merged_does_not_keep_a_day_due():
    made = chain("b diff(0>2) i3 full(0-2)", times=days("0 1 2 3"))
    (rollup,) = due_dailies(made.spans, WEEK_LATER, UTC)
    plan = plan_merge(made.spans, rollup.after, rollup.upto)
    assert made.words(plan.covers) == "2 3"
    daily = Span("D_VOL-b001-i003-cd.spi", plan.start, plan.covers)
    assert due_dailies([*made.spans, daily], WEEK_LATER, UTC) == ()


def test_a_late_arrival_gives_a_daily_of_its_own_reach():
    made = chain("b i1 i2 cd(1-2) i3", times=days("0 1 2 3"))
    assert due(made, WEEK_LATER) == ["0-3"]
    plan = plan_merge(made.spans, made[0], made[3])
    assert made.words(plan.covers) == "1 2 3"


def test_what_is_due_is_told_in_full():
    made = chain("b i1 i2", times=days("0 1 2"))
    (rollup,) = due_dailies(made.spans, WEEK_LATER, UTC)
    assert (rollup.after, rollup.upto) == (made[0], made[2])
    assert rollup.tier is Tier.DAILY
    assert rollup.day == date(2026, 3, 2)
    assert rollup.reason == "2026-03-02 has ended (UTC) and its 2 points are not all in one consolidation yet"


@pytest.mark.parametrize(
    ("zone", "taken", "now", "expected"),
    [
        # the clock goes forward: Sunday has 23 hours, from 23:00 to 22:00 UTC
        (BERLIN, ["03-28 22:30", "03-28 23:00", "03-29 21:59", "03-29 22:00"], "03-29 21:59:59", "0-1"),
        (BERLIN, ["03-28 22:30", "03-28 23:00", "03-29 21:59", "03-29 22:00"], "03-29 22:00:00", "0-1 1-3"),
        # the clock goes back: Sunday has 25 hours, from 22:00 to 23:00 UTC
        (BERLIN, ["10-24 21:59", "10-24 22:00", "10-25 22:59", "10-25 23:00"], "10-25 22:59:59", "0-1"),
        (BERLIN, ["10-24 21:59", "10-24 22:00", "10-25 22:59", "10-25 23:00"], "10-25 23:00:00", "0-1 1-3"),
        (NEW_YORK, ["03-08 04:59", "03-08 05:00", "03-09 03:59", "03-09 04:00"], "03-09 04:00:00", "0-1 1-3"),
        (NEW_YORK, ["11-01 03:59", "11-01 04:00", "11-02 04:59", "11-02 05:00"], "11-02 04:59:59", "0-1"),
        (NEW_YORK, ["11-01 03:59", "11-01 04:00", "11-02 04:59", "11-02 05:00"], "11-02 05:00:00", "0-1 1-3"),
        # the same moments, in a zone where they all lie in one day
        (UTC, ["03-28 22:30", "03-28 23:00", "03-28 23:58", "03-28 23:59"], "03-29 00:00:00", "0-4"),
        (BERLIN, ["03-28 22:30", "03-28 23:00", "03-28 23:58", "03-28 23:59"], "03-29 00:00:00", "0-1"),
    ],
)
def test_days_follow_the_folders_time_zone(zone, taken, now, expected):
    times = {str(number): at(text) for number, text in enumerate(taken, start=1)}
    made = chain("b i1 i2 i3 i4", times={"0": at(taken[0]) - timedelta(hours=1), **times})
    assert due(made, at(now), zone) == expected.split()


def test_a_clock_that_went_back_does_not_reopen_a_day():
    times = days("0 1 | 2 3 4")
    times["3"] = times["1"] - timedelta(days=40)
    made = chain("b i1 i2 i3 i4", times=times)
    assert due(made, WEEK_LATER) == ["0-1", "1-4"]


def test_doing_what_is_due_leaves_nothing_due():
    made = chain("b i1 i2 i3 i4 i5 i6 i2' i3'", times=days("0 1 | 2 3 | 4 2' | | 5 6 3'"))
    spans = list(made.spans)
    planned = due_dailies(spans, WEEK_LATER, UTC)
    assert len(planned) == 6
    for rollup in planned:
        plan = plan_merge(spans, rollup.after, rollup.upto)
        spans.append(Span(f"D{len(spans)}-b001-i{rollup.upto.number:03d}-cd.spi", plan.start, plan.covers))
    assert due_dailies(spans, WEEK_LATER, UTC) == ()


def test_cycles_contradictions_and_the_ends_of_time_end():
    made = chain(
        "b i1 i2 i3", times={"3": datetime.max.replace(tzinfo=UTC), "0": datetime.min.replace(tzinfo=UTC)}
    )
    hostile = [
        *made.spans,
        Span("back.spi", made[3], (made[1],)),
        Span("twice.spi", made[1], (replace(made[2], time=at("12-31 00:00")),)),
    ]
    assert [rollup.upto.number for rollup in due_dailies(hostile, WEEK_LATER, BERLIN)] == [2]


def test_a_year_of_points_every_quarter_of_an_hour_is_quick():
    times = {str(number): at("01-01 00:00") + timedelta(minutes=15 * number) for number in range(35_001)}
    made = chain("b " + " ".join(f"i{number}" for number in range(1, 35_001)), times=times)
    assert len(due_dailies(made.spans, times["35000"], BERLIN)) == 364
