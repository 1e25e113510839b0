"""The disk of a running guest: each captured point is one moment of it, while its writer never pauses."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from policies.errors import SourceError
from storage import source_guest
from storage.bitmap_names import keeper_tag
from storage.capture import capture, keeper_of
from storage.nbd_uri import parse_nbd_uri
from storage.source_guest import GuestAccess
from storage.verify import verify_image
from tests.command import PROGRAM
from tests.guest import NODE, PAGE, PLACES, Guest, Writer, new_disk, running_guest
from tests.unit.tiny import START, TinyVolume, noise

MIB = 1 << 20
CONTENT = bytes(PAGE) + noise(3 * MIB - PAGE) + bytes(5 * MIB)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyVolume:
    return TinyVolume(tmp_path)


def take(tiny: TinyVolume, guest: Guest, **options: object):
    access = GuestAccess(guest.control, NODE, server=parse_nbd_uri(guest.uri), scratch=tiny.folder.parent)
    made = capture(access, tiny.folder, tiny.name, now=START, **options)
    assert not any("left in qemu" in note for note in access.notes)
    return made, access.notes


def restored(tiny: TinyVolume, number: int) -> bytes:
    target = tiny.folder.parent / "restored.raw"
    tiny.restore(number, target, overwrite=True)
    return target.read_bytes()


def must_be_clean(guest: Guest, left: list[str]) -> None:
    assert guest.things() == ([], ["guest"], [NODE])
    assert guest.bitmaps() == left


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_points_are_moments_of_a_disk_that_is_written_to(tiny, tmp_path, kind):
    disk = tmp_path / "disk"
    new_disk(disk, CONTENT, kind)
    with running_guest(tmp_path, disk, kind) as guest, Writer(guest, CONTENT) as writer:
        moments = []
        for number in range(5):
            writer.write_more(20)
            made, notes = take(tiny, guest)
            writer.write_more(20)
            assert made.header.metadata.get("read") == ("marked" if number else None)
            assert notes == []
            verify_image(made.path)
            (bitmap,) = guest.bitmaps()
            must_be_clean(guest, [bitmap])
            assert bitmap.endswith(made.header.end.id.hex()[:16])
            assert made.changed_bytes <= ((PLACES + 1) * PAGE if number else len(CONTENT))
            moments.append(writer.must_be_a_moment(restored(tiny, number)))
        assert moments == sorted(moments)
    after = moments[-1]
    assert after < len(writer.log), "nothing was written meanwhile"


def test_the_next_whole_capture_finds_all_changes(tiny, tmp_path):
    """Fingerprints follow what only a bitmap marked."""
    disk = tmp_path / "disk"
    new_disk(disk, CONTENT, "raw")
    with running_guest(tmp_path, disk) as guest, Writer(guest, CONTENT) as writer:
        for _ in range(3):
            writer.write_more(10)
            take(tiny, guest)
    made = capture(disk, tiny.folder, tiny.name, now=START)
    assert made.header.end.number == 3
    assert restored(tiny, 3) == disk.read_bytes()
    again = capture(disk, tiny.folder, tiny.name, now=START)
    assert again.changed_bytes == 0


def test_a_capture_that_fails_loses_no_marks(tiny, tmp_path):
    disk = tmp_path / "disk"
    new_disk(disk, CONTENT, "raw")

    def failing(_done: int, _total: int) -> None:
        raise RuntimeError("the sky falls")

    with running_guest(tmp_path, disk) as guest, Writer(guest, CONTENT) as writer:
        with pytest.raises(RuntimeError, match="sky"):
            take(tiny, guest, progress=failing)
        must_be_clean(guest, [])
        take(tiny, guest)
        bitmaps = guest.bitmaps()
        writer.write_more(10)
        with pytest.raises(RuntimeError, match="sky"):
            take(tiny, guest, progress=failing)
        must_be_clean(guest, bitmaps)
        writer.write_more(10)
        made, _ = take(tiny, guest)
        assert made.header.metadata["read"] == "marked"
        writer.must_be_a_moment(restored(tiny, 1))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_capture_that_is_killed_loses_no_marks(tiny, tmp_path, number):
    content = CONTENT + noise(64 * MIB, 5)
    disk = tmp_path / "disk"
    new_disk(disk, content, "raw")
    with running_guest(tmp_path, disk) as guest, Writer(guest, content) as writer:
        take(tiny, guest)
        bitmaps = guest.bitmaps()
        writer.write_more(100)
        command = [PROGRAM, "capture", "--qmp", guest.control, "--node", NODE, "--nbd-server", guest.uri]
        where = ["--into", tiny.folder, "--volume", tiny.name, "--scratch", tmp_path]
        with subprocess.Popen(
            [*command, *where], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as killed:
            while killed.poll() is None and not list(tmp_path.glob("rollforward-guest-*")):
                pass
            killed.send_signal(number)
        if number == signal.SIGTERM:
            assert killed.returncode == 128 + number
            must_be_clean(guest, bitmaps)
        writer.write_more(20)
        made, notes = take(tiny, guest)
        assert (made.header.metadata["read"], notes) == ("marked", [])
        assert len(guest.bitmaps()) == 1
        must_be_clean(guest, guest.bitmaps())
        writer.must_be_a_moment(restored(tiny, made.header.end.number))


def test_bitmaps_that_are_gone_mean_that_all_is_compared(tiny, tmp_path):
    disk = tmp_path / "disk"
    new_disk(disk, CONTENT, "raw")
    with running_guest(tmp_path, disk) as guest:
        take(tiny, guest)
    with disk.open("r+b") as file:
        file.seek(MIB)
        file.write(b"changed while nobody marked it")
    with running_guest(tmp_path, disk) as guest:
        made, notes = take(tiny, guest)
        assert ["all was read" in note for note in notes] == [True]
        assert made.changed_bytes == 512
        assert restored(tiny, 1) == disk.read_bytes()


def test_bitmaps_of_qcow2_outlive_their_qemu(tiny, tmp_path):
    disk = tmp_path / "disk"
    new_disk(disk, CONTENT, "qcow2")
    with running_guest(tmp_path, disk, "qcow2") as guest, Writer(guest, CONTENT) as writer:
        take(tiny, guest)
        writer.write_more(10)
    with running_guest(tmp_path, disk, "qcow2") as guest:
        made, _ = take(tiny, guest)
        assert made.header.metadata["read"] == "marked"
        assert writer.must_be_a_moment(restored(tiny, 1)) == len(writer.log)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose name leaves room for that of a socket."""
    with TemporaryDirectory(prefix="rf-") as folder:
        yield Path(folder)


def test_what_qemu_cannot_do_is_said(tiny, tmp_path, short):
    disk = tmp_path / "disk"
    new_disk(disk, CONTENT, "raw")
    with running_guest(tmp_path, disk) as guest:
        with pytest.raises(SourceError, match="no node named") as caught:
            capture(GuestAccess(guest.control, "disk9"), tiny.folder, tiny.name, now=START)
        assert NODE in (caught.value.hint or "")
        access = GuestAccess(guest.control, NODE, scratch=short)
        with pytest.raises(SourceError, match="already running") as caught:
            capture(access, tiny.folder, tiny.name, now=START)
        assert "--nbd-server" in (caught.value.hint or "")
        far = tmp_path / ("far" * 40)
        far.mkdir()
        with pytest.raises(SourceError, match="too long") as caught:
            capture(GuestAccess(guest.control, NODE, scratch=far), tiny.folder, tiny.name, now=START)
        assert "--scratch" in (caught.value.hint or "")
        assert not list(far.iterdir())
        assert access.notes == []
        must_be_clean(guest, [])
    with pytest.raises(SourceError, match="cannot be reached"):
        capture(GuestAccess(tmp_path / "none", NODE), tiny.folder, tiny.name, now=START)


@pytest.mark.parametrize("is_ours", [True, False])
def test_left_over(tiny, tmp_path, is_ours):
    """Killed between the start of qemu's NBD server and the export: nothing but its socket tells whose it is."""
    disk = tmp_path / "disk"
    new_disk(disk, CONTENT, "raw")
    with running_guest(tmp_path, disk, export=None) as guest:
        prefix = (
            f"rollforward-guest-{keeper_tag(keeper_of(tiny.folder, tiny.name))}-" if is_ours else "other-"
        )
        left = tmp_path / f"{prefix}abc"
        left.mkdir()
        (left / "overwritten").touch()
        guest.asked("nbd-server-start", addr={"type": "unix", "data": {"path": str(left / "nbd")}})
        access = GuestAccess(guest.control, NODE, scratch=tmp_path)
        if not is_ours:
            with pytest.raises(SourceError, match="already running") as caught:
                capture(access, tiny.folder, tiny.name, now=START)
            assert "--nbd-server" in caught.value.hint
            assert left.exists()
            return
        for number in range(2):
            made = capture(access, tiny.folder, tiny.name, now=START)
            assert made.header.end.number == number
        assert access.notes == []
        assert not list(tmp_path.glob("rollforward-guest-*"))
        assert guest.things() == ([], [], [NODE])


def test_a_scratch_folder_that_cannot_be_used_is_said(tiny, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    new_disk(disk, CONTENT, "raw")

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with running_guest(tmp_path, disk) as guest:
        monkeypatch.setattr(source_guest.os, "chown", refused)
        with pytest.raises(SourceError, match="no folder for what the guest overwrites") as caught:
            take(tiny, guest)
        assert "--scratch" in caught.value.hint
        must_be_clean(guest, [])
    assert not list(tiny.folder.parent.glob("rollforward-guest-*"))


def test_a_differential_that_fails_loses_no_marks_either(tiny, tmp_path):
    """The bitmap that counts for the next incremental is not the one that counts for the differential."""
    disk = tmp_path / "disk"
    new_disk(disk, CONTENT, "raw")

    def failing(_done: int, _total: int) -> None:
        raise RuntimeError("the sky falls")

    with running_guest(tmp_path, disk) as guest, Writer(guest, CONTENT) as writer:
        for _ in range(2):
            take(tiny, guest)
        bitmaps = guest.bitmaps()
        writer.write_more(10)
        with pytest.raises(RuntimeError, match="sky"):
            take(tiny, guest, differential_of=0, progress=failing)
        must_be_clean(guest, bitmaps)
        made, _ = take(tiny, guest)
        assert made.header.metadata["read"] == "marked"
        made, notes = take(tiny, guest, differential_of=0)
        assert (made.header.metadata.get("read"), len(notes)) == (None, 1)
        writer.write_more(10)
        made, _ = take(tiny, guest)
        assert made.header.metadata["read"] == "marked"
        must_be_clean(guest, guest.bitmaps()[:1])
        writer.must_be_a_moment(restored(tiny, 4))
