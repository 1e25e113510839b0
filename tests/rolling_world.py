"""A small volume with a history that has a bit of everything, its images, and what a disk that is rolled may hold."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random

import numpy as np

from hsr.rolling.cursor_file import Place
from hsr.rolling.disk import RollingDisk
from policies.cursor import Cursor
from policies.points import Point, PointId, Span
from storage.capture import capture
from storage.consolidate import consolidate
from storage.image import ImageReader
from storage.keys import ChainKey
from tests.unit.tiny import START, Password, TinyVolume

BLOCK = 65_536
SIZE = 36 * BLOCK + 700
"""Larger than both edges of a disk, and no multiple of anything."""

JOB = b"job".ljust(16)


@dataclass(frozen=True)
class RollingWorld:
    """Images of a volume, and what it held at each point.

    Attributes:
        folder: where the images are.
        chain_id: the chain's identity.
        spans: all images.
        points: all points, in their order.
        states: what the volume held, by point.
        key: the key of the chain; None of a plain one.
    """

    folder: Path
    chain_id: bytes
    spans: tuple[Span, ...]
    points: tuple[Point, ...]
    states: dict[PointId, bytes]
    key: ChainKey | None = None

    @property
    def room_bytes(self) -> int:
        return max(point.volume_bytes for point in self.points)

    @property
    def place(self) -> Place:
        return Place.whole(self.room_bytes)

    def paths(self, spans: Collection[Span]) -> list[Path]:
        return [self.folder / span.name for span in spans]

    def named(self, name: str) -> Span:
        return next(span for span in self.spans if span.name == name)

    def truth(self, point: Point) -> bytes:
        """What a disk holds at a point: beyond the volume's end, zeros."""
        return self.states[point.id].ljust(self.room_bytes, b"\0")

    def allows(self, cursor: Cursor, found: bytes, unit: int = 512) -> bool:
        """Tell whether each sector of a disk has its value at some point of a cursor."""
        fits = np.zeros(-(-len(found) // unit), bool)
        for point in cursor.points:
            same = np.frombuffer(found, np.uint8) == np.frombuffer(self.truth(point), np.uint8)
            fits |= np.logical_and.reduceat(same, np.arange(0, len(found), unit))
        return bool(fits.all())


def make_world(
    home: Path, *, seed: int = 7, size: int = SIZE, password: Password | None = None
) -> RollingWorld:
    """Capture a history: changes, A→B→A, a volume that shrinks and grows, a differential; and roll some of it up."""
    random, volume = Random(seed), TinyVolume(home, password=password)
    for content in _contents(random, size):
        volume.raw.write_bytes(content)
        volume.capture()
    last = len(volume.states)
    volume.raw.write_bytes(_changed(random, volume.states[last - 1]))
    now = START + timedelta(hours=last)
    capture(
        volume.raw,
        volume.folder,
        volume.name,
        now=now,
        differential_of=1,
        encrypt=bool(password),
        passwords=password,
    )
    volume.states[last] = volume.raw.read_bytes()
    for after, upto, ending in ((0, 3, "-cd"), (1, 4, "-cw"), (3, 6, "-cd"), (0, 7, "-cm")):
        volume.merge(after, upto, ending)
    base = volume.image()
    consolidate([base, volume.image(1), volume.image(2)], volume.folder / f"{base.stem}-i002.spf")
    return world_of(volume)


def world_of(volume: TinyVolume) -> RollingWorld:
    """Describe what a volume's folder holds."""
    spans, points, chain_id = [], {}, b""
    for path in sorted(volume.folder.glob("*.sp[fi]")):
        with ImageReader(path) as image:
            spans.append(image.header.span(path.name, stored_bytes=image.stored_bytes, verified=True))
            points |= {point.number: point for point in image.header.covers}
            chain_id = image.header.chain_id
    states = {points[number].id: content for number, content in volume.states.items()}
    in_order = tuple(points[number] for number in sorted(points))
    return RollingWorld(volume.folder, chain_id, tuple(spans), in_order, states, volume.key())


def _contents(random: Random, size: int) -> Iterator[bytes]:
    first = bytearray(size)
    for at in (0, 3 * BLOCK, 17 * BLOCK, 18 * BLOCK, 30 * BLOCK):
        first[at : at + 9000] = random.randbytes(9000)
    first[-300:] = random.randbytes(300)
    yield bytes(first)
    before = _changed(random, bytes(first))
    yield before
    yield _changed(random, before)
    yield before  # A→B→A
    small = before[: 19 * BLOCK + 777]
    yield small
    grown = _changed(random, small.ljust(size - 3 * BLOCK, b"\0"))
    yield grown
    yield _changed(random, grown.ljust(size, b"\0"))
    yield _changed(random, _changed(random, grown.ljust(size, b"\0")))


def _changed(random: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(random.randint(4, 10)):
        at = random.randrange(len(content))
        length = min(random.choice((1, 512, 4096, 20_000)), len(content) - at)
        changed[at : at + length] = bytes(length) if random.random() < 0.3 else random.randbytes(length)
    at = random.choice((0, len(content) - 600))
    changed[at : at + 600] = random.randbytes(600)
    return bytes(changed)


@contextmanager
def opened(disk: RollingDisk) -> Iterator[RollingDisk]:
    """Close a disk at the end, whatever happens."""
    try:
        yield disk
    finally:
        disk.close()


def without(spans: Sequence[Span], *names: str) -> list[Span]:
    return [span for span in spans if span.name not in names]
