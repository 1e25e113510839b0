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
from hsr.rolling.cursor_file import Place
from hsr.rolling.disk import read_standing
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
