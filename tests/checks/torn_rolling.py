"""A disk that is rolled forward on a medium whose power fails: it is what its cursor says, and goes on to its point."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from hsr.disks.flat import content_path
from hsr.disks.form import DiskKind
from hsr.rolling.cursor_file import Phase, Place
from hsr.rolling.disk import RollingDisk, finalize_at, read_standing
from policies.cursor import Cursor, roll_on_path, usable
from policies.points import Point, Span
from policies.reach import shortest_path
from tests.disk_readers import DISSECT_UNIT, read_whole
from tests.rolling_world import BLOCK, JOB, RollingWorld
from tests.torn_medium import PowerCut, TornMedium

PATH: Final = Path("/disks/volume.img")
KINDS: Final = [kind for kind in DiskKind if kind is not DiskKind.DEVICE]
CHECKPOINT_BYTES: Final = 3 * BLOCK


@dataclass
class Walk:
    """A disk on a medium whose power fails now and then."""

    world: RollingWorld
    kind: DiskKind
    random: Random
    place: Place
    medium: TornMedium = field(default_factory=TornMedium)

    def open(self) -> RollingDisk:
        if read_standing(PATH, medium=self.medium) is None:
            return self.begin()
        return RollingDisk.open(PATH, medium=self.medium)

    def begin(self) -> RollingDisk:
        return RollingDisk.begin(
            PATH, self.kind, self.place, job_uid=JOB, chain_id=self.world.chain_id, medium=self.medium
        )

    def fail_soon(self, steps: int | None) -> None:
        self.medium.cut_at = None if steps is None else self.medium.steps + steps

    def recover(self) -> None:
        self.medium = self.medium.recovered(self.random)
        standing = read_standing(PATH, medium=self.medium)
        if standing is not None and standing.phase is Phase.ROLLING:
            self.check()

    def check(self) -> None:
        """Hold the disk to its cursor."""
        with self.open() as disk:
            found = disk.read(0, self.place.room_bytes)
            assert self.world.allows(disk.cursor, found[: self.world.room_bytes])
            assert not any(found[self.world.room_bytes :])

    def apply(self, spans: list[Span], steps: int | None) -> Cursor | None:
        """Apply spans, and have the power fail after some steps; None if it did."""
        self.fail_soon(steps)
        try:
            with self.open() as disk:
                paths = self.world.paths(spans)
                disk.apply(paths, key=self.world.key, checkpoint_bytes=CHECKPOINT_BYTES)
                assert disk.cursor == Cursor.closed(spans[-1].end)
                self.check_exact(disk, spans[-1].end)
                return disk.cursor
        except PowerCut:
            self.recover()
            return None
        finally:
            self.fail_soon(None)

    def check_exact(self, disk: RollingDisk, point: Point) -> None:
        truth = self.world.truth(point).ljust(self.place.room_bytes, b"\0")
        assert disk.read(0, self.place.room_bytes) == truth

    def next_spans(self) -> list[Span]:
        """Choose what to apply next: anything that may be."""
        standing = read_standing(PATH, medium=self.medium)
        if standing is not None and not standing.cursor.is_blank:
            able = [span for span in self.world.spans if usable(standing.cursor, span) and not span.is_base]
            return [self.random.choice(able)] if able else []
        goal = self.random.choice(self.world.points)
        if standing is not None and standing.goal is not None and self.random.random() < 0.7:
            goal = standing.goal
        left_out = self.random.choice(self.world.spans)
        some = [span for span in self.world.spans if span is not left_out]
        path = shortest_path(some, goal.id) or shortest_path(self.world.spans, goal.id)
        assert path is not None
        return list(path)

    def finalize(self, steps: int | None) -> None:
        """Finalize the disk where it stands, maybe interrupted."""
        standing = read_standing(PATH, medium=self.medium)
        assert standing is not None
        point = standing.cursor.points[0]
        self.fail_soon(steps)
        try:
            finalize_at(PATH, point, medium=self.medium)
        except PowerCut:
            self.medium = self.medium.recovered(self.random)
            if read_standing(PATH, medium=self.medium) is not None:
                finalize_at(PATH, point, medium=self.medium)
        size, offset = self.place.disk_bytes, self.place.offset_bytes
        content = bytes(self.medium.names[content_path(PATH, self.kind)].now)
        found = read_whole(io.BytesIO(content), self.kind, size)
        truth = self.world.truth(point)
        assert found == truth.rjust(offset + len(truth), b"\0").ljust(size, b"\0")
        left = {path for path in self.medium.names if path.suffix not in (".edges", ".new")}
        assert left == {PATH, content_path(PATH, self.kind)}


def walk_on(walk: Walk, torn: list[int | None]) -> None:
    for steps in torn:
        spans = walk.next_spans()
        if not spans:
            break
        walk.apply(spans, steps)
    standing = read_standing(PATH, medium=walk.medium)
    if standing is None or standing.cursor.is_blank:
        walk.apply(walk.next_spans(), None)
    elif not standing.cursor.is_closed:
        path = next(
            path
            for point in walk.world.points
            if (path := roll_on_path(standing.cursor, walk.world.spans, point.id)) is not None
        )
        assert not path[0].is_base
        walk.apply(list(path), None)


def lives_cut(world: RollingWorld, kind: DiskKind, cuts: int) -> str:
    """Have a disk begun, built, rolled over a shrinking volume and finalized; cut its life at steps, and go on with it.

    Args:
        world: the images.
        kind: what the disk is to be.
        cuts: how often, spread over its life.

    Returns:
        What was done.

    Raises:
        AssertionError: it went on to something else than its point.
    """
    room = -(-world.room_bytes // DISSECT_UNIT) * DISSECT_UNIT
    point = world.points[6]
    whole = Walk(world, kind, Random(0), Place.whole(room))
    _live(whole, point)
    total = whole.medium.steps
    for number in range(cuts):
        cut = 1 + total * number // cuts
        walk = Walk(world, kind, Random(number), Place.whole(room))
        walk.fail_soon(cut)
        with suppress(PowerCut):
            _live(walk, point)
            raise AssertionError("the power did not fail")
        walk.recover()
        _live(walk, point)
        content = bytes(walk.medium.names[content_path(PATH, kind)].now)
        truth = world.truth(point).ljust(room, b"\0")
        assert read_whole(io.BytesIO(content), kind, room) == truth, f"{kind}, cut at step {cut} of {total}"
    return f"{cuts} cuts in {total} steps"


def _live(walk: Walk, point: Point) -> None:
    """Begin a disk or go on with it, until it is finalized at a point."""
    world = walk.world
    base, *rest = (
        world.named(f"D_VOL-b001{ending}")
        for ending in (".spf", "-i003-cd.spi", "-i004.spi", "-i005.spi", "-i006.spi")
    )
    standing = read_standing(PATH, medium=walk.medium)
    if standing is None and walk.medium.exists(PATH):
        return
    if standing is None or standing.phase is not Phase.FINALIZING:
        with walk.open() as disk:
            if disk.cursor.is_blank:
                disk.apply(world.paths([base]), checkpoint_bytes=CHECKPOINT_BYTES)
            path = roll_on_path(disk.cursor, rest, point.id)
            assert path is not None
            disk.apply(world.paths(path))
    finalize_at(PATH, point, medium=walk.medium)
