"""The naive model that the four laws are tried against, byte for byte.

A disk has 12 granules of 2 bytes, so that a volume may end in the middle of one. A state of the volume is its
content, as bytes; whatever lies beyond its size counts as zero. An image's content is a mapping

    granule -> (origin: index into the points covered, value: the granule's bytes at that point)

and nothing here is clever: an incremental is what differs between two states, a merge keeps every granule that
any source holds, the newest origin winning, and applying is zeroing and then writing what is visible.

What is visible: while the volume was smaller, what lay beyond its end counted as zero. So a granule of origin j
counts only where it does not lie wholly beyond the smallest size among the points covered *after* j.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from policies.points import Point, PointId, Span

GRANULE_BYTES = 2
DISK_GRANULES = 12
DISK_BYTES = GRANULE_BYTES * DISK_GRANULES


@dataclass(frozen=True)
class State:
    """A point, and the bytes of the volume at it."""

    point: Point
    content: bytes

    @property
    def disk(self) -> bytes:
        """The state as it looks on a disk: beyond the volume's end, zero."""
        return self.content.ljust(DISK_BYTES, b"\0")


def state_of(letter: bytes, number: int, content: bytes) -> State:
    """Make a state for a test that tells a story."""
    time = datetime(2026, 3, 2, number, tzinfo=UTC)
    return State(Point(PointId(letter * 16), number, time, len(content)), content)


@dataclass(frozen=True)
class Image:
    """A span and what it holds."""

    span: Span
    content: Mapping[int, tuple[int, bytes]]

    def visible(self) -> dict[int, bytes]:
        """Give the granules that are written when the image is applied."""
        return {
            granule: value
            for granule, (origin, value) in self.content.items()
            if granule < ceil_granules(self.cut_bytes(origin))
        }

    def cut_bytes(self, origin: int) -> int:
        """Give the smallest size among the points covered after an origin."""
        return min((point.volume_bytes for point in self.span.covers[origin + 1 :]), default=DISK_BYTES)


def ceil_granules(size_bytes: int) -> int:
    return -(-size_bytes // GRANULE_BYTES)


def cut_granule(disk: bytes, granule: int) -> bytes:
    return disk[granule * GRANULE_BYTES : (granule + 1) * GRANULE_BYTES]


def capture(start: State | None, end: State, name: str, also: Collection[int] = ()) -> Image:
    """Compare two states: what differs, and lies within the volume, is stored.

    Args:
        start: the state compared with; None for a base, which stores what is not zero.
        end: the state captured.
        name: the file's name.
        also: granules that are stored though they did not change.
    """
    before = bytes(DISK_BYTES) if start is None else start.disk
    content = {}
    for granule in range(ceil_granules(end.point.volume_bytes)):
        value = cut_granule(end.disk, granule)
        if value != cut_granule(before, granule) or granule in also:
            content[granule] = (0, value)
    covers = (end.point,)
    return Image(Span(name, start.point if start else None, covers, verified=True), content)


def merge(sources: Sequence[Image], name: str) -> Image:
    """Merge images that lie end to start."""
    covers: list[Point] = []
    content: dict[int, tuple[int, bytes]] = {}
    for source in sources:
        assert not covers or source.span.start == covers[-1]
        for granule, (origin, value) in source.content.items():
            content[granule] = (len(covers) + origin, value)
        covers.extend(source.span.covers)
    return Image(Span(name, sources[0].span.start, tuple(covers), verified=True), content)


def without_hidden(image: Image) -> Image:
    """Drop what the image holds and never shows."""
    visible = image.visible()
    return Image(image.span, {granule: held for granule, held in image.content.items() if granule in visible})


def apply(image: Image, disk: bytes) -> bytes:
    """Zero, then write."""
    for disk_then in writes(image, disk):
        disk = disk_then
    return disk


def writes(image: Image, disk: bytes) -> Iterator[bytes]:
    """Give the disk before the first write, after the zeroing, and after each granule: every cut there is."""
    now = bytearray(disk)
    yield bytes(now)
    zero_from = image.span.zero_from_bytes
    now[zero_from:] = bytes(DISK_BYTES - zero_from)
    yield bytes(now)
    for granule, value in sorted(image.visible().items()):
        now[granule * GRANULE_BYTES : (granule + 1) * GRANULE_BYTES] = value
        yield bytes(now)


def torn(image: Image, disk: bytes, choices: Sequence[int]) -> bytes:
    """Apply an image and stop somewhere, the writes of before having reached the disk in no order.

    Args:
        image: the image.
        disk: the disk as it was.
        choices: for each byte of the disk, what is found there: 0 what was, 1 what the zeroing left, 2 the end.
    """
    zero_from = image.span.zero_from_bytes
    zeroed = disk[:zero_from] + bytes(DISK_BYTES - zero_from)
    ended = apply(image, disk)
    return bytes(
        (disk[place], zeroed[place], ended[place])[choice % 3]
        for place, choice in zip(range(DISK_BYTES), choices, strict=True)
    )


def mixture(disks: Sequence[bytes], choices: Sequence[int]) -> bytes:
    """Take each byte from one of several disks."""
    return bytes(
        disks[choice % len(disks)][place] for place, choice in zip(range(DISK_BYTES), choices, strict=True)
    )


def apply_path(images: Sequence[Image], disk: bytes) -> bytes:
    for image in images:
        disk = apply(image, disk)
    return disk


@dataclass(frozen=True)
class TellTale:
    """A volume made to betray every mistake, and the same images of it as of another volume.

    Each point has two granules of its own: one that it sets for good, one that it sets and the next point
    clears again. So whatever is left out, or applied where it may not be, shows. A disk is written as the
    values that each granule may have: (may be 0, may be 1), two sets of bits. A blank disk may hold anything.
    """

    states: Mapping[PointId, int]
    holds: Mapping[str, int]
    sets: Mapping[str, int]
    spans: Mapping[str, Span]
    every: int

    @property
    def blank(self) -> tuple[int, int]:
        return self.every, self.every

    def standing(self, points: Collection[PointId]) -> tuple[int, int]:
        """Give the disk that may hold, in each granule, the value at any of some points."""
        may_0 = may_1 = 0
        for point in points:
            may_0 |= self.every & ~self.states[point]
            may_1 |= self.states[point]
        return may_0, may_1

    def fewest_files(self, disk: tuple[int, int], names: Collection[str]) -> dict[PointId, int]:
        """Try every order of every set of files; tell how few lead to each point for certain.

        Unless a disk is blank, an image is applied only where it holds whatever may be on it, as the design has it:
        a torn disk is not continued with narrower images, though all of them in a row could mend it too.
        """
        wanted = {self.standing([point]): point for point in self.states}
        found: dict[PointId, int] = {}
        seen, level, files = {disk}, [disk], 0
        while level:
            for reached in level:
                if reached in wanted:
                    found.setdefault(wanted[reached], files)
            following = {
                self._applied(here, name)
                for here in level
                for name in names
                if here == self.blank or self._within(here, self.spans[name])
            }
            level = sorted(following - seen)
            seen |= following
            files += 1
        return found

    def _applied(self, disk: tuple[int, int], name: str) -> tuple[int, int]:
        held, ones = self.holds[name], self.sets[name]
        return (disk[0] & ~held) | (held & ~ones), (disk[1] & ~held) | ones

    def _within(self, disk: tuple[int, int], span: Span) -> bool:
        may_0, may_1 = self.standing(span.held_ids)
        return not (disk[0] & ~may_0) and not (disk[1] & ~may_1)
