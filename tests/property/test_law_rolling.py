"""However a disk is torn while it is rolled forward, it is what its cursor says, and goes on to exactly its point."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsr.disks.flat import content_path
from hsr.disks.form import DiskKind
from hsr.rolling.cursor_file import Phase, Place
from hsr.rolling.disk import RollingDisk, finalize_at, read_standing
from policies.cursor import Cursor, roll_on_path, usable
from policies.errors import ConfigurationError
from policies.points import Point, Span
from policies.reach import shortest_path
from storage import replay
from tests.disk_readers import read_whole
from tests.rolling_world import BLOCK, JOB, RollingWorld, make_world
from tests.torn_medium import PowerCut, TornMedium
from tests.unit.tiny import Password

PATH = Path("/disks/volume.img")
KINDS = [kind for kind in DiskKind if kind is not DiskKind.DEVICE]
CHECKPOINT_BYTES = 3 * BLOCK


@pytest.fixture(scope="module", autouse=True)
def _small_parcels() -> Iterator[None]:
    """Have blocks decoded a few at a time, so that a small volume makes many parcels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "_STRIPE_BYTES", 4 * BLOCK)
        yield


@pytest.fixture(scope="module")
def world() -> Iterator[RollingWorld]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as home:
        yield make_world(Path(home))


@pytest.fixture(scope="module")
def encrypted_world() -> Iterator[RollingWorld]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as home:
        yield make_world(Path(home), password=Password())


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
            return RollingDisk.begin(
                PATH,
                self.kind,
                self.place,
                job_uid=JOB,
                chain_id=self.world.chain_id,
                medium=self.medium,
            )
        return RollingDisk.open(PATH, medium=self.medium)

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


STEPS = st.lists(st.none() | st.integers(1, 60), max_size=8)


@settings(max_examples=60)
@given(
    st.integers(0, 1 << 32), st.sampled_from(KINDS), STEPS, st.none() | st.integers(1, 40), st.integers(0, 2)
)
def test_whatever_is_torn_and_taken_up_again(world, seed, kind, torn, end, around):
    offset, beyond = (0, 0) if not around else (1 << 20, around * 8192)
    room = -(-world.room_bytes // 8192) * 8192
    place = Place(offset + room + beyond, offset, room, "none" if not around else "gpt")
    walk = Walk(world, kind, Random(seed), place)
    walk_on(walk, torn)
    walk.finalize(end)


@settings(max_examples=10)
@given(st.integers(0, 1 << 32), st.sampled_from(KINDS), STEPS)
def test_encrypted_chains(encrypted_world, seed, kind, torn):
    room = -(-encrypted_world.room_bytes // 8192) * 8192
    walk = Walk(encrypted_world, kind, Random(seed), Place.whole(room))
    walk_on(walk, torn)
    walk.finalize(None)


@pytest.mark.parametrize("kind", KINDS)
def test_power_fails_at_every_step_of_a_life(world, kind):
    """Begun, built, rolled over a shrinking volume, finalized: cut at each step, and gone on with."""
    base, *rest = (
        world.named(f"D_VOL-b001{ending}") for ending in (".spf", "-i003-cd.spi", "-i004.spi", "-i005.spi")
    )
    place = Place.whole(-(-world.room_bytes // 8192) * 8192)
    point = world.points[5]

    def live(walk: Walk) -> None:
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

    whole = Walk(world, kind, Random(0), place)
    live(whole)
    total = whole.medium.steps
    truth = world.truth(point).ljust(place.disk_bytes, b"\0")
    for cut in range(1, total + 1, 1 if total < 60 else 3):
        walk = Walk(world, kind, Random(cut), place)
        walk.fail_soon(cut)
        with pytest.raises(PowerCut):
            live(walk)
        walk.recover()
        live(walk)
        content = bytes(walk.medium.names[content_path(PATH, kind)].now)
        assert read_whole(io.BytesIO(content), kind, place.disk_bytes) == truth, cut


def test_a_torn_disk_is_never_continued_with_a_narrower_span(world):
    walk = Walk(world, DiskKind.VHD, Random(3), world.place)
    walk.apply([world.named("D_VOL-b001.spf")], None)
    wide = world.named("D_VOL-b001-i003-cd.spi")
    with walk.open() as disk:
        walk.fail_soon(9)
        with pytest.raises(PowerCut):
            disk.apply(world.paths([wide]))
    walk.fail_soon(None)
    walk.recover()
    with walk.open() as disk:
        assert disk.cursor.points == (world.points[0], world.points[3])
        for name in ("D_VOL-b001-i001.spi", "D_VOL-b001-i003.spi", "D_VOL-b001-i004.spi"):
            with pytest.raises(Exception, match="cannot be applied"):
                disk.apply(world.paths([world.named(name)]))
        with pytest.raises(ConfigurationError, match="does not stand"):
            disk.finalize(world.points[3])
        disk.apply(world.paths([world.named("D_VOL-b001-i007-cm.spi")]))
        walk.check_exact(disk, world.points[7])


@pytest.mark.parametrize("kind", [DiskKind.QCOW2, DiskKind.VMDK_FLAT])
def test_power_fails_at_every_step_of_a_copy(world, kind):
    copy, point = PATH.with_name("copy.img"), world.points[2]
    base = world.paths([world.named("D_VOL-b001-i002.spf")])
    room = -(-world.room_bytes // 8192) * 8192

    def begun() -> Walk:
        walk = Walk(world, kind, Random(0), Place.whole(room))
        with walk.open() as disk:
            disk.apply(base)
        return walk

    def live(walk: Walk) -> None:
        with walk.open() as disk:
            if read_standing(copy, medium=walk.medium) is not None or not walk.medium.exists(copy):
                assert disk.copy_at(point, copy)
            assert disk.cursor == Cursor.closed(point)

    whole = begun()
    before = whole.medium.steps
    live(whole)
    for cut in range(1, whole.medium.steps - before + 1):
        walk = begun()
        walk.random = Random(cut)
        walk.fail_soon(cut)
        with pytest.raises(PowerCut):
            live(walk)
        walk.recover()
        live(walk)
        content = bytes(walk.medium.names[content_path(copy, kind)].now)
        assert read_whole(io.BytesIO(content), kind, room) == world.truth(point).ljust(room, b"\0"), cut
        with walk.open() as disk:
            walk.check_exact(disk, point)
            disk.apply(world.paths([world.named("D_VOL-b001-i003.spi")]))
            walk.check_exact(disk, world.points[3])
