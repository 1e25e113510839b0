"""A disk that is lent: others read it, a child is written to, and it is taken back and rolled on exactly."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hsr.disks.flat import content_path
from hsr.disks.form import DiskKind, Part
from hsr.disks.medium import LocalMedium
from hsr.disks.side_files import SIDE_NAME
from hsr.exchange.child import QcowChild, is_child_of
from hsr.rolling.cursor_file import Phase, Place
from hsr.rolling.disk import RollingDisk, discard, finalize_at, read_standing
from hsr.rolling.lending import take_back
from hsr.rolling.users import alone_with
from policies.cursor import Cursor
from policies.errors import BusyError, ConfigurationError, RestoreError
from storage.publish import sync_folder
from tests.commands import run
from tests.disk_readers import blkid_says, qemu_driver, qemu_img
from tests.loop import needs_root, small_file_system
from tests.rolling_world import RollingWorld, make_world
from tests.unit.test_rolling_disk import KINDS, ROOM, begun, fill, must_be, roll


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> RollingWorld:
    return make_world(tmp_path_factory.mktemp("lending"))


def lent(
    world: RollingWorld,
    folder: Path,
    kind: DiskKind,
    patches: tuple[Part, ...] = (),
    number: int = 2,
) -> tuple[Path, Path]:
    """Build a disk, and lend it; give it and its child."""
    path, child = folder / "disk.img", folder / "child.qcow2"
    with begun(world, path, kind) as disk:
        roll(disk, world, number)
        disk.lend_at(world.points[number], QcowChild(child, path, kind, patches))
    return path, child


def must_equal(path: Path, driver: str, content: bytes, folder: Path) -> None:
    truth = folder / "compared.raw"
    truth.write_bytes(content)
    done = qemu_img("compare", "-f", driver, "-F", "raw", path, truth)
    assert done.returncode == 0, done.stdout + done.stderr


def shows_nothing(content: Path) -> bool:
    told = json.loads(qemu_img("info", "--output=json", content).stdout)
    return told["format"] == "raw" and blkid_says(content) == ""


def spoil(path: Path, driver: str) -> None:
    run("qemu-io", "-f", driver, "-c", "write -P 9 1M 64k", str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_lent_written_to_taken_back_and_rolled_on(world, kind, tmp_path):
    point, truth = world.points[2], world.truth(world.points[2]).ljust(ROOM, b"\0")
    path, child = lent(world, tmp_path, kind)
    standing = read_standing(path)
    assert (standing.phase, standing.loan.child, standing.cursor) == (
        Phase.LENT,
        str(child),
        Cursor.closed(point),
    )
    must_equal(path, qemu_driver(kind), truth, tmp_path)
    must_equal(child, "qcow2", truth, tmp_path)
    assert is_child_of(child, path)
    assert content_path(path, kind).stat().st_mode & 0o222 == 0
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", str(child))
    must_equal(child, "qcow2", b"\7" * (1 << 20) + truth[1 << 20 :], tmp_path)
    must_equal(path, qemu_driver(kind), truth, tmp_path)
    for attempt in (
        lambda: RollingDisk.open(path),
        lambda: discard(path),
        lambda: finalize_at(path, point),
    ):
        with pytest.raises(ConfigurationError, match=r"is lent to .*child\.qcow2"):
            attempt()
    assert take_back(path).child == str(child)
    assert shows_nothing(content_path(path, kind))
    with RollingDisk.open(path) as disk:
        assert disk.read(0, ROOM) == truth
        roll(disk, world, 7)
        disk.finalize(world.points[7])
    must_be(path, kind, world.truth(world.points[7]), ROOM, tmp_path)
    assert list((tmp_path / SIDE_NAME).iterdir()) == []


@pytest.mark.parametrize("kind", [DiskKind.VHD, DiskKind.RAW])
def test_lent_every_month(world, kind, tmp_path):
    path, child = tmp_path / "disk.img", tmp_path / "child.qcow2"
    for number in (0, 1, 4, 5):
        with begun(world, path, kind) if not number else RollingDisk.open(path) as disk:
            roll(disk, world, number)
            disk.lend_at(world.points[number], QcowChild(child, path, kind))
        must_equal(child, "qcow2", world.truth(world.points[number]).ljust(ROOM, b"\0"), tmp_path)
        take_back(path)
        child.unlink()
        with pytest.raises(ConfigurationError, match="is not lent"):
            take_back(path)
    finalize_at(path, world.points[5])
    must_be(path, kind, world.truth(world.points[5]), ROOM, tmp_path)


def test_what_a_partition_takes_goes_to_the_child_alone(world, tmp_path):
    truth = world.truth(world.points[2]).ljust(ROOM, b"\0")
    front, middle, back = b"\1" * 512, b"\2" * 1024, b"\3" * 34 * 512
    patches = ((0, front), (1 << 20, middle), (ROOM - len(back), back))
    path, child = lent(world, tmp_path, DiskKind.VHD, patches)
    must_equal(path, "vpc", truth, tmp_path)
    wanted = bytearray(truth)
    for offset, content in patches:
        wanted[offset : offset + len(content)] = content
    must_equal(child, "qcow2", bytes(wanted), tmp_path)
    take_back(path)
    with RollingDisk.open(path) as disk:
        assert disk.read(0, ROOM) == truth


@pytest.mark.parametrize(
    "kind", [DiskKind.VHD_FIXED, DiskKind.VMDK_FLAT, DiskKind.VHDX, DiskKind.QCOW2, DiskKind.RAW]
)
def test_one_that_was_written_to_is_not_taken_back(world, kind, tmp_path):
    path, child = lent(world, tmp_path, kind)
    content = content_path(path, kind)
    if kind in (DiskKind.VHDX, DiskKind.RAW):
        run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", str(child))
        run("qemu-img", "commit", "-q", str(child))
    else:
        spoil(path, qemu_driver(kind))
    before = content.read_bytes()
    with pytest.raises(RestoreError, match="written to since it was lent") as caught:
        take_back(path)
    assert "--fresh" in str(caught.value.hint)
    assert read_standing(path).phase is Phase.LENT
    assert content.read_bytes() == before
    assert content.stat().st_mode & 0o222 == 0


def test_another_file_in_its_place_is_not_taken_back(world, tmp_path):
    path, _ = lent(world, tmp_path, DiskKind.VHDX)
    seen, other = path.stat(), tmp_path / "other"
    other.write_bytes(b"?" * seen.st_size)
    other.replace(path)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    with pytest.raises(RestoreError, match="written to since"):
        take_back(path)
    path.unlink()
    with pytest.raises(RestoreError):
        take_back(path)
    discard(path)
    assert list((tmp_path / SIDE_NAME).iterdir()) == []


def test_a_descriptor_that_somebody_changed(world, tmp_path):
    path, _ = lent(world, tmp_path, DiskKind.VMDK_FLAT)
    path.write_bytes(path.read_bytes().replace(b"CID=", b"CID=0"))
    with pytest.raises(RestoreError, match="written to since"):
        take_back(path)


@contextmanager
def opened_by_qemu(path: Path) -> Iterator[int]:
    command = ["qemu-io", "-f", "qcow2", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(b"read 0 512\n")
        running.stdin.flush()
        assert running.stdout.readline()
        yield running.pid
        running.stdin.close()
        running.stdout.read()


def test_one_that_is_open_is_not_taken_back(world, tmp_path):
    path, child = lent(world, tmp_path, DiskKind.QCOW2)
    with opened_by_qemu(child) as pid, pytest.raises(BusyError, match=rf"qemu-io \({pid}\)") as caught:
        take_back(path)
    assert caught.value.path in (str(child), str(path))
    other = tmp_path / "other.qcow2"
    QcowChild(other, path, DiskKind.QCOW2).make()
    QcowChild(other, path, DiskKind.QCOW2).publish()
    with opened_by_qemu(other), pytest.raises(BusyError) as caught:
        take_back(path)
    assert caught.value.path == str(path)
    with subprocess.Popen(["tail", "-f", "-c1", str(path)], stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.read(1)
        with pytest.raises(BusyError, match="tail"):
            take_back(path)
        reader.kill()
    assert read_standing(path).phase is Phase.LENT
    take_back(path)


@needs_root
def test_one_that_is_looped_is_not_taken_back(world, tmp_path):
    path, _ = lent(world, tmp_path, DiskKind.RAW)
    loop = run("losetup", "--find", "--show", "--read-only", str(path)).strip()
    try:
        with pytest.raises(BusyError, match=loop):
            take_back(path)
    finally:
        run("losetup", "--detach", loop)
    take_back(path)


@needs_root
def test_one_that_is_looped_under_another_name_is_not_taken_back(world, tmp_path):
    path, _ = lent(world, tmp_path, DiskKind.RAW)
    other = tmp_path / "other"
    os.link(path, other)
    loop = run("losetup", "--find", "--show", "--read-only", str(other)).strip()
    try:
        with pytest.raises(BusyError, match="nobody that can be named here"):
            take_back(path)
    finally:
        run("losetup", "--detach", loop)
    take_back(path)


def test_what_cannot_be_lent(world, tmp_path):
    path, child = tmp_path / "disk.vhd", tmp_path / "child.qcow2"
    with begun(world, path, DiskKind.VHD) as disk:
        roll(disk, world, 2)
        with pytest.raises(ConfigurationError, match="does not stand"):
            disk.lend_at(world.points[3], QcowChild(child, path, DiskKind.VHD))
        child.touch()
        with pytest.raises(ConfigurationError, match="exists already"):
            disk.lend_at(world.points[2], QcowChild(child, path, DiskKind.VHD))
        with pytest.raises(ConfigurationError, match=r"ends in \.qcow2"):
            QcowChild(tmp_path / "child.vhd", path, DiskKind.VHD)
        with pytest.raises(ConfigurationError, match="is no folder"):
            QcowChild(tmp_path / "nowhere" / "child.qcow2", path, DiskKind.VHD)
        roll(disk, world, 3)
    assert read_standing(path).phase is Phase.ROLLING


def test_without_qemu_nothing_is_done(world, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="qemu-img is not installed"):
        QcowChild(tmp_path / "child.qcow2", tmp_path / "disk.vhd", DiskKind.VHD)


@needs_root
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_no_room_for_the_child_leaves_the_disk_rolling(world, tmp_path, is_wrapped):
    path = tmp_path / "disk.vhdx"
    patches = ((0, b"\1" * 512),) if is_wrapped else ()
    with small_file_system(tmp_path, 1 << 20) as small:
        spare = 48 << 10 if is_wrapped else 0  # enough to make it, not to write to it
        free = os.statvfs(small)
        (small / "filler").write_bytes(bytes(free.f_bavail * free.f_bsize - spare))
        with begun(world, path) as disk:
            roll(disk, world, 2)
            with pytest.raises(RestoreError, match="no child can be made"):
                disk.lend_at(world.points[2], QcowChild(small / "child.qcow2", path, DiskKind.VHDX, patches))
        assert [entry.name for entry in small.iterdir() if "child" in entry.name] == []
    assert read_standing(path).phase is Phase.ROLLING
    assert shows_nothing(path)
    with RollingDisk.open(path) as disk:
        roll(disk, world, 5)
        disk.finalize(world.points[5])
    must_be(path, DiskKind.VHDX, world.truth(world.points[5]), ROOM, tmp_path)


@needs_root
@pytest.mark.parametrize("kind", [DiskKind.VHD, DiskKind.QCOW2, DiskKind.RAW])
@pytest.mark.parametrize("spare_kib", [0, 12, 64, 600])
def test_a_full_disk_is_neither_lent_nor_lost(world, kind, spare_kib, tmp_path):
    with small_file_system(tmp_path, 24 << 20) as place:
        path, child = place / "disk.img", tmp_path / "child.qcow2"
        truth = world.truth(world.points[2]).ljust(ROOM, b"\0")
        with begun(world, path, kind) as disk:
            roll(disk, world, 2)
            fill(place, spare_kib << 10)
            with suppress(RestoreError):
                disk.lend_at(world.points[2], QcowChild(child, path, kind))
            is_lent = read_standing(path).phase is Phase.LENT
            assert child.exists() is is_lent
        if is_lent:
            must_equal(child, "qcow2", truth, tmp_path)
        (place / "filler").unlink()
        if read_standing(path).phase.is_lent:
            take_back(path)
        assert shows_nothing(path)
        with RollingDisk.open(path) as disk:
            assert disk.read(0, ROOM) == truth
            roll(disk, world, 5)
            disk.finalize(world.points[5])
        must_be(path, kind, world.truth(world.points[5]), ROOM, tmp_path)


class RefusingMedium(LocalMedium):
    """A medium that refuses to set times."""

    def settle_time(self, path: Path) -> None:
        raise RestoreError("cannot be used: Input/output error", path=str(path))


def test_a_medium_that_refuses_leaves_the_disk_rolling(world, tmp_path):
    path = tmp_path / "disk.vhd"
    with begun(world, path, DiskKind.VHD) as disk:
        roll(disk, world, 2)
    with (
        RollingDisk.open(path, medium=RefusingMedium()) as disk,
        pytest.raises(RestoreError, match="output error"),
    ):
        disk.lend_at(world.points[2], QcowChild(tmp_path / "child.qcow2", path, DiskKind.VHD))
    assert read_standing(path).phase is Phase.ROLLING
    assert shows_nothing(path)
    assert path.stat().st_mode & 0o200


def test_a_child_that_can_neither_be_made_nor_removed_leaves_the_disk_rolling(world, tmp_path):
    path = tmp_path / "disk.vhd"

    class Lost(QcowChild):
        def make(self) -> None:
            raise RestoreError("cannot be used: Host is down", path=str(self.path))

        def discard(self) -> None:
            self.make()

    with begun(world, path, DiskKind.VHD) as disk:
        roll(disk, world, 2)
        with pytest.raises(RestoreError, match="Host is down"):
            disk.lend_at(world.points[2], Lost(tmp_path / "child.qcow2", path, DiskKind.VHD))
    assert read_standing(path).phase is Phase.ROLLING
    assert shows_nothing(path)


def failing_late(calls: int) -> Callable[[Path], None]:
    """Sync folders, but for one time, after so many."""
    left = [calls]

    def sync(folder: Path) -> None:
        left[0] -= 1
        if left[0] == -1:
            raise OSError(errno.EIO, "Input/output error")
        sync_folder(folder)

    return sync


def test_a_child_whose_name_cannot_be_made_durable_has_none(world, tmp_path, monkeypatch):
    path, child = tmp_path / "disk.vhd", tmp_path / "children" / "child.qcow2"
    child.parent.mkdir()
    with begun(world, path, DiskKind.VHD) as disk:
        roll(disk, world, 2)
        with monkeypatch.context() as patched:
            patched.setattr("hsr.exchange.child.sync_folder", failing_late(1))
            with pytest.raises(RestoreError, match="output error"):
                disk.lend_at(world.points[2], QcowChild(child, path, DiskKind.VHD))
    assert read_standing(path).phase is Phase.ROLLING
    assert list(child.parent.iterdir()) == []


def test_a_child_whose_name_cannot_be_made_durable_is_published_the_next_time(world, tmp_path, monkeypatch):
    path, child = tmp_path / "disk.vhd", tmp_path / "child.qcow2"
    with begun(world, path, DiskKind.VHD) as disk:
        roll(disk, world, 2)
        disk.finalize(world.points[2])
    made = QcowChild(child, path, DiskKind.VHD)
    made.make()
    with monkeypatch.context() as patched:
        patched.setattr("hsr.exchange.child.sync_folder", failing_late(0))
        with pytest.raises(RestoreError, match="output error"):
            made.publish()
    assert not child.exists()
    assert made.is_made
    made.publish()
    assert is_child_of(child, path)


@pytest.mark.parametrize("error", [errno.EIO, errno.EEXIST])
def test_a_name_that_a_child_has_got_in_spite_of_an_error_is_taken_back(tmp_path, monkeypatch, error):
    """Over a network an error may come after the deed, which may have been a link beside the name that passes."""
    path, child = tmp_path / "disk.vhd", tmp_path / "child.qcow2"
    path.write_bytes(bytes(1024))
    made = QcowChild(child, path, DiskKind.VHD_FIXED)
    made._partial.write_bytes(b"a child")

    def links(source: Path, target: Path) -> None:
        os.link(source, target)
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patched:
        patched.setattr("hsr.exchange.child.rename_without_replacing", links)
        with pytest.raises((RestoreError, BusyError)):
            made.publish()
    assert not child.exists()
    assert made.is_made
    child.write_bytes(b"another's")
    with pytest.raises(BusyError, match="exists already"):
        made.publish()
    assert child.read_bytes() == b"another's"


def test_a_child_that_was_moved_is_looked_at_where_it_is(world, tmp_path):
    path, child = lent(world, tmp_path, DiskKind.VHD)
    moved = tmp_path / "moved.qcow2"
    child.rename(moved)
    child.symlink_to(moved.name)
    with subprocess.Popen(["tail", "-f", "-c1", str(child)], stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.read(1)
        with pytest.raises(BusyError, match=rf"tail \({reader.pid}\)") as caught:
            take_back(path)
        reader.kill()
    assert caught.value.path == str(moved)
    assert read_standing(path).phase is Phase.LENT
    moved.unlink()
    take_back(path)
    assert read_standing(path).phase is Phase.ROLLING


def test_a_child_whose_folder_is_a_file_by_now_hinders_nothing(world, tmp_path):
    path, folder = tmp_path / "disk.img", tmp_path / "children"
    folder.mkdir()
    with begun(world, path) as disk:
        roll(disk, world, 2)
        disk.lend_at(world.points[2], QcowChild(folder / "child.qcow2", path, DiskKind.VHDX))
    (folder / "child.qcow2").unlink()
    folder.rmdir()
    folder.write_text("a note")
    take_back(path)
    assert read_standing(path).phase is Phase.ROLLING


def test_two_disks_lent_under_one_name_do_not_take_each_others_child(world, tmp_path):
    child = tmp_path / "child.qcow2"
    paths = [tmp_path / name / "disk.vhd" for name in ("one", "other")]
    children = [QcowChild(child, path, DiskKind.VHD) for path in paths]
    for path, made in zip(paths, children, strict=True):
        path.parent.mkdir()
        with begun(world, path, DiskKind.VHD) as disk:
            roll(disk, world, 2)
            disk.finalize(world.points[2])
        made.make()
    children[0].publish()
    assert is_child_of(child, paths[0])
    with pytest.raises(BusyError, match="exists already"):
        children[1].publish()


def test_a_cursor_that_cannot_be_written_leaves_a_lent_disk_that_nobody_writes_to(
    world, tmp_path, monkeypatch
):
    path, _ = lent(world, tmp_path, DiskKind.VHD)

    def full(*_: object) -> None:
        raise RestoreError("the disk is full", path=str(path))

    with monkeypatch.context() as patched:
        patched.setattr("hsr.rolling.lending.write_cursor", full)
        with pytest.raises(RestoreError, match="full"):
            take_back(path)
    assert read_standing(path).phase is Phase.LENT
    assert path.stat().st_mode & 0o222 == 0
    take_back(path)


def test_the_time_that_is_set_lies_before_any_write_however_coarse_times_are(tmp_path):
    path = tmp_path / "disk"
    path.touch()
    moment_ns = 1_780_000_000_000_000_000
    os.utime(path, ns=(moment_ns, moment_ns))
    LocalMedium().settle_time(path)
    found = path.stat().st_mtime_ns
    assert found < moment_ns
    assert found % 2_000_000_000 == 0


def test_whoever_may_only_read_a_disk_keeps_it_alone_too(world, tmp_path, monkeypatch):
    path, child = lent(world, tmp_path, DiskKind.VHD)
    opened = os.open

    def only_for_reading(name, flags, *rest, **named):
        if Path(name) in (path, child) and flags & os.O_ACCMODE == os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(name, flags, *rest, **named)

    monkeypatch.setattr("hsr.rolling.users.os.open", only_for_reading)
    with alone_with((path, child)):
        done = qemu_img("convert", "-O", "raw", child, tmp_path / "read.raw")
        assert done.returncode
        assert "lock" in done.stderr
    assert qemu_img("convert", "-O", "raw", child, tmp_path / "read.raw").returncode == 0


def test_a_lent_disk_with_a_damaged_cursor_is_left_where_it_is(world, tmp_path):
    from hsr.rolling.disk import set_damaged_aside

    path, _ = lent(world, tmp_path, DiskKind.VHDX)
    cursor = tmp_path / SIDE_NAME / "disk.img.cursor"
    cursor.write_bytes(cursor.read_bytes()[:-1] + b"?")
    with pytest.raises(ConfigurationError, match="nothing proves"):
        set_damaged_aside(path, DiskKind.VHDX)
    assert path.exists()


def test_interrupted_before_it_was_told_of(world, tmp_path):
    """Killed between its last signature and its child: what somebody wrote a minute later is not taken for ours."""
    path = tmp_path / "disk.vhd"

    class Killed(BaseException):
        pass

    class Child(QcowChild):
        def make(self) -> None:
            raise Killed

    def lend() -> None:
        with RollingDisk.open(path) as disk, pytest.raises(Killed):
            disk.lend_at(world.points[2], Child(tmp_path / "child.qcow2", path, DiskKind.VHD))

    with begun(world, path, DiskKind.VHD, Place.whole(ROOM)) as disk:
        roll(disk, world, 2)
    lend()
    assert read_standing(path).phase is Phase.LENDING
    take_back(path)
    lend()
    late_ns = path.stat().st_mtime_ns + 90 * 10**9
    os.utime(path, ns=(late_ns, late_ns))
    with pytest.raises(RestoreError, match="written to since"):
        take_back(path)
