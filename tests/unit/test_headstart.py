"""Where a HeadStart disk may be, when, and what holds it up: stories with times and points by name."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from policies.cursor import Cursor
from policies.headstart import DiskFacts, DiskPlan, DiskState, lag_text, parse_lag, plan_disk
from policies.holdings import Holding, Whereabouts
from policies.points import Point, Span
from tests.checks.life import base_of, incremental, point

MORNING = datetime(2026, 3, 2, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
POINTS = tuple(point(number, MORNING + number * HOUR) for number in range(8))
NOON = MORNING + 6 * HOUR


def good(span: Span, seen_at: datetime | None = None) -> Holding:
    seen = seen_at or span.end.time
    return Holding(replace(span, verified=True), seen, seen, seen)


def chain(upto: int) -> list[Holding]:
    """Give a base and an incremental each hour, all seen and verified when they were taken."""
    steps = [incremental(POINTS[number - 1], POINTS[number]) for number in range(1, upto + 1)]
    return [good(base_of(POINTS[0])), *(good(span) for span in steps)]


def plan(
    holdings: list[Holding], stands_at: int | None, now: datetime = NOON, lag: timedelta = HOUR
) -> DiskPlan:
    cursor = Cursor.blank() if stands_at is None else Cursor.closed(POINTS[stands_at])
    return plan_disk(DiskFacts(cursor, tuple(holdings), lag), now)


def names(found: DiskPlan) -> list[str]:
    return [span.name for span in found.path]


def rolled_up(first: int, last: int) -> Span:
    name = f"D_VOL-b001-i{last:03d}-cd.spi"
    return Span(name, POINTS[first], POINTS[first + 1 : last + 1])


def test_the_first_build_leads_to_the_newest_point_that_is_due():
    found = plan(chain(5), None, MORNING + 4 * HOUR, 2 * HOUR)
    assert found.goal == POINTS[2]
    assert names(found) == ["D_VOL-b001.spf", "D_VOL-b001-i001.spi", "D_VOL-b001-i002.spi"]
    assert (found.state, found.target) == (DiskState.BUILDING, POINTS[5])
    assert found.next_due_at == POINTS[3].time + 2 * HOUR


def test_a_base_is_built_at_once_whatever_the_lag():
    found = plan(chain(0), None, MORNING, timedelta(days=30))
    assert found.goal == POINTS[0]


def test_a_build_under_way_goes_on_to_the_point_that_it_was_begun_for():
    facts = DiskFacts(Cursor.blank(), tuple(chain(5)), building=POINTS[2].id)
    assert plan_disk(facts, NOON).goal == POINTS[2]


def test_a_point_is_due_when_its_lag_has_passed():
    holdings = chain(3)
    assert plan(holdings, 2, POINTS[3].time + HOUR - timedelta(seconds=1)).state is DiskState.WAITING
    due = plan(holdings, 2, POINTS[3].time + HOUR)
    assert (due.state, due.goal) == (DiskState.ROLLING, POINTS[3])
    assert due.due_since == POINTS[3].time + HOUR
    assert plan(holdings, 3).state is DiskState.UP_TO_DATE


def test_lag_counts_from_when_a_point_was_seen_if_that_was_later():
    """A point that was captured yesterday and landed now may be what somebody slipped in: its lag begins now."""
    late = [*chain(2), good(incremental(POINTS[2], POINTS[3]), NOON)]
    assert plan(late, 2, NOON + HOUR - timedelta(seconds=1)).goal is None
    assert plan(late, 2, NOON + HOUR).goal == POINTS[3]


def test_lag_counts_from_when_a_point_was_seen_if_its_stamp_lies_after_that():
    ahead = replace(POINTS[3], time=NOON + timedelta(days=300))
    holdings = [*chain(2), good(incremental(POINTS[2], ahead), MORNING + 3 * HOUR)]
    assert plan(holdings, 2, MORNING + 4 * HOUR).goal == ahead


def test_the_fewest_files_are_taken():
    holdings = [*chain(5), good(rolled_up(0, 5))]
    assert names(plan(holdings, 3, lag=timedelta(0))) == ["D_VOL-b001-i005-cd.spi"]


def test_a_disk_rolls_on_over_images_that_are_gone():
    held = [one for one in chain(7) if one.span.end.number not in (4, 5)]
    found = plan([*held, good(rolled_up(0, 5))], 3, MORNING + 9 * HOUR)
    assert names(found) == ["D_VOL-b001-i005-cd.spi", "D_VOL-b001-i006.spi", "D_VOL-b001-i007.spi"]


def test_a_roll_up_whose_end_is_not_due_is_waited_for():
    held = [one for one in chain(3) if one.span.end.number < 4]
    found = plan([*held, good(rolled_up(0, 5))], 3, POINTS[4].time + HOUR)
    assert (found.state, found.goal, found.due_since) == (DiskState.WAITING, None, None)


def test_a_base_is_never_applied_to_a_disk_that_stands_somewhere():
    full = good(Span("D_VOL-b001-i005.spf", None, POINTS[:6]))
    gap = [one for one in chain(5) if one.span.end.number != 3]
    found = plan([*gap, full], 2)
    assert found.goal is None
    assert found.state is DiskState.STOPPED
    assert "no verified images lead from point 2" in found.reason


@pytest.mark.parametrize(
    ("trouble", "state", "said"),
    [
        (lambda one: replace(one, fault="a digest differs"), DiskState.STOPPED, "is bad: a digest differs"),
        (lambda one: replace(one, place=Whereabouts.GONE), DiskState.STOPPED, "is gone"),
        (
            lambda one: Holding(replace(one.span, verified=False), one.first_seen_at),
            DiskState.UNPROVEN,
            "has not been verified",
        ),
        (
            lambda one: replace(one, span=replace(one.span, assumed=True)),
            DiskState.STOPPED,
            "is in a container that cannot be read",
        ),
    ],
)
def test_what_stands_in_the_way_is_named(trouble, state, said):
    holdings = chain(4)
    holdings[3] = trouble(holdings[3])
    found = plan(holdings, 2)
    assert (found.goal, found.state) == (None, state)
    assert f"D_VOL-b001-i003.spi {said}" in found.reason
    assert found.behind(NOON) >= NOON - (POINTS[4].time + HOUR)
    assert plan([*holdings, good(rolled_up(0, 4))], 2).goal == POINTS[4]


def test_a_volume_that_outgrew_its_disk_needs_a_fresh_build():
    grown = replace(POINTS[3], volume_bytes=POINTS[3].volume_bytes * 2)
    holdings = (*chain(2), good(incremental(POINTS[2], grown)))
    facts = DiskFacts(Cursor.closed(POINTS[2]), holdings, capacity_bytes=POINTS[2].volume_bytes)
    found = plan_disk(facts, NOON)
    assert found.state is DiskState.NEEDS_FRESH
    assert "outgrown" in found.reason


def test_a_machine_that_goes_on_from_an_older_point_needs_a_fresh_build():
    other = Point(point(3, NOON, "other").id, 3, NOON, POINTS[0].volume_bytes)
    fork = good(Span("D_VOL-b001-i003-x.spi", POINTS[2], (other,)))
    found = plan([*chain(4), fork], 4, NOON + 2 * HOUR)
    assert found.state is DiskState.NEEDS_FRESH
    assert plan([*chain(4), fork], 2, NOON + 2 * HOUR).goal == other


def test_a_torn_disk_is_mended_before_its_next_point_is_due():
    span = rolled_up(3, 5)
    torn = Cursor.closed(POINTS[3]).widened(span)
    found = plan_disk(DiskFacts(torn, (*chain(3), good(span))), MORNING)
    assert names(found) == [span.name]
    lost = plan_disk(DiskFacts(torn, tuple(chain(6))), NOON)
    assert (lost.goal, lost.state) == (None, DiskState.STOPPED)
    assert "between two points" in lost.reason


def test_a_newest_image_that_is_gone_is_missed():
    holdings = chain(4)
    holdings[4] = replace(holdings[4], place=Whereabouts.GONE)
    found = plan(holdings, 3)
    assert found.state is DiskState.STOPPED
    assert "i004.spi is gone" in found.reason


def test_a_disk_whose_chain_is_gone_says_so():
    found = plan([], 3)
    assert (found.state, found.goal, found.target) == (DiskState.UP_TO_DATE, None, POINTS[3])


def test_words_for_lags():
    assert [parse_lag(words) for words in ("0", "1h", "23h", "24h", "1d", "30d", "31d", "x", "")] == [
        timedelta(0),
        HOUR,
        23 * HOUR,
        None,
        24 * HOUR,
        30 * 24 * HOUR,
        None,
        None,
        None,
    ]
    assert [lag_text(one) for one in (timedelta(0), 5 * HOUR, 48 * HOUR)] == ["0", "5h", "2d"]
