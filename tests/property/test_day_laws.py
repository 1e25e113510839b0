"""Days and dailies: every moment has its day, and doing what is due leaves nothing due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from policies.ancestry import trace_ancestry
from policies.calendar import day_bounds, day_of
from policies.control import control_at
from policies.folder_policy import ControlPolicy
from policies.merging import plan_merge
from policies.points import Span
from policies.rollup import due_dailies
from tests.property.worlds import worlds

ZONES = st.sampled_from(
    [
        ZoneInfo(name)
        for name in (
            "UTC",
            "Europe/Berlin",
            "America/New_York",
            "America/St_Johns",
            "America/Sao_Paulo",
            "Africa/Cairo",
            "Asia/Kathmandu",
            "Australia/Lord_Howe",
            "Pacific/Apia",
        )
    ]
)


@given(st.datetimes(timezones=st.just(UTC)), ZONES)
def test_a_moment_lies_within_its_day(moment, zone):
    start, end = day_bounds(day_of(moment, zone), zone)
    assert start <= moment < end or moment > datetime.max.replace(tzinfo=UTC) - timedelta(days=2)


@given(
    st.datetimes(datetime(1980, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    ZONES,
    st.times(),
)
def test_the_daily_work_begins_once_in_each_day_and_is_never_long_ago(moment, zone, at):
    control = control_at(moment, ControlPolicy(at=at.replace(second=0, microsecond=0)), zone)
    assert control.as_of is not None
    following = control.first_from(moment + timedelta(microseconds=1))
    assert control.as_of <= moment < following
    assert following - control.as_of <= timedelta(hours=49)
    for begins in (control.as_of, following):
        day = day_of(begins, zone)
        assert day_bounds(day, zone)[0] <= begins < day_bounds(day, zone)[1]
        again = control_at(begins, control.policy, zone)
        assert again.as_of == begins
        assert control_at(begins - timedelta(microseconds=1), control.policy, zone).as_of < begins


@given(worlds(days=True), ZONES, st.integers(0, 200))
def test_what_is_due_can_be_done_and_is_then_no_longer_due(world, zone, hours):
    now = world.states[0].point.time + timedelta(hours=hours)
    spans = list(world.spans)
    due = due_dailies(spans, now, zone)
    assert len({(rollup.after, rollup.upto) for rollup in due}) == len(due)
    for rollup in due:
        plan = plan_merge(spans, rollup.after, rollup.upto)
        for point in plan.covers:
            assert day_of(point.time, zone) == rollup.day
        assert day_bounds(rollup.day, zone)[1] <= now
        spans.append(Span(f"{rollup.upto.id.hex()}-b001-i001-cd.spi", plan.start, plan.covers))
    assert due_dailies(spans, now, zone) == ()


@given(worlds(gaps=False, more_max=0, days=True), ZONES)
def test_with_nothing_missing_every_point_gets_into_a_daily(world, zone):
    now = world.states[-1].point.time + timedelta(days=3)
    spans = world.spans
    covered = {
        point.id
        for rollup in due_dailies(spans, now, zone)
        for point in plan_merge(spans, rollup.after, rollup.upto).covers
    }
    tree = trace_ancestry(spans)
    assert covered == set(tree.parents)
