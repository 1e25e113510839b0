"""The law of applying: a mixture of a span's points, zeroed and written over, is exactly the span's end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.property.byte_model import (
    DISK_BYTES,
    Image,
    apply,
    capture,
    merge,
    mixture,
    state_of,
    torn,
    without_hidden,
    writes,
)
from tests.property.worlds import CHOICES, World, worlds


def draw_disk(data: st.DataObject, world: World, image: Image) -> bytes:
    """Draw a disk that the image may be applied to: any at all for a base."""
    choices = data.draw(CHOICES, "disk")
    if image.span.is_base:
        return choices
    disks = [world.state(point).disk for point in sorted(image.span.held_ids)]
    return mixture(disks, choices)


@given(worlds(), st.data())
def test_any_mixture_becomes_the_end(world, data):
    for image in world.images:
        disk = draw_disk(data, world, image)
        end = world.state(image.span.end).disk
        assert apply(image, disk) == end
        assert apply(image, apply(image, disk)) == end
        assert apply(without_hidden(image), disk) == end


@given(worlds(gaps=False), st.data())
def test_what_is_torn_is_repaired_by_the_same_span_or_a_wider_one(world, data):
    for image in world.images:
        disk = draw_disk(data, world, image)
        left = [*writes(image, disk), torn(image, disk, data.draw(CHOICES, "torn"))]
        for other in world.images:
            is_as_wide = other.span.held_ids >= image.span.held_ids
            if is_as_wide and (other.span.is_base or not image.span.is_base):
                end = world.state(other.span.end).disk
                assert all(apply(other, disk) == end for disk in left)


def test_a_value_from_before_the_volume_shrank_does_not_come_back():
    before = state_of(b"a", 0, b"\1" * 24)
    full = state_of(b"b", 1, b"\2" * 24)
    small = state_of(b"c", 2, b"\2" * 11)
    grown = state_of(b"d", 3, b"\2" * 11 + bytes(13))
    line = [capture(before, full, "i1"), capture(full, small, "i2"), capture(small, grown, "i3")]
    merged = merge(line, "c")
    assert merged.span.zero_from_bytes == 11
    assert merged.cut_bytes(0) == 11
    assert sorted(merged.content) == list(range(12))
    assert sorted(merged.visible()) == list(range(6)), "the granule in which the volume ended still counts"
    assert apply(merged, before.disk) == grown.disk
    everything = {granule: (2, value) for granule, (_, value) in merged.content.items()}
    assert apply(Image(merged.span, everything), before.disk) != grown.disk, "the cut is needed"


def test_a_base_that_was_torn_is_repaired_by_no_incremental():
    first, second = state_of(b"a", 0, b"\1" * 24), state_of(b"b", 1, b"\1" * 23 + b"\2")
    base = merge([capture(None, first, "b"), capture(first, second, "i1")], "full")
    zeroed = list(writes(base, first.disk))[1]
    assert zeroed == bytes(DISK_BYTES)
    assert apply(capture(first, second, "i1"), zeroed) != second.disk
    assert apply(base, zeroed) == second.disk
