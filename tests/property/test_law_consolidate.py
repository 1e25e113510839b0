"""The law of consolidating: what is merged does what its sources do one by one, and keeps what they keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.ancestry import trace_ancestry
from policies.errors import ChainError, ForkError, MissingPointError
from policies.merging import plan_merge, point_numbered
from policies.reach import forks, tips
from tests.property.byte_model import apply, apply_path, merge, without_hidden
from tests.property.worlds import CHOICES, adjacent_pairs, marked_spans, worlds


@given(worlds(gaps=False))
def test_merging_is_associative(world):
    images = world.images
    for first, second in adjacent_pairs(images):
        for third, newest in enumerate(images):
            if newest.span.start == images[second].span.end:
                x, y, z = images[first], images[second], images[third]
                at_once = merge([x, y, z], "m")
                assert merge([merge([x, y], "s"), z], "m") == at_once
                assert merge([x, merge([y, z], "s")], "m") == at_once
                early = merge([without_hidden(merge([x, y], "s")), z], "m")
                late = merge([x, without_hidden(merge([y, z], "s"))], "m")
                assert without_hidden(early) == without_hidden(late) == without_hidden(at_once)


@given(worlds(gaps=False), CHOICES)
def test_what_is_merged_does_what_its_sources_do_one_by_one(world, garbage):
    for first, second in adjacent_pairs(world.images):
        sources = [world.images[first], world.images[second]]
        merged = merge(sources, "m")
        disks = [world.state(point).disk for point in sources[0].span.held_ids]
        for disk in [*disks, garbage] if merged.span.is_base else disks:
            assert apply(merged, disk) == apply_path(sources, disk)


@given(worlds(gaps=False))
def test_every_granule_that_a_source_holds_is_kept_unless_it_was_beyond_the_end(world):
    for first, second in adjacent_pairs(world.images):
        sources = [world.images[first], world.images[second]]
        kept = without_hidden(merge(sources, "m")).content
        length = len(sources[0].span.covers)
        for offset, source in zip((0, length), sources, strict=True):
            for granule, (origin, value) in without_hidden(source).content.items():
                if granule in kept:
                    newest, now = kept[granule]
                    assert newest > offset + origin or (newest, now) == (offset + origin, value)
                else:
                    sizes = [point.volume_bytes for point in sources[1].span.covers]
                    assert granule * 2 >= min(sizes), "only what lay wholly beyond the end is dropped"


def every_tiling(spans, start, end):
    """Give all sequences of spans that lie end to start from one point to another, by trying them all."""
    here = None if start is None else start.id
    for span in spans:
        if (None if span.start is None else span.start.id) != here:
            continue
        if span.end.id == end.id:
            yield (span,)
        elif not span.assumed:
            yield from ((span, *rest) for rest in every_tiling(spans, span.end, end))


@given(worlds(), st.data())
def test_a_plan_tiles_its_stretch_as_well_as_can_be(world, data):
    spans = data.draw(marked_spans(world))
    known = [span for span in spans if not span.assumed]
    for newer, upto in enumerate(world.states):
        for after in (None, *world.states):
            start = None if after is None else after.point
            tilings = list(every_tiling(known, start, upto.point))
            if not tilings:
                with pytest.raises(ChainError) as caught:
                    plan_merge(spans, start, upto.point)
                is_ancestor = after is None or after in [world.states[i] for i in world.line_to(newer)[:-1]]
                if is_ancestor:
                    assert isinstance(caught.value, MissingPointError)
                continue
            plan = plan_merge(spans, start, upto.point)
            assert plan.start == start
            assert plan.sources in tilings
            assert plan.covers == tuple(point for span in plan.sources for point in span.covers)
            assert merit(plan.sources) == max(merit(tiling) for tiling in tilings)


def merit(tiling):
    return (
        sum(len(span.covers) for span in tiling),
        -len(tiling),
        -sum(span.stored_bytes for span in tiling),
    )


@given(worlds(), CHOICES)
def test_what_was_planned_leads_there(world, garbage):
    for upto in world.states:
        for after in (None, *world.states):
            try:
                plan = plan_merge(world.spans, after and after.point, upto.point)
            except ChainError:
                continue
            merged = merge([world.image(span) for span in plan.sources], "m")
            assert apply(merged, garbage if after is None else after.disk) == upto.disk


@given(worlds(gaps=False, more_max=0), st.data())
def test_forks_are_refused(world, data):
    after = data.draw(st.integers(0, len(world.states) - 1))
    upto = data.draw(st.integers(0, len(world.states) - 1))
    older, newer = world.states[after].point, world.states[upto].point
    if after in world.line_to(upto)[:-1]:
        assert plan_merge(world.spans, older, newer).covers == tuple(
            world.states[index].point for index in world.line_to(upto) if index not in world.line_to(after)
        )
    elif older.number < newer.number:
        with pytest.raises(ForkError):
            plan_merge(world.spans, older, newer)
    else:
        with pytest.raises(MissingPointError):
            plan_merge(world.spans, older, newer)


@given(worlds(gaps=False))
def test_the_tree_is_known_where_nothing_is_missing(world):
    tree = trace_ancestry(world.spans)
    points = [state.point for state in world.states]
    for index, parent in enumerate(world.parents):
        assert tree.parents.get(points[index].id) == (None if parent is None else points[parent])
    children = [world.parents.count(index) for index in range(len(points))]
    assert {fork.point for fork in forks(world.spans)} == {
        point for point, count in zip(points, children, strict=True) if count > 1
    }
    assert set(tips(world.spans)) == {
        point for point, count in zip(points, children, strict=True) if count == 0
    }
    for number in range(8):
        same = [point for point in points if point.number == number]
        if len(same) == 1:
            assert point_numbered(world.spans, number) == same[0]
        else:
            with pytest.raises(ForkError if same else MissingPointError):
                point_numbered(world.spans, number)
