"""Random histories of a tiny volume: forks, gaps, differentials, A→B→A, shrinking and growing again."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import strategies as st

from policies.points import Point, PointId, Span
from tests.property.byte_model import DISK_BYTES, DISK_GRANULES, Image, State, TellTale, capture, merge

START = datetime(2026, 3, 2, tzinfo=UTC)
POINTS = (1, 2, 3, 4, 5, 6, 6, 7, 7, 8)
"""How many points there are; most that is worth finding out takes more than a few."""

CHOICES = st.binary(min_size=DISK_BYTES, max_size=DISK_BYTES)
"""A choice for each byte of the disk."""


Stretch = tuple[int | None, ...]
"""What an image leads from and the points that it covers, as indexes of states; None for nothing."""


@dataclass(frozen=True)
class World:
    """A tree of states, and images of it.

    Attributes:
        states: the states, parents before children.
        parents: the index of each state's parent; None for the first.
        images: the images.
        stretches: which states each image was made from.
    """

    states: tuple[State, ...]
    parents: tuple[int | None, ...]
    images: tuple[Image, ...] = ()
    stretches: tuple[Stretch, ...] = ()

    @property
    def spans(self) -> tuple[Span, ...]:
        return tuple(image.span for image in self.images)

    def point(self, index: int | None) -> Point:
        assert index is not None
        return self.states[index].point

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
        holds: dict[str, int] = {}
        sets: dict[str, int] = {}
        for image, stretch in zip(self.images, self.stretches, strict=True):
            held = ones = 0
            for older, newer in pairwise(stretch):
                after = states[self.point(newer).id]
                changed = every if older is None else after ^ states[self.point(older).id]
                held |= changed
                ones = (ones & ~changed) | (after & changed)
            holds[image.span.name], sets[image.span.name] = held, ones
        return TellTale(states, holds, sets, {span.name: span for span in self.spans}, every)


@st.composite
def worlds(draw: st.DrawFn, *, gaps: bool = True, more_max: int = 6, days: bool = False) -> World:
    """Draw a world.

    Hypothesis draws how large it is, and a seed for all else: so it can still find a smaller world that fails,
    yet draws no world twice, of which there would be many.

    Args:
        draw: what Hypothesis draws with.
        gaps: whether captured images may be lost.
        more_max: how many images there may be beside those captured one after the other.
        days: whether points lie many hours apart, so that their days differ.
    """
    count, more = draw(st.sampled_from(POINTS)), draw(st.integers(0, more_max))
    chance = random.Random(draw(st.integers(0, (1 << 48) - 1)))
    states, parents = _some_states(chance, count, days)
    world = World(states, parents)
    stretches: list[Stretch] = list(zip(parents, range(count), strict=True))
    if gaps and chance.random() < 0.6:
        stretches = [
            stretch for stretch in stretches if chance.random() > (0.1 if stretch[0] is None else 0.5)
        ]
    stretches += [_some_stretch(chance, world) for _ in range(more)]
    images = [_some_image(chance, states, stretch, f"s{number}") for number, stretch in enumerate(stretches)]
    return World(states, parents, tuple(images), tuple(stretches))


def _some_stretch(chance: random.Random, world: World) -> Stretch:
    """Choose points of a line: all of a part of it, as what is rolled up has, or leaping over some."""
    end = chance.randrange(len(world.states))
    line = (None, *world.line_to(end))
    first = chance.randrange(len(line) - 1)
    leaps = chance.random() < 0.3
    between = (index for index in line[first + 1 : -1] if not leaps or chance.random() < 0.5)
    return (line[first], *between, end)


def _some_image(chance: random.Random, states: Sequence[State], stretch: Stretch, name: str) -> Image:
    """Capture between the points of a stretch, at times more than what changed, and merge."""
    captured = []
    for older, newer in pairwise(stretch):
        assert newer is not None
        also = chance.sample(range(DISK_GRANULES), k=chance.choice([0, 0, 1, 2]))
        captured.append(capture(None if older is None else states[older], states[newer], name, also))
    return merge(captured, name)


def _some_states(
    chance: random.Random, count: int, days: bool
) -> tuple[tuple[State, ...], tuple[int | None, ...]]:
    states: list[State] = []
    parents: list[int | None] = []
    time = START
    for index in range(count):
        parent = None if index == 0 else index - 1
        if index > 1 and chance.random() < 0.2:
            parent = chance.randrange(index - 1)
        size = DISK_BYTES if parent is None else states[parent].point.volume_bytes
        if chance.random() < 0.35:
            size = chance.choice([DISK_BYTES, chance.randint(1, DISK_BYTES)])
        content = _some_content(chance, states, parent, size)
        number = 0 if parent is None else states[parent].point.number + 1
        time += timedelta(hours=chance.randint(1, 30) if days else 1)
        identity = PointId(hashlib.md5(bytes([index])).digest())
        states.append(State(Point(identity, number, time, size), content))
        parents.append(parent)
    return tuple(states), tuple(parents)


def _some_content(chance: random.Random, states: Sequence[State], parent: int | None, size: int) -> bytes:
    """Make a content: some bytes of the parent's changed, or an older state come back (A→B→A)."""
    came_from = bytes(DISK_BYTES) if parent is None else states[parent].disk
    if parent is not None and chance.random() < 0.25:
        came_from = chance.choice(states).disk
    content = bytearray(came_from[:size])
    for _ in range(chance.choice([0, 1, 2, 4, 8, 24])):
        content[chance.randrange(size)] = chance.randint(0, 2)
    return bytes(content)


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
