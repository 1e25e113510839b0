"""However a disk was torn, its cursor never lets a span be applied that would give wrong bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.cursor import Cursor, next_span, roll_on_path, usable
from tests.property.byte_model import DISK_BYTES, apply, apply_path, capture, merge, state_of, torn, writes
from tests.property.worlds import CHOICES, World, worlds


def check_disk(world: World, disk: bytes, cursor: Cursor) -> None:
    """Hold a disk to its cursor: whatever may be applied to it must give exactly its end."""
    states = [world.state(point).disk for point in cursor.points]
    if states:
        assert all(any(state[place] == disk[place] for state in states) for place in range(DISK_BYTES))
    for image in world.images:
        if usable(cursor, image.span):
            assert apply(image, disk) == world.state(image.span.end).disk


def check_ways_on(world: World, disk: bytes, cursor: Cursor) -> None:
    """Hold a disk to its cursor: each way on that is found must lead there."""
    for state in world.states:
        path = roll_on_path(cursor, world.spans, state.point.id)
        first = next_span(cursor, world.spans, state.point.id)
        assert first == (path[0] if path else None)
        assert first is None or usable(cursor, first)
        if path is not None:
            assert apply_path([world.image(span) for span in path], disk) == state.disk


@given(worlds(gaps=False), CHOICES, st.data())
def test_whatever_is_torn_and_taken_up_again(world, garbage, data):
    disk, cursor = garbage, Cursor.blank()
    for _ in range(data.draw(st.integers(1, 6), "steps")):
        images = [image for image in world.images if usable(cursor, image.span)]
        if not images:
            break
        image = data.draw(st.sampled_from(images), "image")
        wide = cursor.widened(image.span)
        assert usable(wide, image.span)
        match data.draw(st.sampled_from(["whole", "cut", "scattered"]), "how"):
            case "whole":
                disk, cursor = apply(image, disk), cursor.after(image.span)
                assert disk == world.state(image.span.end).disk
            case "cut":
                disk, cursor = data.draw(st.sampled_from(list(writes(image, disk))), "cut"), wide
            case "scattered":
                disk, cursor = torn(image, disk, data.draw(CHOICES, "torn")), wide
        check_disk(world, disk, cursor)
    check_ways_on(world, disk, cursor)


@given(worlds(), st.data())
def test_every_tear_from_every_point(world, data):
    choices = data.draw(CHOICES, "torn")
    for image in world.images:
        for point in image.span.held_ids:
            state = world.state(point)
            wide = Cursor.closed(state.point).widened(image.span)
            for left in [*writes(image, state.disk), torn(image, state.disk, choices)]:
                check_disk(world, left, wide)


def test_holding_both_ends_of_a_tear_is_not_enough():
    """While the volume was small, what lay beyond its end was zero: a torn disk may show that, and only that."""
    full, small, again = (
        state_of(b"a", 0, b"\1" * 24),
        state_of(b"b", 1, b"\1" * 11),
        state_of(b"c", 2, b"\1" * 24),
    )
    merged = merge([capture(full, small, "i1"), capture(small, again, "i2")], "c")
    leap = capture(full, again, "d")
    left = list(writes(merged, full.disk))[1]
    assert apply(leap, left) != again.disk
    wide = Cursor.closed(full.point).widened(merged.span)
    assert wide.points == (full.point, small.point, again.point)
    assert leap.span.holds(full.point.id, again.point.id)
    assert not usable(wide, leap.span)
    assert apply(merged, left) == again.disk
