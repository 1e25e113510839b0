"""The law of reach: a point can be restored if and only if spans lead to it from nothing without a gap."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.ancestry import trace_ancestry
from policies.reach import gaps, path_beginning_with, reachable, shortest_path, ways_from_nothing
from tests.property.byte_model import apply_path
from tests.property.worlds import CHOICES, marked_spans, worlds


@given(worlds(more_max=12), st.data())
def test_the_fewest_files_are_found_just_where_there_is_a_way(world, data):
    spans = data.draw(marked_spans(world))
    told = world.tell_tale()
    known = [span.name for span in spans if not span.assumed]
    fewest = told.fewest_files(told.blank, known)
    assert reachable(spans) == set(fewest)
    assert set(ways_from_nothing(spans)) == set(fewest)
    for state in world.states:
        path = shortest_path(spans, state.point.id)
        assert (None if path is None else len(path)) == fewest.get(state.point.id)


@given(worlds(), CHOICES)
def test_the_way_leads_to_exactly_that_state(world, garbage):
    for state in world.states:
        path = shortest_path(world.spans, state.point.id)
        if path is not None:
            assert apply_path([world.image(span) for span in path], garbage) == state.disk


@given(worlds(more_max=12), st.data())
def test_the_same_holds_from_where_a_disk_stands(world, data):
    standing = data.draw(st.sampled_from(world.states))
    told = world.tell_tale()
    spans = data.draw(marked_spans(world))
    known = [span.name for span in spans if not span.assumed]
    fewest = told.fewest_files(told.standing([standing.point.id]), known)
    for state in world.states:
        path = shortest_path(spans, state.point.id, standing.point.id)
        assert (None if path is None else len(path)) == fewest.get(state.point.id)
        if path is not None:
            images = [world.image(span) for span in path]
            assert apply_path(images, standing.disk) == state.disk


@given(worlds(), st.data())
def test_the_order_of_spans_does_not_matter(world, data):
    spans = data.draw(marked_spans(world))
    shuffled = data.draw(st.permutations(spans))
    for state in world.states:
        assert shortest_path(spans, state.point.id) == shortest_path(shuffled, state.point.id)
    assert gaps(spans) == gaps(shuffled)


@given(worlds(), st.data())
def test_of_the_shortest_ways_the_smallest_is_taken(world, data):
    spans = data.draw(marked_spans(world))
    for state in world.states:
        path = shortest_path(spans, state.point.id)
        if path is not None:
            sizes = [
                sum(span.stored_bytes for span in other)
                for other in every_way(spans, state.point.id, len(path))
            ]
            assert sum(span.stored_bytes for span in path) == min(sizes)
            assert path == path_beginning_with(path[:1], spans, state.point.id)


def every_way(spans, target, files):
    """Give all ways of so many files, by trying them all."""
    ways = [((span,), span.end.id) for span in spans if span.is_base and not span.assumed]
    for _ in range(files - 1):
        ways = [
            ((*way, span), span.end.id)
            for way, here in ways
            for span in spans
            if span.holds(here) and span.end.id != here and not span.assumed
        ]
    return [way for way, here in ways if here == target]


@given(worlds(), st.data())
def test_a_gap_is_where_a_line_begins_that_nothing_leads_to(world, data):
    spans = [span for span in data.draw(marked_spans(world)) if not span.assumed]
    restorable = reachable(spans)
    found = gaps(spans)
    stranded = {span.name for span in spans if span.start and span.start.id not in restorable}
    assert bool(found) == bool(stranded)
    for gap in found:
        assert gap.missing.id not in restorable
        assert set(gap.waiting) <= stranded
        assert gap.after is None or gap.after.number < gap.missing.number
        assert gap.bridged == any(
            span.holds(gap.missing.id)
            and gap.missing != span.end
            and gap.missing != span.start
            and (span.is_base or span.held_ids - {span.end.id} & restorable)
            for span in spans
        )
    begins = {gap.missing.id: behind(spans, gap.missing.id) for gap in found}
    explained = set().union(*begins.values())
    assert all(span.start.id in explained for span in spans if span.name in stranded)
    for gap in found:
        others = [begins[other.missing.id] for other in found if other != gap]
        assert all(gap.missing.id not in points for points in others), "one gap does not explain another"
    tree = trace_ancestry(spans)
    for gap in found:
        ancestors = [point for point in tree.line_to(gap.missing) if point.id in restorable]
        if ancestors:
            assert gap.after == ancestors[-1]


def behind(spans, point):
    """Give a point and all that spans lead to from it, each beginning where the one before ends."""
    points = {point}
    for _ in spans:
        points |= {span.end.id for span in spans if span.start and span.start.id in points}
    return points
