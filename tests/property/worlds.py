"""Random histories of a tiny volume: forks, gaps, differentials, A→B→A, shrinking and growing again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from policies.points import Point, PointId, Span
from tests.property.byte_model import DISK_BYTES, DISK_GRANULES, Image, State, TellTale, capture, merge

START = datetime(2026, 3, 2, tzinfo=UTC)
POINTS_MAX = 7
CHOICES = st.binary(min_size=DISK_BYTES, max_size=DISK_BYTES)
"""A choice for each byte of the disk."""


@dataclass(frozen=True)
class Recipe:
    """How an image came about: captured between two points (by index), or merged from images (by index)."""

    points: tuple[int | None, int] | None = None
    sources: tuple[int, ...] = ()


@dataclass(frozen=True)
class World:
    """A tree of states, and images of it.

    Attributes:
        states: the states, parents before children.
        parents: the index of each state's parent; None for the first.
        made: all images that ever were.
        recipes: how each of them came about.
        lost: indexes of those that are no longer there.
    """

    states: tuple[State, ...]
    parents: tuple[int | None, ...]
    made: tuple[Image, ...] = ()
    recipes: tuple[Recipe, ...] = ()
    lost: frozenset[int] = frozenset()

    @property
    def images(self) -> tuple[Image, ...]:
        """The images that are there."""
        return tuple(image for index, image in enumerate(self.made) if index not in self.lost)

    @property
    def spans(self) -> tuple[Span, ...]:
        return tuple(image.span for image in self.images)

    def state(self, point: Point | PointId) -> State:
        wanted = point.id if isinstance(point, Point) else point
        return next(state for state in self.states if state.point.id == wanted)

    def image(self, span: Span) -> Image:
        return next(image for image in self.images if image.span.name == span.name)

    def line_to(self, index: int) -> tuple[int, ...]:
        """Give the indexes of a state's ancestors, oldest first, and its own."""
        line: list[int] = []
        at: int | None = index
        while at is not None:
            line.append(at)
            at = self.parents[at]
        return tuple(reversed(line))

    def tell_tale(self) -> TellTale:
        """Make the same images of a volume that betrays every mistake."""
        states = {}
        for index, state in enumerate(self.states):
            lasting = sum(1 << (2 * ancestor) for ancestor in self.line_to(index))
            states[state.point.id] = lasting | 1 << (2 * index + 1)
        every = (1 << (2 * len(self.states))) - 1
        holds: list[int] = []
        sets: list[int] = []
        for recipe in self.recipes:
            if recipe.points is not None:
                older, newer = recipe.points
                after = states[self.states[newer].point.id]
                changed = every if older is None else after ^ states[self.states[older].point.id]
                holds.append(changed)
                sets.append(after & changed)
                continue
            held = ones = 0
            for source in recipe.sources:
                held |= holds[source]
                ones = (ones & ~holds[source]) | sets[source]
            holds.append(held)
            sets.append(ones)
        names = [image.span.name for image in self.made]
        return TellTale(
            states=states,
            holds=dict(zip(names, holds, strict=True)),
            sets=dict(zip(names, sets, strict=True)),
            spans={image.span.name: image.span for image in self.made},
            every=every,
        )


@st.composite
def worlds(draw: st.DrawFn, *, gaps: bool = True, merges_max: int = 4, days: bool = False) -> World:
    """Draw a world.

    Args:
        draw: what Hypothesis draws with.
        gaps: whether images may be lost, once they have served.
        merges_max: how many merged images there may be.
        days: whether points lie many hours apart, so that their days differ.
    """
    states, parents = _draw_states(draw, days)
    world = World(states, parents)
    images: list[Image] = []
    recipes: list[Recipe] = []
    for index, parent in enumerate(parents):
        images.append(_draw_capture(draw, states, parent, index, f"i{index}"))
        recipes.append(Recipe(points=(parent, index)))
    _merge_some(draw, images, recipes, merges_max)
    for number in range(draw(st.integers(0, 2))):
        older, newer = _draw_leap(draw, world, images)
        if older != newer:
            images.append(_draw_capture(draw, states, older, newer, f"d{number}"))
            recipes.append(Recipe(points=(older, newer)))
        _merge_some(draw, images, recipes, merges_max)
    lost = draw(st.frozensets(st.integers(0, len(images) - 1), max_size=len(images) // 2)) if gaps else ()
    return World(states, parents, tuple(images), tuple(recipes), frozenset(lost))


def _draw_leap(draw: st.DrawFn, world: World, images: Sequence[Image]) -> tuple[int, int]:
    """Draw what a differential leads from and to, by index: often what a merged image leads from and to."""
    merged = [image.span for image in images if image.span.start and len(image.span.covers) > 1]
    if merged and draw(st.booleans()):
        span = draw(st.sampled_from(merged))
        points = [state.point for state in world.states]
        assert span.start is not None
        return points.index(span.start), points.index(span.end)
    newer = draw(st.integers(0, len(world.states) - 1))
    return draw(st.sampled_from(world.line_to(newer))), newer


def _merge_some(draw: st.DrawFn, images: list[Image], recipes: list[Recipe], merges_max: int) -> None:
    for _ in range(draw(st.integers(0, merges_max // 2))):
        pairs = adjacent_pairs(images)
        if pairs:
            first, second = draw(st.sampled_from(pairs))
            images.append(merge([images[first], images[second]], f"c{len(images)}"))
            recipes.append(Recipe(sources=(first, second)))


def adjacent_pairs(images: Sequence[Image]) -> list[tuple[int, int]]:
    """Give the pairs of images of which the second starts where the first ends."""
    return [
        (first, second)
        for first, older in enumerate(images)
        for second, newer in enumerate(images)
        if newer.span.start == older.span.end
    ]


@st.composite
def marked_spans(draw: st.DrawFn, world: World) -> tuple[Span, ...]:
    """Draw what is known of a world's spans: a few of them unverified, a few assumed."""
    marks = draw(st.lists(st.integers(0, 9), min_size=len(world.spans), max_size=len(world.spans)))
    return tuple(
        replace(span, verified=mark != 0, assumed=mark == 1, stored_bytes=mark)
        for span, mark in zip(world.spans, marks, strict=True)
    )


def _draw_states(draw: st.DrawFn, days: bool) -> tuple[tuple[State, ...], tuple[int | None, ...]]:
    states: list[State] = []
    parents: list[int | None] = []
    time = START
    for index in range(draw(st.integers(1, POINTS_MAX))):
        parent = None if index == 0 else index - 1
        if index > 1 and _rarely(draw, 4):
            parent = draw(st.integers(0, index - 2))
        size = DISK_BYTES if parent is None else states[parent].point.volume_bytes
        if _rarely(draw, 3):
            size = draw(st.integers(1, DISK_BYTES))
        content = _draw_content(draw, states, parent, size)
        number = 0 if parent is None else states[parent].point.number + 1
        time += timedelta(hours=draw(st.integers(1, 30)) if days else 1)
        identity = PointId(hashlib.md5(bytes([index])).digest())
        states.append(State(Point(identity, number, time, size), content))
        parents.append(parent)
    return tuple(states), tuple(parents)


def _draw_content(draw: st.DrawFn, states: Sequence[State], parent: int | None, size: int) -> bytes:
    """Draw a content: some bytes of the parent's changed, or that of an older state come back (A→B→A)."""
    came_from = bytes(DISK_BYTES) if parent is None else states[parent].disk
    if parent is not None and _rarely(draw, 4):
        came_from = states[draw(st.integers(0, len(states) - 1))].disk
    content = bytearray(came_from[:size])
    for place in draw(st.lists(st.integers(0, DISK_BYTES - 1), max_size=8)):
        if place < size:
            content[place] = draw(st.integers(0, 2))
    return bytes(content)


def _draw_capture(
    draw: st.DrawFn, states: Sequence[State], older: int | None, newer: int, name: str
) -> Image:
    also = draw(st.frozensets(st.integers(0, DISK_GRANULES - 1), max_size=2))
    return capture(None if older is None else states[older], states[newer], name, also)


def _rarely(draw: st.DrawFn, once_in: int) -> bool:
    """Draw yes once in so many times; Hypothesis simplifies towards no."""
    return draw(st.integers(0, once_in - 1)) == once_in - 1
