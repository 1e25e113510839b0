"""The law of retiring: a set may go just when every promise still holds without the whole of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.cursor import Cursor
from policies.retiring import Promise, judge_retirement
from tests.property.worlds import World, marked_spans, worlds


@st.composite
def promise_lists(draw: st.DrawFn, world: World) -> list[Promise]:
    """Draw promises: points to be restored, and disks, closed or torn, to be rolled on."""
    made = []
    for number in range(draw(st.integers(1, 4))):
        index = draw(st.integers(0, len(world.states) - 1))
        point = world.states[index].point
        kind = draw(st.sampled_from(["restore", "blank", "closed", "torn"]))
        standing = None
        if kind == "blank":
            standing = Cursor.blank()
        elif kind == "closed":
            standing = Cursor.closed(world.states[draw(st.sampled_from(world.line_to(index)))].point)
        elif kind == "torn":
            span = draw(st.sampled_from(world.spans)) if world.spans else None
            line = () if span is None else span.covers if span.start is None else (span.start, *span.covers)
            chosen = draw(st.lists(st.booleans(), min_size=len(line), max_size=len(line)))
            standing = Cursor(tuple(p for p, taken in zip(line, chosen, strict=True) if taken))
        made.append(Promise(point, f"somebody {number}", standing))
    return made


def holds(world: World, names: list[str], promise: Promise) -> bool:
    """Tell from the tell-tale volume whether a promise holds with the images of these names."""
    told = world.tell_tale()
    disk = told.blank
    if promise.standing is not None and not promise.standing.is_blank:
        disk = told.standing([point.id for point in promise.standing.points])
    return promise.point.id in told.fewest_files(disk, names)


@given(worlds(), st.data())
def test_a_set_is_allowed_just_when_every_promise_holds_without_it(world, data):
    spans = data.draw(marked_spans(world))
    names = [span.name for span in spans]
    removals = data.draw(st.frozensets(st.sampled_from(names))) if names else frozenset()
    promised = data.draw(promise_lists(world))
    proven = [span.name for span in spans if span.verified and not span.assumed]
    remaining = [name for name in proven if name not in removals]

    verdict = judge_retirement(spans, removals, promised)

    expected = [promise for promise in promised if not holds(world, remaining, promise)]
    assert [broken.promise for broken in verdict.broken] == expected
    assert verdict.allowed == (not expected)
    for broken in verdict.broken:
        held_before = holds(world, proven, broken.promise)
        assert (broken.lost in removals) if held_before else broken.lost is None
        assert broken.promise.needed_by in broken.reason


@given(worlds(), st.data())
def test_sparing_what_the_verdict_names_keeps_every_promise_that_holds_now(world, data):
    spans = data.draw(marked_spans(world))
    promised = data.draw(promise_lists(world))
    removals = {span.name for span in spans}
    verdict = judge_retirement(spans, removals, promised)
    assert verdict.spare <= removals
    now = [span.name for span in spans if span.verified and not span.assumed]
    then = [name for name in now if name in verdict.spare]
    for promise in promised:
        assert holds(world, then, promise) == holds(world, now, promise)
