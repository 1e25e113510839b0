"""Spans that contradict each other: no answer is promised to make sense, but an answer there is."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from policies.ancestry import trace_ancestry
from policies.chain_facts import ChainFacts
from policies.cursor import Cursor, roll_on_path
from policies.errors import ChainError
from policies.folder_policy import ConsolidationPolicy, FolderPolicy
from policies.holdings import Holding, Whereabouts
from policies.lifecycle import plan_chain
from policies.merging import plan_merge, point_numbered
from policies.points import Point, PointId, Span
from policies.reach import forks, gaps, reachable, shortest_path, tip, tips, ways_from_nothing
from policies.retiring import Promise, judge_retirement
from policies.rollup import due_dailies

MOMENTS = st.datetimes(timezones=st.just(UTC))
PRESENT = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
ROLLING = FolderPolicy(consolidation=ConsolidationPolicy(rolling=True, rolling_after_months=1))


@st.composite
def contradicting_spans(draw: st.DrawFn) -> list[Span]:
    """Draw spans that name the same few points in any order, each time with other numbers, times and sizes."""
    made = []
    for _ in range(draw(st.integers(0, 8))):
        identities = draw(st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True))
        line = [
            Point(
                PointId(hashlib.md5(bytes([identity])).digest()),
                identity if draw(st.booleans()) else draw(st.integers(0, 6)),
                draw(MOMENTS),
                draw(st.integers(0, 1 << 40)),
            )
            for identity in identities
        ]
        is_base = len(line) == 1 or draw(st.booleans())
        name = f"V-b001-i00{draw(st.integers(0, 3))}{draw(st.sampled_from(['', '-cd']))}.spi"
        covers = tuple(line if is_base else line[1:])
        made.append(Span(name, None if is_base else line[0], covers, verified=True))
    return made


@given(contradicting_spans(), MOMENTS, st.data())
def test_every_question_is_answered(spans, now, data):
    points = [point for span in spans for point in (span.start, *span.covers) if point is not None]
    tree = trace_ancestry(spans)
    for point in tree.points.values():
        numbers = [ancestor.number for ancestor in tree.line_to(point)]
        assert numbers == sorted(set(numbers))
    forks(spans), tips(spans), tip(spans)
    restorable = reachable(spans)
    assert restorable == set(ways_from_nothing(spans))
    unreached = [span.start for span in spans if span.start and span.start.id not in restorable]
    assert bool(gaps(spans)) == bool(unreached)
    for rollup in due_dailies(spans, now, UTC):
        plan_merge(spans, rollup.after, rollup.upto)
    if points:
        older, newer = data.draw(st.sampled_from(points)), data.draw(st.sampled_from(points))
        path = shortest_path(spans, newer.id)
        assert (path is not None) == (newer.id in restorable)
        roll_on_path(Cursor((older,)), spans, newer.id)
        roll_on_path(Cursor((older, newer)), spans, newer.id)
        judge_retirement(spans, {span.name for span in spans[:3]}, [Promise(newer, "somebody")])
        with suppress(ChainError):
            plan_merge(spans, older, newer)
        with suppress(ChainError):
            point_numbered(spans, newer.number)


@given(contradicting_spans(), PRESENT, st.data())
def test_every_chain_has_a_plan(spans, now, data):
    holdings = {}
    for span in spans:
        seen, checked = data.draw(PRESENT), data.draw(st.none() | PRESENT)
        place = data.draw(st.sampled_from([*Whereabouts, Whereabouts.PRESENT]))
        fault = data.draw(st.sampled_from([None, None, "bad"]))
        holdings[span.name] = Holding(span, seen, checked, checked, fault, place)
    facts = ChainFacts(
        "V", 1, UTC, tuple(holdings.values()), seen_at={s.end.id: data.draw(MOMENTS) for s in spans}
    )
    policy = data.draw(st.sampled_from([FolderPolicy(), ROLLING]))
    plan = plan_chain(facts, policy, now)
    present = {one.name for one in holdings.values() if one.place is Whereabouts.PRESENT}
    assert {fate.holding.name for fate in plan.fates} == present
    assert not plan.freezes or not plan.retirements
    assert plan.next_due_at is None or plan.next_due_at > now
    assert len({planned.name for planned in plan.consolidations}) == len(plan.consolidations)
    for fate in plan.fates:
        assert fate.reason
    going = {one.name for one in plan.retirements}
    assert all(one.covered_by in present - going for one in plan.retirements)
    assert not going.intersection(source for one in plan.consolidations for source in one.sources)
    assert plan_chain(facts, policy, now) == plan
