"""However a disk is torn while it is rolled forward, it is what its cursor says, and goes on to exactly its point."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsr.disks.flat import content_path
from hsr.disks.form import DiskKind
from hsr.disks.side_files import SidePaths
from hsr.rolling.cursor_file import Phase, Place, cursor_path
from hsr.rolling.disk import finalize_at, read_standing, set_damaged_aside
from policies.cursor import Cursor
from policies.errors import ConfigurationError
from storage import replay
from tests.checks.torn_rolling import KINDS, PATH, Walk, lives_cut, walk_on
from tests.disk_readers import read_whole
from tests.rolling_world import BLOCK, RollingWorld, make_world
from tests.torn_medium import PowerCut
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
