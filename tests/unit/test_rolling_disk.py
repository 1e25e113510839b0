"""A disk that is rolled forward, on a real file system: every kind, other programs' eyes, and what may go wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsr.disks.flat import content_path
from hsr.disks.form import DiskKind
from hsr.disks.medium import DiskFile, LocalMedium, Told
from hsr.disks.side_files import SIDE_NAME
from hsr.rolling.cursor_file import Phase, Place
from hsr.rolling.disk import RollingDisk, discard, finalize_at, read_standing
from policies.cursor import Cursor, roll_on_path
from policies.errors import (
    BusyError,
    ChainError,
    ConfigurationError,
    FormatError,
    GeometryError,
    MissingPointError,
    PasswordError,
    RestoreError,
)
from policies.points import Point
from storage import replay
from storage.consolidate import consolidate
from storage.image import ImageReader
from tests.commands import tool
from tests.disk_readers import CHECKABLE, blkid_says, qemu_driver, qemu_img, read_whole
from tests.loop import needs_root, small_file_system
from tests.rolling_world import BLOCK, JOB, RollingWorld, make_world
from tests.unit.tiny import Password, fill

KINDS = [kind for kind in DiskKind if kind is not DiskKind.DEVICE]
ROOM = 40 * BLOCK


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> RollingWorld:
    return make_world(tmp_path_factory.mktemp("rolling"))


@pytest.fixture
def own_world(world: RollingWorld, tmp_path: Path) -> RollingWorld:
    """The world, its images copied, so that they can be damaged and removed."""
    from dataclasses import replace

    return replace(world, folder=Path(shutil.copytree(world.folder, tmp_path / "own")))


def begun(
    world: RollingWorld, path: Path, kind: DiskKind = DiskKind.VHDX, place: Place | None = None
) -> RollingDisk:
    place = place or Place.whole(ROOM)
    return RollingDisk.begin(path, kind, place, job_uid=JOB, chain_id=world.chain_id)


def roll(disk: RollingDisk, world: RollingWorld, number: int, *left_out: str) -> list[str]:
    """Bring a disk to a point; give the images that it took."""
    spans = [span for span in world.spans if span.name not in left_out]
    path = roll_on_path(disk.cursor, spans, world.points[number].id)
    assert path is not None
    disk.apply(world.paths(path), key=world.key)
    assert disk.cursor == Cursor.closed(world.points[number])
    return [span.name for span in path]


def must_be(path: Path, kind: DiskKind, truth: bytes, size: int, tmp_path: Path) -> None:
    """Hold a finalized disk to the truth, by programs that are not ours."""
    raw = tmp_path / "truth.raw"
    raw.write_bytes(truth.ljust(size, b"\0"))
    driver = qemu_driver(kind)
    done = qemu_img("compare", "-f", driver, "-F", "raw", path, raw)
    assert done.returncode == 0, done.stdout + done.stderr
    if kind in CHECKABLE:
        done = qemu_img("check", "-f", driver, path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "leaked" not in done.stdout + done.stderr
    with content_path(path, kind).open("rb") as file:
        assert read_whole(file, kind, size) == truth.ljust(size, b"\0")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("numbers", [(0, 2, 4, 5, 7), (3, 6), (1, 8), (7,)])
def test_every_kind_is_right_to_other_programs(world, kind, numbers, tmp_path):
    path = tmp_path / "disk.img"
    with begun(world, path, kind) as disk:
        for number in numbers:
            roll(disk, world, number)
            assert read_standing(path) == disk.standing
            assert (
                json.loads(qemu_img("info", "--output=json", content_path(path, kind)).stdout)["format"]
                == "raw"
            )
            assert blkid_says(content_path(path, kind)) == ""
        disk.finalize(world.points[numbers[-1]])
    must_be(path, kind, world.truth(world.points[numbers[-1]]), ROOM, tmp_path)
    assert read_standing(path) is None
    assert list((tmp_path / SIDE_NAME).iterdir()) == []


def test_an_encrypted_chain(tmp_path):
    world = make_world(tmp_path / "world", password=Password())
    path = tmp_path / "disk.vhd"
    with begun(world, path, DiskKind.VHD) as disk:
        with pytest.raises(PasswordError):
            disk.apply(world.paths([world.named("D_VOL-b001.spf")]))
        roll(disk, world, 4)
        with pytest.raises(PasswordError):
            disk.apply(world.paths([world.named("D_VOL-b001-i005.spi")]))
        assert disk.cursor.is_closed
        roll(disk, world, 6)
        disk.finalize(world.points[6])
    must_be(path, DiskKind.VHD, world.truth(world.points[6]), ROOM, tmp_path)


def test_spanned_sets(own_world, tmp_path):
    world = own_world
    base, first = (world.folder / f"D_VOL-b001{ending}" for ending in (".spf", "-i001.spi"))
    for image in (base, first):
        image.rename(tmp_path / image.name)
        consolidate([tmp_path / image.name], image, part_bytes=20 << 10)
    assert list(world.folder.glob("*.sp1"))
    with begun(world, tmp_path / "disk.img", DiskKind.RAW) as disk:
        disk.apply([base])
        disk.apply([first])
        assert disk.read(0, ROOM) == world.truth(world.points[1]).ljust(ROOM, b"\0")


def test_sources_that_were_rolled_up_are_not_needed(own_world, tmp_path):
    """At p3, with i001 to i003 in a -cd that ends at 3 and those up to 7 in a -cm, the sources gone."""
    world = own_world
    with begun(world, tmp_path / "disk.vhdx") as disk:
        roll(disk, world, 2)
        for number in (3, 4, 5, 6):
            (world.folder / f"D_VOL-b001-i{number:03d}.spi").unlink()
        gone = [span.name for span in world.spans if not (world.folder / span.name).exists()]
        assert roll(disk, world, 3, *gone) == ["D_VOL-b001-i003-cd.spi"]
        assert roll(disk, world, 6, *gone) == ["D_VOL-b001-i006-cd.spi"]
        assert roll(disk, world, 7, *gone) == ["D_VOL-b001-i007.spi"]
        assert disk.read(0, ROOM) == world.truth(world.points[7]).ljust(ROOM, b"\0")


def damaged(image: Path, share: float) -> bytes:
    """Give what an image holds, with a bit flipped somewhere in its frames."""
    with ImageReader(image) as reader:
        at = reader.frames_offset + int((reader.frames_bytes - 1) * share)
    packed = bytearray(image.read_bytes())
    packed[at] ^= 1
    return bytes(packed)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_damaged_image_is_told_of_and_mended_by_the_same_or_a_wider_one(
    own_world, tmp_path, monkeypatch, share
):
    monkeypatch.setattr(replay, "_STRIPE_BYTES", BLOCK)
    world, path = own_world, tmp_path / "disk.vmdk"
    image = world.folder / "D_VOL-b001-i003-cd.spi"
    good, bad = image.read_bytes(), damaged(image, share)
    torn = (world.points[0], world.points[3]) if share else (world.points[0],)
    for way_on, number in ((image, 3), (world.folder / "D_VOL-b001-i007-cm.spi", 7)):
        with begun(world, path, DiskKind.VMDK) as disk:
            roll(disk, world, 0)
            image.write_bytes(bad)
            for _ in range(2):
                with pytest.raises(FormatError) as caught:
                    disk.apply([image])
                assert caught.value.path == str(image)
                assert disk.cursor.points == torn
                assert world.allows(disk.cursor, disk.read(0, world.room_bytes))
            if share:
                with pytest.raises(MissingPointError):
                    disk.apply([world.folder / "D_VOL-b001-i001.spi"])
            with pytest.raises(ConfigurationError, match="does not stand"):
                disk.finalize(world.points[3])
        with RollingDisk.open(path) as disk:
            assert disk.cursor.points == torn
            image.write_bytes(good)
            disk.apply([way_on])
            assert disk.read(0, ROOM) == world.truth(world.points[number]).ljust(ROOM, b"\0")
        discard(path)


def test_a_damaged_image_while_building(own_world, tmp_path):
    world = own_world
    base = world.folder / "D_VOL-b001.spf"
    good = base.read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    base.write_bytes(bad)
    with begun(world, tmp_path / "disk.img") as disk:
        with pytest.raises(FormatError):
            disk.apply([base], checkpoint_bytes=1)
        assert disk.standing.phase is Phase.BUILDING
        base.write_bytes(good)
        disk.apply([base])
        assert disk.read(0, ROOM) == world.truth(world.points[0]).ljust(ROOM, b"\0")


def test_stopping_at_every_moment(world, tmp_path, monkeypatch):
    """Asked to stop after each parcel: a build goes on where it was, a span from its beginning."""
    monkeypatch.setattr(replay, "_STRIPE_BYTES", 2 * BLOCK)
    base = world.paths([world.named("D_VOL-b001.spf")])
    wide = world.paths([world.named("D_VOL-b001-i007-cm.spi")])
    done = []
    with begun(world, tmp_path / "build.qcow2", DiskKind.QCOW2) as disk:
        while disk.apply(base if disk.cursor.is_blank else [], stopping=lambda: True).is_stopped:
            assert disk.cursor.is_blank
            done.append(disk.standing.done_bytes)
        assert done == sorted(set(done))
        assert len(done) > 2
        assert disk.read(0, ROOM) == world.truth(world.points[0]).ljust(ROOM, b"\0")
    for asked in range(1, 20):
        path = tmp_path / f"{asked}.qcow2"
        with begun(world, path, DiskKind.QCOW2) as disk:
            disk.apply(base)
            looks = iter(range(100))
            rolled = disk.apply(wide, stopping=lambda asked=asked, looks=looks: next(looks) + 1 >= asked)
            assert rolled.is_stopped is not disk.cursor.is_closed
            disk.apply(wide)
            assert disk.read(0, ROOM) == world.truth(world.points[7]).ljust(ROOM, b"\0")
        if not rolled.is_stopped:
            break
    assert 3 < asked < 19


def test_a_build_goes_on_along_other_images(world, tmp_path):
    """Interrupted on its way to 6; the images that it used are gone, others lead there too."""
    ways = (
        ["D_VOL-b001.spf", "D_VOL-b001-i003-cd.spi", "D_VOL-b001-i006-cd.spi"],
        ["D_VOL-b001-i002.spf"] + [f"D_VOL-b001-i{number:03d}.spi" for number in (3, 4, 5, 6)],
    )
    first, second = ([world.folder / name for name in way] for way in ways)
    for checkpoint in (1, 20 * BLOCK):
        path = tmp_path / f"{checkpoint}.vhd"
        with begun(world, path, DiskKind.VHD) as disk:
            assert disk.apply(first, stopping=lambda: True, checkpoint_bytes=checkpoint).is_stopped
        with RollingDisk.open(path) as disk:
            disk.apply(second)
            assert disk.read(0, ROOM) == world.truth(world.points[6]).ljust(ROOM, b"\0")


def test_another_goal_begins_anew(world, tmp_path):
    with begun(world, tmp_path / "disk.raw", DiskKind.RAW) as disk:
        images = [world.folder / name for name in ("D_VOL-b001.spf", "D_VOL-b001-i001.spi")]
        disk.apply(images, stopping=lambda: True)
        disk.apply(images[:1])
        assert disk.read(0, ROOM) == world.truth(world.points[0]).ljust(ROOM, b"\0")
        with pytest.raises(MissingPointError, match="is a base"):
            disk.apply([world.folder / "D_VOL-b001-i002.spf"])
        disk.start_over()
        assert read_standing(tmp_path / "disk.raw").phase is Phase.BUILDING
        with pytest.raises(ChainError):
            disk.apply(images[1:])
        roll(disk, world, 5)
        assert disk.read(0, ROOM) == world.truth(world.points[5]).ljust(ROOM, b"\0")


def test_a_volume_that_outgrew_its_disk(world, tmp_path):
    small = Place.whole(world.points[5].volume_bytes)
    with begun(world, tmp_path / "disk.raw", DiskKind.RAW, small) as disk:
        with pytest.raises(ConfigurationError, match="outgrown"):
            disk.apply([world.folder / "D_VOL-b001.spf"])
        path = roll_on_path(disk.cursor, world.spans, world.points[4].id)
        disk.apply(world.paths(path))
        roll(disk, world, 5)
        with pytest.raises(ConfigurationError, match="outgrown") as caught:
            disk.apply([world.folder / "D_VOL-b001-i006.spi"])
        assert "larger disk" in caught.value.hint
        assert disk.cursor == Cursor.closed(world.points[5])
        assert disk.read(0, small.room_bytes) == world.states[world.points[5].id]
    discard(tmp_path / "disk.raw")
    assert not (tmp_path / "disk.raw").exists()
    assert list((tmp_path / SIDE_NAME).iterdir()) == []


def test_images_of_another_chain(world, tmp_path):
    other = make_world(tmp_path / "other", seed=8)
    with begun(world, tmp_path / "disk.raw", DiskKind.RAW) as disk:
        with pytest.raises(GeometryError):
            disk.apply([other.folder / "D_VOL-b001.spf"])
        roll(disk, world, 0)
        with pytest.raises(GeometryError):
            disk.apply([other.folder / "D_VOL-b001-i001.spi"])
        assert disk.cursor.is_closed


def test_patches_around_and_in_the_volume(world, tmp_path):
    place = Place(ROOM + (3 << 20), 1 << 20, ROOM, "gpt")
    path, end = tmp_path / "disk.vmdk", place.disk_bytes
    with begun(world, path, DiskKind.VMDK, place) as disk:
        roll(disk, world, 3)
        patches = [(0, b"M" * 512), ((1 << 20) + 28, b"\1\2\3\4"), (end - 512, b"G" * 512)]
        disk.finalize(world.points[3], patches=patches)
    wanted = bytearray(bytes(1 << 20) + world.truth(world.points[3])).ljust(end, b"\0")
    for offset, content in patches:
        wanted[offset : offset + len(content)] = content
    must_be(path, DiskKind.VMDK, bytes(wanted), end, tmp_path)


def test_one_at_a_time(world, tmp_path):
    path = tmp_path / "disk.raw"
    with begun(world, path, DiskKind.RAW):
        with pytest.raises(BusyError):
            RollingDisk.open(path)
        with pytest.raises(BusyError):
            discard(path)
        with pytest.raises(ConfigurationError, match="exists already"):
            begun(world, path, DiskKind.RAW)
        assert read_standing(path) is not None
    with pytest.raises(ConfigurationError, match="is no disk"):
        RollingDisk.open(tmp_path / "other")


def test_side_files_that_do_not_belong_together(world, tmp_path):
    path, side = tmp_path / "disk.vhdx", tmp_path / SIDE_NAME
    with begun(world, path) as disk:
        old_map = (side / "disk.vhdx.map").read_bytes()
        roll(disk, world, 2)
    with begun(world, tmp_path / "other.vhd", DiskKind.VHD):
        pass
    new_map, cursor = (side / "disk.vhdx.map").read_bytes(), (side / "disk.vhdx.cursor").read_bytes()
    (side / "disk.vhdx.map").write_bytes(old_map)
    with pytest.raises(FormatError):
        RollingDisk.open(path)
    (side / "disk.vhdx.map").unlink()
    with pytest.raises(RestoreError, match="map of this disk is gone"):
        RollingDisk.open(path)
    (side / "disk.vhdx.map").write_bytes(new_map)
    (side / "disk.vhdx.cursor").write_bytes((side / "other.vhd.cursor").read_bytes())
    with pytest.raises(FormatError, match="different disks"):
        RollingDisk.open(path)
    (side / "disk.vhdx.cursor").write_bytes(cursor[:-1])
    with pytest.raises(FormatError):
        RollingDisk.open(path)
    (side / "disk.vhdx.cursor").write_bytes(cursor)
    with RollingDisk.open(path) as disk:
        assert disk.cursor == Cursor.closed(world.points[2])


def test_a_finalized_disk(world, tmp_path):
    path = tmp_path / "disk.qcow2"
    with begun(world, path, DiskKind.QCOW2) as disk:
        roll(disk, world, 1)
    with pytest.raises(ConfigurationError, match="does not stand"):
        finalize_at(path, world.points[0])
    cursor = tmp_path / SIDE_NAME / "disk.qcow2.cursor"
    with RollingDisk.open(path) as disk:
        disk._begin_finalizing(world.points[1])
        left = cursor.read_bytes()
        with pytest.raises(ConfigurationError, match="takes no more points"):
            disk.apply([world.folder / "D_VOL-b001-i002.spi"])
        with pytest.raises(ConfigurationError, match="takes no more points"):
            disk.start_over()
    with pytest.raises(ConfigurationError, match="discarded"):
        discard(path)
    finalize_at(path, world.points[1])
    cursor.write_bytes(left)  # as a crash would leave it that came just before the end
    with pytest.raises(ConfigurationError, match="is finalized"):
        RollingDisk.open(path)
    finalize_at(path, world.points[1])
    assert read_standing(path) is None
    must_be(path, DiskKind.QCOW2, world.truth(world.points[1]), ROOM, tmp_path)


@needs_root
@pytest.mark.parametrize("kind", [DiskKind.RAW, DiskKind.VHDX, DiskKind.QCOW2])
def test_a_full_disk_is_told_of_and_gone_on_with(world, kind, tmp_path):
    with small_file_system(tmp_path, 24 << 20) as place:
        path, tight = place / "disk.img", place / "filler"
        disk = begun(world, path, kind)
        for number in (0, 1, 7):
            fill(place, 0)
            with disk, pytest.raises(RestoreError, match="full"):
                roll(disk, world, number)
            tight.unlink()
            disk = RollingDisk.open(path)
            roll(disk, world, number)
            assert disk.read(0, ROOM) == world.truth(world.points[number]).ljust(ROOM, b"\0")
        with disk:
            disk.finalize(world.points[7])
        must_be(path, kind, world.truth(world.points[7]), ROOM, tmp_path)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    backing = tmp_path / "backing"
    backing.write_bytes(b"\xaa" * (ROOM + 4096))
    command = ["losetup", "--find", "--show", str(backing)]
    path = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    yield path
    subprocess.run(["losetup", "--detach", str(path)], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="loop devices need root")
def test_a_block_device_that_held_something(world, device, tmp_path):
    side = tmp_path / "side"
    place = Place(ROOM, 0, ROOM)
    base = world.paths([world.named("D_VOL-b001.spf")])
    disk = RollingDisk.begin(
        device, DiskKind.DEVICE, place, job_uid=JOB, chain_id=world.chain_id, side_folder=side
    )
    with disk:
        disk.apply(base, stopping=lambda: True)
        disk.apply(base)
        assert disk.read(0, ROOM) == world.truth(world.points[0]).ljust(ROOM, b"\0")
        roll(disk, world, 5)
    assert blkid_says(device) == ""
    finalize_at(device, world.points[5], side_folder=side)
    assert device.read_bytes() == world.truth(world.points[5]).ljust(ROOM + 4096, b"\0")


def test_an_error_that_only_closing_tells_keeps_no_lock(world, tmp_path, monkeypatch):
    path, close = tmp_path / "disk.vhd", os.close
    with begun(world, path, DiskKind.VHD) as disk:
        roll(disk, world, 2)

    def refuses(fd: int) -> None:
        name = Path(f"/proc/self/fd/{fd}").readlink()
        close(fd)
        if name.parent in (tmp_path, tmp_path / SIDE_NAME):
            raise OSError(errno.EIO, "Input/output error")

    disk = RollingDisk.open(path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "close", refuses)
        disk.close()
    with RollingDisk.open(path) as disk:
        roll(disk, world, 3)


@pytest.mark.parametrize("name", ["disk.vhd", "disk.vhd.edges", "disk.vhd.map"])
def test_a_part_that_cannot_be_closed_leaves_no_other_open(world, name, tmp_path, monkeypatch):
    path, opened = tmp_path / "disk.vhd", LocalMedium.open
    with begun(world, path, DiskKind.VHD) as disk:
        roll(disk, world, 2)

    def opened_badly(medium: LocalMedium, at: Path, *, create: bool = False) -> DiskFile:
        file = opened(medium, at, create=create)
        if at.name == name:
            close = file.close

            def refuses() -> None:
                close()
                raise RestoreError("cannot be used", path=str(at))

            file.close = refuses
        return file

    with monkeypatch.context() as patched:
        patched.setattr(LocalMedium, "open", opened_badly)
        with pytest.raises(RestoreError, match="cannot be used"):
            RollingDisk.open(path).close()
    with RollingDisk.open(path) as disk:
        roll(disk, world, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_finalized_and_the_disk_rolls_on(world, kind, tmp_path):
    path = tmp_path / "disk.img"
    with begun(world, path, kind) as disk:
        for number in (2, 5):
            with pytest.raises(ConfigurationError, match="does not stand"):
                disk.copy_at(world.points[7], tmp_path / "never.img")
            roll(disk, world, number)
            copy = tmp_path / f"copy-{number}.img"
            told: list[tuple[int, int]] = []
            assert disk.copy_at(
                world.points[number], copy, progress=lambda *both, told=told: told.append(both)
            )
            assert all(done <= total for done, total in told)
            assert disk.cursor == Cursor.closed(world.points[number])
            with pytest.raises(ConfigurationError, match="exists already"):
                disk.copy_at(world.points[number], copy)
            must_be(copy, kind, world.truth(world.points[number]), ROOM, tmp_path)
        roll(disk, world, 7)
        disk.finalize(world.points[7])
    must_be(path, kind, world.truth(world.points[7]), ROOM, tmp_path)
    must_be(tmp_path / "copy-2.img", kind, world.truth(world.points[2]), ROOM, tmp_path)
    assert list((tmp_path / SIDE_NAME).iterdir()) == []


class FullMedium(LocalMedium):
    """A medium on which no copy finds room."""

    def clone(self, source: Path, target: Path) -> bool:
        del source, target
        return False

    def copy(self, source: Path, target: Path, told: Told) -> bool:
        if not super().copy(source, target, told):
            return False
        raise RestoreError("the disk is full", path=str(target))


def test_a_copy_that_finds_no_room_or_is_stopped_leaves_nothing(world, tmp_path):
    path, medium = tmp_path / "disk.vhd", FullMedium()
    disk = RollingDisk.begin(
        path, DiskKind.VHD, Place.whole(ROOM), job_uid=JOB, chain_id=world.chain_id, medium=medium
    )
    with disk:
        roll(disk, world, 2)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(RestoreError, match="full"):
            disk.copy_at(world.points[2], tmp_path / "copy.vhd")
        assert sorted(tmp_path.rglob("*")) == before
        assert not disk.copy_at(world.points[2], tmp_path / "copy.vhd", stopping=lambda: True)
        assert sorted(tmp_path.rglob("*")) == before
        roll(disk, world, 3)


class Killed(BaseException):
    pass


def killed_copying(monkeypatch, path: Path, point: Point, copy: Path, where: str) -> None:
    """Copy a disk, and be killed at a call: after that nothing is tidied up any more."""

    def kills(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched, RollingDisk.open(path) as disk:
        patched.setattr(where, kills)
        patched.setattr("hsr.rolling.copying.DiskCopy._discard", kills)
        with pytest.raises(Killed):
            disk.copy_at(point, copy)


KILLED_AT = [
    "hsr.rolling.copying.DiskCopy._copy_all",
    "hsr.rolling.copying.write_cursor",
    "hsr.disks.disk._Disk._put_signatures",
    "hsr.disks.disk._Disk._remove_side_files",
    "hsr.rolling.disk._end_cursor",
    "hsr.rolling.copying.DiskCopy.publish",
]


@pytest.mark.parametrize("where", KILLED_AT)
@pytest.mark.parametrize("kind", [DiskKind.VHDX, DiskKind.VMDK_FLAT])
def test_a_killed_copy_touches_nobody_elses_file_and_is_made_anew(world, kind, where, tmp_path, monkeypatch):
    path, copy = tmp_path / "disk.img", tmp_path / "copies" / "copy.img"
    copy.parent.mkdir()
    with begun(world, path, kind) as disk:
        roll(disk, world, 2)
    killed_copying(monkeypatch, path, world.points[2], copy, where)
    assert [name.name for name in copy.parent.iterdir()] == [SIDE_NAME]
    for name in {copy, content_path(copy, kind)}:
        name.write_bytes(b"precious")
        with RollingDisk.open(path) as disk, pytest.raises(ConfigurationError, match="exists already"):
            disk.copy_at(world.points[2], copy)
        assert name.read_bytes() == b"precious"
        name.unlink()
    with RollingDisk.open(path) as disk:
        roll(disk, world, 3)
        assert disk.copy_at(world.points[3], copy)
    must_be(copy, kind, world.truth(world.points[3]), ROOM, tmp_path)
    assert list((copy.parent / SIDE_NAME).iterdir()) == []


def test_a_copy_that_only_had_to_be_finalized_is_not_made_twice(world, tmp_path, monkeypatch):
    path, copy = tmp_path / "disk.vhd", tmp_path / "copy.vhd"
    with begun(world, path, DiskKind.VHD) as disk:
        roll(disk, world, 2)
    killed_copying(monkeypatch, path, world.points[2], copy, "hsr.disks.disk._Disk._put_signatures")
    monkeypatch.delattr("hsr.rolling.copying.DiskCopy._copy_all")
    with RollingDisk.open(path) as disk:
        assert disk.copy_at(world.points[2], copy)
    must_be(copy, DiskKind.VHD, world.truth(world.points[2]), ROOM, tmp_path)


def test_a_copy_of_which_somebody_removed_a_part_is_made_anew(world, tmp_path, monkeypatch):
    path, copy = tmp_path / "disk.vhd", tmp_path / "copy.vhd"
    with begun(world, path, DiskKind.VHD) as disk:
        roll(disk, world, 2)
    for part in ("copy.vhd", "copy.vhd.cursor"):
        killed_copying(monkeypatch, path, world.points[2], copy, "hsr.rolling.disk._end_cursor")
        (hidden,) = (tmp_path / SIDE_NAME).glob("copy.vhd.*.copy")
        (hidden / part).write_bytes(b"?") if "cursor" in part else (hidden / part).unlink()
        with RollingDisk.open(path) as disk:
            assert disk.copy_at(world.points[2], copy)
        must_be(copy, DiskKind.VHD, world.truth(world.points[2]), ROOM, tmp_path)
        copy.unlink()


@pytest.mark.parametrize("kind", [DiskKind.RAW, DiskKind.VMDK_FLAT])
def test_a_name_that_is_taken_while_a_copy_is_made_stays_taken(world, kind, tmp_path):
    path, copy = tmp_path / "disk.img", tmp_path / "copy.img"
    taken = content_path(copy, kind)
    with begun(world, path, kind) as disk:
        roll(disk, world, 2)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ConfigurationError, match="exists already"):
            disk.copy_at(world.points[2], copy, progress=lambda *_: taken.write_bytes(b"precious"))
        assert taken.read_bytes() == b"precious"
        assert sorted({*tmp_path.rglob("*")} - {taken}) == before


def test_copies_of_two_disks_under_one_name_do_not_meet(world, tmp_path):
    """One is made while the other is: who comes later finds the name taken, and the first is whole."""
    paths, copy = [tmp_path / name / "disk.vhd" for name in ("one", "other")], tmp_path / "copy.vhd"
    for path, number in zip(paths, (2, 3), strict=True):
        path.parent.mkdir()
        with begun(world, path, DiskKind.VHD) as disk:
            roll(disk, world, number)

    def other_is_copied(done: int, total: int) -> None:
        if not copy.exists():
            with RollingDisk.open(paths[1]) as disk:
                assert disk.copy_at(world.points[3], copy)

    with RollingDisk.open(paths[0]) as disk, pytest.raises(ConfigurationError, match="exists already"):
        disk.copy_at(world.points[2], copy, progress=other_is_copied)
    must_be(copy, DiskKind.VHD, world.truth(world.points[3]), ROOM, tmp_path)
    assert list((tmp_path / SIDE_NAME).iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_a_copy_shares_its_blocks(world, tmp_path):
    backing, place = tmp_path / "backing", tmp_path / "mounted"
    with backing.open("wb") as file:
        file.truncate(400 << 20)
    place.mkdir()
    subprocess.run([tool("mkfs.xfs"), "-q", str(backing)], check=True)
    subprocess.run(["mount", "-o", "loop", str(backing), str(place)], check=True)
    try:
        with begun(world, place / "disk.vhdx") as disk:
            roll(disk, world, 2)
            told: list[int] = []
            disk.copy_at(world.points[2], place / "copy.vhdx", progress=lambda done, _: told.append(done))
            assert not told, "it was copied byte by byte"
            roll(disk, world, 6)
            must_be(place / "copy.vhdx", DiskKind.VHDX, world.truth(world.points[2]), ROOM, tmp_path)
            disk.finalize(world.points[6])
        must_be(place / "disk.vhdx", DiskKind.VHDX, world.truth(world.points[6]), ROOM, tmp_path)
    finally:
        subprocess.run(["umount", str(place)], check=True)
