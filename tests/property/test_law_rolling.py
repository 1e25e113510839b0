"""However a disk is torn while it is rolled forward, it is what its cursor says, and goes on to exactly its point."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsr.disks.flat import content_path
from hsr.disks.form import DiskKind
from hsr.disks.side_files import SIDE_NAME, SidePaths
from hsr.rolling.cursor_file import Phase, Place, Standing, cursor_path, fresh_cursor_path
from hsr.rolling.disk import RollingDisk, discard, finalize_at, read_standing, set_damaged_aside
from policies.cursor import Cursor, roll_on_path
from policies.errors import ConfigurationError, RestoreError
from policies.points import Point
from storage import replay
from tests.checks.torn_rolling import KINDS, PATH, Walk, lives_cut, loans_cut, walk_on
from tests.disk_readers import read_whole
from tests.rolling_world import BLOCK, JOB, RollingWorld, make_world
from tests.torn_medium import PowerCut, Stored, TornMedium
from tests.unit.tiny import Password


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
    assert lives_cut(world, kind, 45)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_every_step_of_a_life_and_then_the_power_fails(world, kind):
    """What a killed process left in the cache alone is not what the next one may build on."""
    assert lives_cut(world, kind, 45, killed=True)


@pytest.mark.parametrize("kind", KINDS)
def test_power_fails_at_every_step_of_lending_and_taking_back(world, kind):
    assert loans_cut(world, kind)


def test_a_cursor_that_a_killed_process_left_in_the_cache_is_durable_before_anything_is_written(world):
    for seed in range(20):
        walk = Walk(world, DiskKind.RAW, Random(seed), world.place)
        walk.apply([world.named("D_VOL-b001.spf")], None)
        for cut in range(1, 100):  # steps of the first process, until its cursor bears its name
            walk.fail_soon(cut)
            with suppress(PowerCut), walk.open() as disk:
                disk.apply(world.paths([world.named("D_VOL-b001-i003-cd.spi")]))
            standing = read_standing(PATH, medium=walk.medium)
            if standing is not None and not standing.cursor.is_closed:
                break
        walk.fail_soon(None)
        with walk.open() as disk, pytest.MonkeyPatch.context() as patch:
            patch.setattr(disk._disk, "sync", lambda: (_ for _ in ()).throw(PowerCut))
            with pytest.raises(PowerCut):
                disk.apply(world.paths([world.named("D_VOL-b001-i003-cd.spi")]))
        walk.recover()


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


@pytest.mark.parametrize("rolls_on", [False, True])
@pytest.mark.parametrize("kind", [DiskKind.QCOW2, DiskKind.VMDK_FLAT])
def test_power_fails_at_every_step_of_a_copy(world, kind, rolls_on):
    """Its name leads to a whole copy, or to no disk, and then the same makes it; also once the disk has rolled on."""
    copy = PATH.with_name("copy.img")
    base, later = ([world.named(f"D_VOL-b001-i00{number}.sp{end}")] for number, end in ((2, "f"), (3, "i")))
    room = -(-world.room_bytes // 8192) * 8192

    def begun() -> Walk:
        walk = Walk(world, kind, Random(0), Place.whole(room))
        assert walk.apply(base, None)
        return walk

    def is_there(walk: Walk) -> bool:
        return walk.medium.exists(content_path(copy, kind))

    def live(walk: Walk) -> None:
        with walk.open() as disk:
            point = disk.cursor.points[0]
            assert disk.copy_at(point, copy)
            assert disk.cursor == Cursor.closed(point)

    def must_be(walk: Walk, point: Point, cut: int) -> None:
        assert walk.medium.exists(copy)
        found = io.BytesIO(walk.medium.names[content_path(copy, kind)].now)
        assert read_whole(found, kind, room) == world.truth(point).ljust(room, b"\0"), cut
        names = {PATH, content_path(PATH, kind), copy, content_path(copy, kind)}
        assert {name for name in walk.medium.names if SIDE_NAME not in name.parts} <= names

    whole = begun()
    before = whole.medium.steps
    live(whole)
    assert not any("copy" in name.parts[-2] for name in whole.medium.names)
    for cut in range(1, whole.medium.steps - before + 1):
        walk = begun()
        walk.random = Random(cut)
        walk.fail_soon(cut)
        with pytest.raises(PowerCut):
            live(walk)
        walk.recover()
        was_there = is_there(walk)
        if rolls_on:
            assert walk.apply(later, None)
        if not was_there:
            live(walk)
        must_be(walk, world.points[3 if rolls_on and not was_there else 2], cut)
        assert rolls_on or walk.apply(later, None)


@pytest.mark.parametrize("kind", [DiskKind.RAW, DiskKind.VMDK_FLAT])
def test_what_gets_the_name_of_an_interrupted_copy_is_left_as_it_is(world, kind):
    copy = PATH.with_name("copy.img")
    room = -(-world.room_bytes // 8192) * 8192
    before = Walk(world, kind, Random(0), Place.whole(room))
    before.apply([world.named("D_VOL-b001-i002.spf")], None)
    before.recover()

    def live(medium: TornMedium) -> None:
        with RollingDisk.open(PATH, medium=medium) as disk:
            assert disk.copy_at(world.points[2], copy)

    whole = deepcopy(before.medium)
    live(whole)
    for cut in range(1, whole.steps - before.medium.steps + 1):
        medium = deepcopy(before.medium)
        medium.cut_at = medium.steps + cut
        with pytest.raises(PowerCut):
            live(medium)
        medium = medium.recovered(Random(cut))
        for name in (content_path(copy, kind), copy):
            medium.remove(name)
            medium.open(name, create=True).write(b"precious", 0)
            with pytest.raises(ConfigurationError, match="exists already"):
                live(medium)
            assert medium.load(name, 100) == b"precious", cut
            medium.remove(name)
        live(medium)
        found = io.BytesIO(medium.names[content_path(copy, kind)].now)
        assert read_whole(found, kind, room) == world.truth(world.points[2]).ljust(room, b"\0"), cut


@pytest.mark.parametrize("kind", [DiskKind.VHD, DiskKind.VMDK_FLAT, DiskKind.RAW])
def test_an_end_is_kept_of_a_whole_disk_only(world, kind):
    """Wherever the power fails: what is said to be finalized is, and what is not said to be can be finalized."""
    point, room = world.points[2], -(-world.room_bytes // 8192) * 8192
    truth = world.truth(point).ljust(room, b"\0")

    def begun() -> Walk:
        walk = Walk(world, kind, Random(0), Place.whole(room))
        with walk.open() as disk:
            disk.apply(world.paths([world.named("D_VOL-b001-i002.spf")]))
        return walk

    def end(walk: Walk) -> None:
        finalize_at(PATH, point, keeps_end=True, medium=walk.medium)

    def is_whole(walk: Walk) -> bool:
        content = bytes(walk.medium.names[content_path(PATH, kind)].now)
        return read_whole(io.BytesIO(content), kind, room) == truth

    whole = begun()
    before = whole.medium.steps
    end(whole)
    for cut in range(1, whole.medium.steps - before + 1):
        walk = begun()
        walk.random = Random(cut)
        walk.fail_soon(cut)
        with pytest.raises(PowerCut):
            end(walk)
        walk.medium = walk.medium.recovered(walk.random)
        standing = read_standing(PATH, medium=walk.medium)
        assert standing is not None
        assert standing.phase is not Phase.FINALIZED or is_whole(walk)
        end(walk)
        assert read_standing(PATH, medium=walk.medium).phase is Phase.FINALIZED
        assert is_whole(walk)
        end(walk)
    with pytest.raises(ConfigurationError, match="is finalized"):
        walk.open()
    for path in {PATH, content_path(PATH, kind)}:
        walk.medium.names.pop(path)
    walk.begin().close()


def test_power_fails_at_every_step_of_setting_a_damaged_disk_aside(world):
    room, paths = -(-world.room_bytes // 8192) * 8192, SidePaths.beside(PATH)

    def begun() -> Walk:
        walk = Walk(world, DiskKind.VHD, Random(0), Place.whole(room))
        with walk.open() as disk:
            disk.apply(world.paths([world.named("D_VOL-b001-i002.spf")]))
        cursor = walk.medium.names[cursor_path(paths)]
        fresh = Stored(bytearray(cursor.now), bytearray(cursor.now))  # left by a crash while it was written
        walk.medium.names[fresh_cursor_path(paths)] = fresh
        walk.medium._durable_names[fresh_cursor_path(paths)] = fresh
        cursor.now[100] ^= 1
        cursor.durable[100] ^= 1
        return walk

    whole = begun()
    before = whole.medium.steps
    names = {PATH.name, *(path.name for path in whole.medium.names if path.parent == paths.folder)}
    first = set_damaged_aside(PATH, DiskKind.VHD, medium=whole.medium)
    for cut in range(1, whole.medium.steps - before + 1):
        walk = begun()
        walk.random = Random(cut)
        walk.fail_soon(cut)
        with pytest.raises(PowerCut):
            set_damaged_aside(PATH, DiskKind.VHD, medium=walk.medium)
        walk.medium = walk.medium.recovered(walk.random)
        if walk.medium.exists(cursor_path(paths)):
            assert set_damaged_aside(PATH, DiskKind.VHD, medium=walk.medium) == first
        aside = {path.name for path in walk.medium.names if path.parent == first}
        assert aside == names, cut
        with walk.open() as disk:
            disk.apply(world.paths([world.named("D_VOL-b001-i002.spf")]))
            walk.check_exact(disk, world.points[2])
        walk.medium.names[cursor_path(paths)].now[100] ^= 1
        assert (
            set_damaged_aside(PATH, DiskKind.VHD, medium=walk.medium) == paths.folder / "volume.img.aside-2"
        )


class Bay:
    """A device on a medium whose power fails, held by nobody before it is taken."""

    def __init__(self, world: RollingWorld, size_bytes: int) -> None:
        self.world, self.size_bytes, self.side = world, size_bytes, PATH.parent / "side"
        self.medium = TornMedium()
        content = Random(1).randbytes(size_bytes)
        self.medium.names[PATH] = self.medium._durable_names[PATH] = Stored(
            bytearray(content), bytearray(content)
        )

    def content(self) -> bytes:
        return bytes(self.medium.names[PATH].now)

    def standing(self) -> Standing | None:
        return read_standing(PATH, side_folder=self.side, medium=self.medium)

    def take(self) -> None:
        """Do what a person does: have the device taken, again if that was cut."""
        if self.standing() is not None:
            discard(PATH, side_folder=self.side, medium=self.medium)
        RollingDisk.begin(
            PATH,
            DiskKind.DEVICE,
            Place.whole(self.size_bytes),
            job_uid=JOB,
            chain_id=self.world.chain_id,
            side_folder=self.side,
            medium=self.medium,
        ).close()

    def live(self, point: Point) -> None:
        """Do what an agent does, to the end; it takes nothing by itself."""
        standing = self.standing()
        if standing is not None and standing.phase is Phase.FINALIZED:
            return
        if standing is None or standing.phase is not Phase.FINALIZING:
            with RollingDisk.open(PATH, side_folder=self.side, medium=self.medium) as disk:
                if disk.cursor.is_blank:
                    disk.apply(
                        self.world.paths([self.world.named("D_VOL-b001.spf")]), checkpoint_bytes=3 * BLOCK
                    )
                spans = [span for span in self.world.spans if not span.is_base]
                path = roll_on_path(disk.cursor, spans, point.id)
                assert path is not None
                disk.apply(self.world.paths(path))
        finalize_at(PATH, point, keeps_end=True, side_folder=self.side, medium=self.medium)


def test_power_fails_at_every_step_of_a_device(world):
    """It is written to once it was taken whole, shows nothing before the end, and ends as its point."""
    point, size = world.points[4], max(world.room_bytes, 3 << 20)
    truth = world.truth(point).ljust(size, b"\0")
    whole = Bay(world, size)
    whole.take()
    whole.live(point)
    assert whole.content() == truth
    met = set()
    last = [whole.medium.steps] * 6  # whether the end is told is open, then
    for seed, cut in enumerate([*range(1, whole.medium.steps), *last]):
        bay = Bay(world, size)
        bay.medium.cut_at = cut
        with suppress(PowerCut):
            bay.take()
            bay.live(point)
            raise AssertionError("the power did not fail")
        bay.medium = bay.medium.recovered(Random(seed))
        standing, before = bay.standing(), bay.content()
        phase = None if standing is None else standing.phase
        met.add(phase)
        try:
            bay.live(point)
        except (ConfigurationError, RestoreError):
            assert phase in (None, Phase.NEW)
            assert bay.content() == before
            bay.take()
            bay.live(point)
        assert phase not in (Phase.BUILDING, Phase.ROLLING) or not any(before[:2048]), cut
        assert bay.content() == truth, cut
    assert met == {None, *(phase for phase in Phase if not phase.is_lent)}
