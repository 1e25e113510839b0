"""Wherever a HeadStart disk is sent, it may be by then, it gets there exactly, and nothing that it needs goes."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from policies.ancestry import trace_ancestry
from policies.cursor import Cursor, roll_on_path
from policies.headstart import (
    DiskFacts,
    DiskState,
    counted_times,
    lag_text,
    parse_lag,
    plan_disk,
    reachable_later,
)
from policies.holdings import Holding, Whereabouts
from policies.retiring import Promise, judge_retirement
from tests.property.byte_model import DISK_BYTES, apply_path
from tests.property.worlds import START, World, worlds

SEEDS = st.integers(0, (1 << 48) - 1)
HOUR = timedelta(hours=1)
LAGS = st.sampled_from([timedelta(0), HOUR, 5 * HOUR, timedelta(days=2)])


def some_holdings(world: World, chance: random.Random, trouble: float) -> tuple[Holding, ...]:
    """Have the images of a world be there, some of them late, bad, unverified, gone or set aside."""
    found = []
    for span in world.spans:
        seen = START + timedelta(minutes=chance.randrange(12 * 60))
        fate = chance.random()
        one = Holding(replace(span, verified=True), seen, seen + HOUR / 60, seen + HOUR / 60)
        if fate < trouble:
            kind = chance.randrange(4)
            if kind == 0:
                one = replace(one, fault="a digest differs", span=span)
            elif kind == 1:
                one = Holding(span, seen)
            elif kind == 2:
                one = replace(one, place=Whereabouts.GONE)
            else:
                one = replace(one, place=Whereabouts.ASIDE)
        found.append(one)
    return tuple(found)


@given(worlds(), SEEDS, LAGS, st.sampled_from([0.0, 0.3]))
def test_a_disk_goes_only_where_it_may_be_and_gets_there(world, seed, lag, trouble):
    chance = random.Random(seed)
    holdings = some_holdings(world, chance, trouble)
    tree = trace_ancestry(one.span for one in holdings if one.is_present)
    times = counted_times(holdings, tree)
    cursor, disk, now = Cursor.blank(), bytes(range(DISK_BYTES)), START
    for _ in range(12):
        now += chance.choice([HOUR / 2, 3 * HOUR, timedelta(days=1)])
        plan = plan_disk(DiskFacts(cursor, holdings, lag), now)
        if plan.goal is None:
            continue
        was_blank = cursor.is_blank
        assert times[plan.goal.id] + lag <= now or was_blank
        assert was_blank or cursor.points[-1].id in {one.id for one in tree.line_to(plan.goal)}
        assert was_blank or not any(span.is_base for span in plan.path)
        assert all(span.verified for span in plan.path)
        disk = apply_path([world.image(span) for span in plan.path], disk)
        assert disk == world.state(plan.goal).disk
        cursor = Cursor.closed(plan.goal)
        again = plan_disk(DiskFacts(cursor, holdings, lag), now)
        assert again.goal is None
        assert again.state not in (DiskState.BUILDING, DiskState.ROLLING, DiskState.EMPTY)


@given(worlds(), SEEDS)
def test_a_torn_disk_is_mended_or_says_so(world, seed):
    chance = random.Random(seed)
    holdings = some_holdings(world, chance, 0.3)
    for one in holdings:
        if not one.is_proven or one.span.start is None:
            continue
        torn = Cursor.closed(one.span.start).widened(one.span)
        plan = plan_disk(DiskFacts(torn, holdings), START + timedelta(days=9))
        if plan.goal is None:
            assert plan.state in (DiskState.STOPPED, DiskState.UNPROVEN, DiskState.NEEDS_FRESH)
            assert plan.reason
        else:
            assert all(plan.path[0].holds(point.id) for point in torn.points)
        assert plan.goal is not None or not reachable_later(torn, holdings)


@given(worlds(), SEEDS, LAGS)
def test_what_a_plan_rests_on_is_never_retired(world, seed, lag):
    """Claimed as a plan says, a disk can be rolled on to the newest point, whatever else goes."""
    chance = random.Random(seed)
    holdings = some_holdings(world, chance, 0.2)
    now = START + timedelta(days=1)
    first = plan_disk(DiskFacts(Cursor.blank(), holdings, lag), now)
    cursor = Cursor.blank() if first.goal is None else Cursor.closed(first.goal)
    plan = plan_disk(DiskFacts(cursor, holdings, lag), now)
    if plan.target is None:
        return
    spans = [one.span for one in holdings if one.is_proven]
    names = [span.name for span in spans if chance.random() < 0.5]
    promise = Promise(plan.target, "the HeadStart job", cursor)
    if not judge_retirement(spans, names, [promise]).allowed:
        return
    left = [span for span in spans if span.name not in names]
    assert roll_on_path(cursor, left, plan.target.id) is not None


@given(st.integers(0, 40), st.sampled_from(["h", "d"]))
def test_a_lag_is_read_as_it_is_written(number, unit):
    lag = parse_lag(f"{number}{unit}")
    allowed = number == 0 or number <= (23 if unit == "h" else 30)
    assert (lag is not None) == allowed
    assert lag is None or parse_lag(lag_text(lag)) == lag


@given(st.text(max_size=4))
def test_words_that_are_no_lag_are_none(words):
    lag = parse_lag(words)
    assert lag is None or timedelta(0) <= lag <= timedelta(days=30)
