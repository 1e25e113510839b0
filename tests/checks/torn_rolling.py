"""A disk that is rolled forward on a medium whose power fails: it is what its cursor says, and goes on to its point."""

from __future__ import annotations

import io
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from hsr.disks.flat import content_path
from hsr.disks.form import DiskKind
from hsr.rolling.cursor_file import Phase, Place
from hsr.rolling.disk import RollingDisk, finalize_at, read_standing
from hsr.rolling.lending import take_back
from policies.cursor import Cursor, roll_on_path, usable
from policies.points import Point, Span
from policies.reach import shortest_path
from tests.disk_readers import DISSECT_UNIT, read_whole
from tests.rolling_world import BLOCK, JOB, RollingWorld
from tests.torn_medium import PAGE_BYTES, SECTOR_BYTES, PowerCut, TornMedium

PATH: Final = Path("/disks/volume.img")
CHILD: Final = Path("/children/child.qcow2")
KINDS: Final = [kind for kind in DiskKind if kind is not DiskKind.DEVICE]
CHECKPOINT_BYTES: Final = 3 * BLOCK
_SOON_STEPS: Final = 60


@dataclass
class TornChild:
    """A child that is a name, on the same medium."""

    medium: TornMedium
    path: Path = CHILD

    def make(self) -> None:
        self.discard()
        self.medium.open(self._partial, create=True).sync()
        self.medium.sync_folder(self.path.parent)

    def publish(self) -> None:
        self.medium.rename(self._partial, self.path)
        self.medium.sync_folder(self.path.parent)

    def discard(self) -> None:
        self.medium.remove(self._partial)

    @property
    def _partial(self) -> Path:
        return self.path.with_suffix(".partial")


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
            assert not self.shows()
        elif standing is not None and (
            standing.phase is Phase.LENT or (standing.phase.is_lent and self.shows())
        ):
            self.check_lent(standing.cursor.points[0])

    def shows(self) -> bool:
        """Tell whether anybody could take what is there for a disk, or a file system."""
        if self.kind is DiskKind.VMDK_FLAT:
            return self.medium.exists(PATH)
        content = self.medium.names[PATH].now
        size = self.place.disk_bytes
        if self.kind is DiskKind.VHD_FIXED:
            return content[size : size + 8] == b"conectix"
        if self.kind is DiskKind.VHD and content[-512:-504] == b"conectix":
            return True
        return any(content[: PAGE_BYTES if self.kind is DiskKind.RAW else SECTOR_BYTES])

    def check_lent(self, point: Point) -> None:
        """Hold what others read to the point."""
        content = bytes(self.medium.names[content_path(PATH, self.kind)].now)
        found = read_whole(io.BytesIO(content), self.kind, self.place.disk_bytes)
        assert found == self.world.truth(point).ljust(self.place.disk_bytes, b"\0")

    def lend(self) -> None:
        """Lend the disk where it stands; a child is there only if others can read it."""
        with self.open() as disk:
            disk.lend_at(disk.cursor.points[0], TornChild(self.medium))
        assert self.shows()
        self.check_lent(disk.cursor.points[0])

    def take_back(self) -> None:
        """Take it back; it shows nothing any more, and holds what it held."""
        standing = read_standing(PATH, medium=self.medium)
        assert standing is not None
        assert CHILD not in self.medium.names or standing.phase is not Phase.LENDING
        assert take_back(PATH, medium=self.medium).child == str(CHILD)
        self.medium.remove(CHILD)
        assert not self.shows()
        with self.open() as disk:
            self.check_exact(disk, standing.cursor.points[0])

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


def lives_cut(world: RollingWorld, kind: DiskKind, cuts: int, *, killed: bool = False) -> str:
    """Have a disk begun, built, rolled over a shrinking volume and finalized; cut its life at steps, and go on with it.

    Args:
        world: the images.
        kind: what the disk is to be.
        cuts: how often, spread over its life.
        killed: at the step only the process ends, and the next one finds all that it wrote; then the power fails soon.

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
        if killed:
            walk.fail_soon(walk.random.randint(1, _SOON_STEPS))
            with suppress(PowerCut):
                _live(walk, point)
        walk.recover()
        _live(walk, point)
        content = bytes(walk.medium.names[content_path(PATH, kind)].now)
        truth = world.truth(point).ljust(room, b"\0")
        assert read_whole(io.BytesIO(content), kind, room) == truth, f"{kind}, cut at step {cut} of {total}"
    return f"{cuts} {'kills and then ' if killed else ''}cuts in {total} steps"


def loans_cut(world: RollingWorld, kind: DiskKind) -> str:
    """Have a disk lent and taken back, cut at every step of that; then take it back, roll it on, and finalize it.

    Args:
        world: the images.
        kind: what the disk is to be.

    Returns:
        What was done.

    Raises:
        AssertionError: it was neither no disk nor a whole one, or went on to something else than its point.
    """
    room = -(-world.room_bytes // DISSECT_UNIT) * DISSECT_UNIT
    before = Walk(world, kind, Random(0), Place.whole(room))
    before.apply([world.named("D_VOL-b001.spf")], None)
    before.apply([world.named("D_VOL-b001-i003-cd.spi")], None)
    before.medium = before.medium.recovered(Random(0))
    whole = deepcopy(before.medium)
    walk = Walk(world, kind, Random(0), before.place, whole)
    walk.lend()
    lent = whole.steps
    walk.take_back()
    met: dict[str, int] = {}
    for cut in range(1, whole.steps + 1):
        walk = Walk(world, kind, Random(cut), before.place, deepcopy(before.medium))
        walk.fail_soon(cut)
        with suppress(PowerCut):
            walk.lend()
            walk.take_back()
        walk.recover()
        standing = read_standing(PATH, medium=walk.medium)
        assert standing is not None
        met[standing.phase.name] = met.get(standing.phase.name, 0) + 1
        if standing.phase.is_lent:
            _taken_back(walk)
        walk.medium.remove(CHILD)
        walk.medium.remove(CHILD.with_suffix(".partial"))
        walk.apply([world.named("D_VOL-b001-i004.spi")], None)
        walk.finalize(None)
    told = ", ".join(f"{count} {name.lower()}" for name, count in met.items())
    return f"{lent} steps to lend it, {whole.steps - lent} to take it back: {told}"


def _taken_back(walk: Walk) -> None:
    """Take a disk back, interrupted once more."""
    with suppress(PowerCut):
        walk.fail_soon(walk.random.choice((2, 5, 9, 14, 1000)))
        walk.take_back()
    walk.recover()
    standing = read_standing(PATH, medium=walk.medium)
    if standing is not None and standing.phase.is_lent:
        walk.take_back()


def _live(walk: Walk, point: Point) -> None:
    """Begin a disk or go on with it, lend it on the way, until it is finalized at a point."""
    world = walk.world
    base, *rest = (
        world.named(f"D_VOL-b001{ending}")
        for ending in (".spf", "-i003-cd.spi", "-i004.spi", "-i005.spi", "-i006.spi")
    )
    standing = read_standing(PATH, medium=walk.medium)
    if standing is None and walk.medium.exists(PATH):
        return
    if standing is not None and standing.phase.is_lent:
        walk.take_back()
        standing = read_standing(PATH, medium=walk.medium)
    if standing is None or standing.phase is not Phase.FINALIZING:
        with walk.open() as disk:
            if disk.cursor.is_blank:
                disk.apply(world.paths([base]), checkpoint_bytes=CHECKPOINT_BYTES)
        half = roll_on_path(disk.cursor, rest, world.points[3].id)
        if half:
            with walk.open() as disk:
                disk.apply(world.paths(half))
            walk.lend()
            walk.take_back()
        with walk.open() as disk:
            path = roll_on_path(disk.cursor, rest, point.id)
            assert path is not None
            disk.apply(world.paths(path))
    finalize_at(PATH, point, medium=walk.medium)
