"""Disks on shares: what a server or its client may do that no disk of this machine does, pretended on one."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from hsr.disks import shares
from hsr.disks.form import DiskKind
from hsr.disks.medium import LocalMedium
from hsr.disks.shares import Link, refuse_unmounted
from hsr.disks.side_files import SidePaths
from hsr.rolling.cursor_file import (
    Phase,
    Place,
    Standing,
    cursor_path,
    encode_cursor,
    read_cursor,
    write_cursor,
)
from hsr.rolling.disk import RollingDisk, finalize_at
from hsr.targets import DirectWriter
from ops.config_document import address_fault, plain_address
from policies.cursor import roll_on_path
from policies.errors import BusyError, RestoreError
from storage import mounts, sharing
from storage.locking import lock_file
from storage.mounts import Mount, share_at
from storage.publish import PartialFile
from tests.rolling_world import JOB, RollingWorld, make_world
from tests.torn_medium import PowerCut, TornMedium

STATE = """Servers:
1) ConnectionId: 0x1 Hostname: nas
Number of credits: 389 Dialect 0x311
TCP status: 1 Instance: {first}
\tSessions:
\t1) Address: 10.0.2.2 Uses: 1

2) ConnectionId: 0x2 Hostname: other
TCP status: 1 Instance: {second}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> RollingWorld:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def on_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that passes for one on a share of the kernel's own client."""
    device = tmp_path.stat().st_dev
    pretended = [Mount(tmp_path, "cifs", "//nas/disks", device, frozenset({"rw"}))]
    monkeypatch.setattr(mounts, "mounts", lambda: pretended)
    monkeypatch.setattr(sharing, "_PATIENCE_S", 0.3)
    monkeypatch.setattr(shares, "_STATE", tmp_path / "DebugData")
    say_connections(tmp_path)
    return tmp_path


def say_connections(folder: Path, first: int = 1, second: int = 1) -> None:
    (folder / "DebugData").write_text(STATE.format(first=first, second=second))


def failing(code: int, times: int, real: Callable[..., object]) -> Callable[..., object]:
    left = times

    def deed(*given: object, **named: object) -> object:
        nonlocal left
        if left:
            left -= 1
            raise OSError(code, os.strerror(code))
        return real(*given, **named)

    return deed


def rolled(world: RollingWorld, disk: RollingDisk, number: int) -> None:
    path = roll_on_path(disk.cursor, list(world.spans), world.points[number].id)
    assert path is not None
    disk.apply(world.paths(path))


def begun(world: RollingWorld, path: Path) -> RollingDisk:
    return RollingDisk.begin(path, DiskKind.VHD, world.place, job_uid=JOB, chain_id=world.chain_id)


def test_a_folder_of_this_machine_is_no_share(tmp_path: Path):
    assert share_at(tmp_path) is None
    with pytest.raises(RestoreError, match="no share is mounted there"):
        refuse_unmounted(tmp_path)
    with pytest.raises(RestoreError, match="cannot be reached"):
        refuse_unmounted(tmp_path / "missing")


def test_a_share_that_never_syncs_is_refused(on_share: Path, monkeypatch: pytest.MonkeyPatch):
    refuse_unmounted(on_share)
    (share,) = mounts.mounts()
    lax = Mount(share.at, share.kind, share.source, share.device, frozenset({"rw", "nostrictsync"}))
    monkeypatch.setattr(mounts, "mounts", lambda: [lax])
    with pytest.raises(RestoreError, match="nostrictsync"):
        refuse_unmounted(on_share)


def test_a_lock_on_a_share_keeps_nobody_from_reading_and_writing(on_share: Path):
    path = on_share / "file"
    path.write_bytes(b"content")
    with path.open("r+b") as one, path.open("r+b") as other:
        lock_file(one.fileno())
        with pytest.raises(BlockingIOError):
            lock_file(other.fileno())
        fcntl.flock(other.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)  # it is not the whole file
        fcntl.lockf(other.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1 << 40)
    with path.open("r+b") as other:
        lock_file(other.fileno())


def test_a_lock_refused_with_other_words_is_held_too(on_share: Path, monkeypatch: pytest.MonkeyPatch):
    (on_share / "file").touch()
    monkeypatch.setattr(fcntl, "fcntl", failing(errno.EACCES, 1, fcntl.fcntl))
    with pytest.raises(BusyError):
        LocalMedium().open(on_share / "file")


def test_what_cannot_be_told_is_not_missing(
    world: RollingWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A share that does not answer for a moment must not make a disk look as if it were finalized."""
    path = tmp_path / "disk.vhd"
    with begun(world, path) as disk:
        rolled(world, disk, 1)
        disk._begin_finalizing(world.points[1])
    with monkeypatch.context() as patched:
        patched.setattr(Path, "lstat", failing(errno.EIO, 1, Path.lstat))
        with pytest.raises(RestoreError, match="Input/output"):
            finalize_at(path, world.points[1])
    assert read_cursor(LocalMedium(), SidePaths.beside(path)) is not None
    finalize_at(path, world.points[1])
    assert path.read_bytes().startswith(b"conectix")


def test_a_share_that_is_away_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "open", failing(errno.EHOSTDOWN, 1, os.open))
    with pytest.raises(RestoreError) as refused:
        LocalMedium().open(tmp_path / "file")
    assert "server" in (refused.value.hint or "")


def test_a_connection_made_anew_leaves_the_cursor_wide(world: RollingWorld, on_share: Path):
    """What a server had not yet written may be lost, though the sync after that succeeds."""
    path = on_share / "disk.vhd"
    with begun(world, path) as disk:
        rolled(world, disk, 0)
        images = world.paths(roll_on_path(disk.cursor, list(world.spans), world.points[2].id) or ())
        with pytest.raises(RestoreError, match="the connection to the server broke"):
            disk.apply(images, progress=lambda *_: say_connections(on_share, 2))
        with pytest.raises(RestoreError, match="opened again"):
            disk.apply(images)
    with RollingDisk.open(path) as disk:
        assert not disk.cursor.is_closed
        disk.apply(images)
        assert disk.read(0, world.room_bytes) == world.truth(world.points[2])
        disk.finalize(world.points[2])


def test_a_connection_is_the_same_until_it_is_made_anew(on_share: Path):
    link = Link(share_at(on_share))
    with (on_share / "DebugData").open("a") as state:
        state.write("3) ConnectionId: 0x3 Hostname: third\nTCP status: 1 Instance: 7\n")
    link.refuse_broken(on_share)
    say_connections(on_share, 1, 2)
    with pytest.raises(RestoreError):
        link.refuse_broken(on_share)
    (on_share / "DebugData").unlink()
    link.refuse_broken(on_share)
    Link(share_at(on_share)).refuse_broken(on_share)
    Link(None).refuse_broken(on_share)


def standing(serial: int) -> Standing:
    return Standing(DiskKind.VHD, Place.whole(1 << 20), JOB, b"c" * 16, Phase.NEW, serial=serial)


def test_a_cursor_that_somebody_reads_is_replaced_once_he_is_done(
    on_share: Path, monkeypatch: pytest.MonkeyPatch
):
    paths = SidePaths(on_share, "d")
    write_cursor(LocalMedium(), paths, standing(1))
    monkeypatch.setattr(Path, "replace", failing(errno.EACCES, 2, Path.replace))
    write_cursor(LocalMedium(), paths, standing(2))
    assert read_cursor(LocalMedium(), paths) == standing(2)


def test_a_cursor_that_the_client_took_away_counts_by_its_other_name(
    on_share: Path, monkeypatch: pytest.MonkeyPatch
):
    """The kernel's client removes what it may not replace, and then fails all the same."""
    medium, paths = LocalMedium(), SidePaths(on_share, "d")
    write_cursor(medium, paths, standing(1))

    def lose(source: Path, target: Path) -> None:
        target.unlink(missing_ok=True)
        raise PermissionError(errno.EACCES, f"{source} cannot be renamed")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lose)
        with pytest.raises(RestoreError):
            write_cursor(medium, paths, standing(2))
    assert not cursor_path(paths).exists()
    assert read_cursor(medium, paths) == standing(2)
    write_cursor(medium, paths, standing(3))
    assert read_cursor(medium, paths) == standing(3)
    assert sorted(path.name for path in on_share.iterdir()) == ["DebugData", "d.cursor"]


@pytest.mark.parametrize("cut_at", range(1, 14))
def test_a_cursor_by_its_other_name_is_never_lost(cut_at: int):
    for seed in range(20):
        medium, paths = TornMedium(), SidePaths(Path("/disks"), "d")
        fresh = Path("/disks/d.cursor.new")
        file = medium.open(fresh, create=True)
        file.write(encode_cursor(standing(2)), 0)
        file.sync()
        medium.sync_folder(fresh.parent)
        medium.cut_at = medium.steps + cut_at
        try:
            write_cursor(medium, paths, standing(3))
        except PowerCut:
            medium = medium.recovered(Random(seed))
        assert read_cursor(medium, paths) in (standing(2), standing(3))


def test_half_a_cursor_counts_for_nothing(tmp_path: Path):
    paths = SidePaths(tmp_path, "d")
    (tmp_path / "d.cursor.new").write_bytes(encode_cursor(standing(1))[:-1])
    assert read_cursor(LocalMedium(), paths) is None
    write_cursor(LocalMedium(), paths, standing(2))
    assert read_cursor(LocalMedium(), paths) == standing(2)


def test_a_name_on_a_share_is_synced_by_its_file(on_share: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[str] = []
    real = os.fsync

    def noted(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        real(fd)

    monkeypatch.setattr(os, "fsync", noted)
    write_cursor(LocalMedium(), SidePaths(on_share, "d"), standing(1))
    assert synced == ["d.cursor", on_share.name]
    with PartialFile(on_share / "image") as partial:
        partial.publish()
    assert "image" in synced


def test_nothing_is_written_directly_on_a_share(on_share: Path):
    (on_share / "file").touch()
    direct = DirectWriter(on_share / "file")
    assert direct.write(0, memoryview(bytes(1 << 20))) == 0
    direct.close()


def test_a_copy_is_made_where_nobody_says_what_holes_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "source").write_bytes(bytes(70_000) + b"x" * 70_000)
    monkeypatch.setattr(os, "lseek", failing(errno.EIO, 9, os.lseek))
    assert LocalMedium().copy(tmp_path / "source", tmp_path / "target", lambda *_: False)
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()


def test_what_is_open_may_not_be_renamed_or_removed(on_share: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "replace", failing(errno.EBUSY, 2, Path.replace))
    with PartialFile(on_share / "image", replacing=True) as partial:
        os.write(partial.fd, b"content")
        partial.replace()
    assert (on_share / "image").read_bytes() == b"content"
    monkeypatch.setattr(Path, "unlink", failing(errno.EBUSY, 1, Path.unlink))
    with PartialFile(on_share / "other"):
        pass
    LocalMedium().remove(on_share / "image")
    assert [path.name for path in on_share.iterdir()] == ["DebugData"]


def test_a_name_refused_for_good_is_told(on_share: Path, monkeypatch: pytest.MonkeyPatch):
    (on_share / "one").touch()
    monkeypatch.setattr(Path, "replace", failing(errno.EACCES, 1000, Path.replace))
    with pytest.raises(RestoreError, match="Permission denied"):
        LocalMedium().rename(on_share / "one", on_share / "two")


def test_an_address_holds_no_password():
    assert plain_address("smb://nas/disks/") == "//nas/disks"
    assert plain_address(r"\\nas\disks") == "//nas/disks"
    assert plain_address("SMB://nas/disks/one") == "//nas/disks/one"
    assert address_fault("smb://nas/disks") is None
    for address in ("smb://ali:sesame@nas/disks", "//ali%sesame@nas/disks", "smb://ali:se/same@nas/disks"):
        fault = address_fault(address)
        assert fault is not None
        assert "same" not in fault
