"""Which weeklies, monthlies and rolling images are due, and which of them can be made."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from policies.calendar import MonthEnd, Weekday
from policies.consolidating import Consolidations, Surroundings, plan_consolidations
from policies.folder_policy import ConsolidationPolicy
from policies.holdings import TIERS, tier_of
from policies.names import Tier
from policies.points import Span
from policies.rollup import plan_rollups, tiers_in_use
from policies.timeline import Timeline, trace_timeline
from tests.notation import Chain, chain, word_name

POLICY = ConsolidationPolicy()
YEARLY = ConsolidationPolicy(rolling=True, rolling_after_months=2)
GROWING = replace(YEARLY, rolling_yearly=False)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def taken(text: str) -> dict[str, datetime]:
    """Read "0@2026-01-01 1@2026-01-02": points, each at noon of its day."""
    return {
        word: at(f"{day} 12:00") + timedelta(minutes=place)
        for place, (word, _, day) in enumerate(part.partition("@") for part in text.split())
    }


def placed(made: Chain, extra: tuple[Span, ...] = ()) -> Timeline:
    return trace_timeline([*made.spans, *extra], UTC)


def due(timeline: Timeline, now: str, policy: ConsolidationPolicy = POLICY) -> list[str]:
    """Say what is due: "cw 0-3" for a weekly from point 0 to 3."""
    ranks = {span.name: TIERS.index(tier_of(span)) for span in timeline.tree.spans}
    rollups = plan_rollups(timeline, ranks, policy, at(now), tiers_in_use(policy))
    return [f"{one.tier.suffix[1:]} {one.after.number}-{one.upto.number}" for one in rollups.due]


# 1 January 2026 is a Thursday, and so the weeks end on the 3rd, 10th, 17th, 24th and 31st.
WEEK = "0@2026-01-01 1@2026-01-01 2@2026-01-02 3@2026-01-05 4@2026-01-06"
MONTHS = "0@2026-01-01 1@2026-01-20 2@2026-02-10 3@2026-03-10 4@2026-04-10"


@pytest.mark.parametrize(
    ("text", "points", "now", "expected"),
    [
        ("b i1 i2 i3 i4", WEEK, "2026-01-03 12:00", "cd 0-1, cd 1-2"),
        ("b i1 i2 i3 i4", WEEK, "2026-01-04 00:00", "cd 0-1, cd 1-2, cw 0-2"),
        ("b cd(1-1) cd(2-2) i3 i4", WEEK, "2026-01-04 00:00", "cw 0-2"),
        ("b cd(1-1) cd(2-2) cw(1-2) i3 i4", WEEK, "2026-01-04 00:00", ""),
        ("b cw(1-2) cd(3-3) cd(4-4)", WEEK, "2026-01-11 00:00", "cw 2-4"),
        # a week with a single daily is rolled up too; a daily that holds a whole week is no weekly
        ("b cd(1-1) i2", "0@2026-01-01 1@2026-01-02 2@2026-01-06", "2026-01-06 13:00", "cw 0-1"),
        ("b cd(1-2)", "0@2026-01-01 1@2026-01-02 2@2026-01-02", "2026-01-06 13:00", "cw 0-2"),
        # a monthly holds its days and weeks
        ("b cm(1-2)", "0@2026-01-01 1@2026-01-02 2@2026-01-06", "2026-02-01 00:00", ""),
        # weeks end with the month
        (
            "b cd(1-1) cd(2-2)",
            "0@2026-03-29 1@2026-03-31 2@2026-04-01",
            "2026-04-05 00:00",
            "cw 0-1, cw 1-2, cm 0-1",
        ),
        # missed months are caught up, each by itself, oldest first
        ("b cw(1-1) cw(2-2) cw(3-3) i4", MONTHS, "2026-04-09 00:00", "cm 0-1, cm 1-2, cm 2-3"),
        ("b cm(1-1) cw(2-2) cw(3-3) i4", MONTHS, "2026-04-09 00:00", "cm 1-2, cm 2-3"),
        # the source was off for a whole week, and a whole month: nothing is made of nothing
        ("b cw(1-1) cw(2-2)", "0@2026-01-01 1@2026-01-02 2@2026-03-03", "2026-04-01 00:00", "cm 0-1, cm 1-2"),
        # forks: each line has its own
        ("b cd(1-1) cd(2-2) i2'", "0@2026-01-01 1@2026-01-02 2@2026-01-05 2'@2026-01-05", "2026-01-11 00:00",
         "cd 1-2, cw 0-1, cw 1-2, cw 1-2"),
        # a gap keeps what lies before it and what lies behind it apart
        ("b i1 i3 i4", WEEK, "2026-01-11 00:00", "cd 0-1, cd 2-3, cd 3-4, cw 0-1, cw 2-4"),
    ],
)  # fmt: skip
def test_weeklies_and_monthlies(text, points, now, expected):
    assert ", ".join(due(placed(chain(text, times=taken(points))), now)) == expected


@pytest.mark.parametrize(
    ("policy", "text", "now", "expected"),
    [
        (YEARLY, "b cm(1-1) cm(2-2) cm(3-3) cm(4-4)", "2026-12-31 00:00", ""),
        (YEARLY, "b cm(1-1) cm(2-2) cm(3-3) cm(4-4)", "2027-02-28 23:59", ""),
        (YEARLY, "b cm(1-1) cm(2-2) cm(3-3) cm(4-4)", "2027-03-01 00:00", "cr 0-4"),
        (YEARLY, "b cm(1-1) cm(2-2) cm(3-3) cm(4-4) cr(1-4)", "2027-03-01 00:00", ""),
        (GROWING, "b cm(1-1) cm(2-2) cm(3-3)", "2026-03-31 23:59", ""),
        (GROWING, "b cm(1-1) cm(2-2) cm(3-3)", "2026-04-01 00:00", "cr 0-1"),
        (GROWING, "b cm(1-1) cm(2-2) cm(3-3)", "2026-04-28 23:59", "cr 0-1"),
        (GROWING, "b cm(1-1) cm(2-2) cm(3-3)", "2026-04-29 00:00", "cr 0-2"),
        (GROWING, "b cr(1-1) cm(2-2) cm(3-3)", "2026-06-01 00:00", "cr 0-3"),
        (GROWING, "b cr(1-3)", "2026-06-01 00:00", ""),
        (POLICY, "b cm(1-1) cm(2-2) cm(3-3)", "2036-06-01 00:00", ""),
    ],
)
def test_rolling_images(policy, text, now, expected):
    assert ", ".join(due(placed(chain(text, times=taken(MONTHS))), now, policy)) == expected


def test_years_are_rolled_up_one_by_one():
    made = chain(
        "b cm(1-1) cm(2-2) cm(3-3)", times=taken("0@2024-01-01 1@2024-12-10 2@2025-01-10 3@2025-12-10")
    )
    assert due(placed(made), "2026-05-01 00:00", YEARLY) == ["cr 0-1", "cr 1-3"]


def test_other_ends_of_weeks_and_months():
    policy = ConsolidationPolicy(week_end=Weekday.TUESDAY, month_end=MonthEnd(15))
    made = chain("b cd(1-1) cd(2-2)", times=taken("0@2026-01-08 1@2026-01-15 2@2026-01-16"))
    assert due(placed(made), "2026-01-16 00:00", policy) == ["cw 0-1", "cm 0-1"]
    assert due(placed(made), "2026-01-21 00:00", policy) == ["cw 0-1", "cw 1-2", "cm 0-1"]


def test_a_week_whose_end_was_moved_is_made_of_what_there_is():
    """Its days are gone already: the new week begins where some image does."""
    made = chain("b cw(1-2) cd(3-3) cd(4-4)", times=taken(WEEK))
    policy = ConsolidationPolicy(week_end=Weekday.THURSDAY)
    assert due(placed(made), "2026-01-09 00:00", policy) == ["cw 0-4"]


def test_reasons_are_told_in_words():
    made = chain("b cd(1-1) cd(2-2)", times=taken("0@2026-01-01 1@2026-01-02 2@2026-01-03"))
    timeline = placed(made)
    ranks = {span.name: TIERS.index(tier_of(span)) for span in timeline.tree.spans}
    rollups = plan_rollups(timeline, ranks, POLICY, at("2026-02-01 00:00"), tiers_in_use(POLICY))
    assert [one.reason for one in rollups.due] == [
        "the week 2026-01-01 to 2026-01-03 has ended (UTC) and its 2 points are not all in one weekly image yet",
        "the month 2026-01-01 to 2026-01-31 has ended (UTC) and its 2 points are not all in one monthly image yet",
    ]
    early = plan_rollups(timeline, ranks, POLICY, at("2026-01-03 12:00"), tiers_in_use(POLICY))
    assert early.due == ()
    assert early.next_close_at == at("2026-01-04 00:00")


# --- what can be made


def planned(made: Chain, now: str, *, policy=POLICY, **around) -> Consolidations:
    timeline = placed(made)
    ranks = {span.name: TIERS.index(tier_of(span)) for span in timeline.tree.spans}
    rollups = plan_rollups(timeline, ranks, policy, at(now), tiers_in_use(policy))
    proven = {span.name for span in made.spans if span.verified}
    told = {"taken": {span.name: "it is there" for span in made.spans}, "blocked": {}} | around
    return plan_consolidations(rollups.due, timeline, Surroundings("D_VOL", 1, proven, **told))


def test_a_weekly_waits_for_its_dailies_and_is_then_made_of_them():
    made = chain("b cd(1-1) i2 i3 i4", times=taken(WEEK))
    found = planned(made, "2026-01-04 00:00")
    assert [one.name for one in found.ready] == [word_name("cd(2-2)")]
    assert [(one.subject, one.reason) for one in found.waits] == [
        (word_name("cw(1-2)"), "the daily of 2026-01-02 comes first")
    ]
    assert found.sources == {word_name("i2"): word_name("cd(2-2)")}
    unverified = planned(chain("b cd(1-1) cd(2-2)~ i2 i3 i4", times=taken(WEEK)), "2026-01-04 00:00")
    assert unverified.ready == ()
    assert unverified.unproven == {word_name("cd(2-2)")}
    assert unverified.waits[0].reason == f"verification of {word_name('cd(2-2)')} comes first"
    done = planned(chain("b cd(1-1) cd(2-2) i1 i2 i3 i4", times=taken(WEEK)), "2026-01-04 00:00")
    assert [(one.name, one.sources) for one in done.ready] == [
        (word_name("cw(1-2)"), (word_name("cd(1-1)"), word_name("cd(2-2)")))
    ]


def test_a_daily_that_cannot_be_made_does_not_keep_the_week_back():
    made = chain("b cd(1-1) i2 i3 i4", times=taken(WEEK))
    name = word_name("cd(2-2)")
    for around in ({"blocked": {name: "quarantined"}}, {"taken": {name: "something else"}}):
        found = planned(made, "2026-01-04 00:00", **around)
        assert [one.name for one in found.ready] == [word_name("cw(1-2)")]
        assert found.ready[0].sources == (word_name("cd(1-1)"), word_name("i2"))
        assert [one.subject for one in found.waits] == [name]


def test_everything_waits_for_a_clock_that_can_be_trusted():
    found = planned(chain("b i1 i2 i3 i4", times=taken(WEEK)), "2026-02-01 00:00", suspended="a good clock")
    assert found.ready == ()
    assert {one.reason for one in found.waits} == {"a good clock"}


def test_two_lines_do_not_get_results_of_one_name():
    made = chain("b i1 i2 i2'", times=taken("0@2026-01-01 1@2026-01-01 2@2026-01-01 2'@2026-01-01"))
    found = planned(made, "2026-01-02 00:00")
    assert [one.name for one in found.ready] == [word_name("cd(1-2)")]
    assert [one.reason for one in found.waits] == [
        "its name is taken: another line has a result of this name"
    ]


def test_what_stands_on_a_differential_says_so():
    made = chain("b diff(0>2) i3", times=taken("0@2026-01-01 2@2026-01-01 3@2026-01-02"))
    names = [one.name for one in planned(made, "2026-01-03 00:00").ready]
    assert names == ["D_VOL-b001-i002-cd.spi", "D_VOL-b001-i003-cd.spi"]


def test_tiers_in_use():
    assert tiers_in_use(POLICY) == (Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY)
    assert tiers_in_use(YEARLY)[-1] is Tier.ROLLING
