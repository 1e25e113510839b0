"""A restore is tested in a process of its own: what it finds, what stands in its way, what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ops.restore_tester import SHOTS, ChildTester, sweep_tests
from policies.errors import (
    ConfigurationError,
    DigestMismatchError,
    FormatError,
    PasswordError,
    RestoreError,
    RollforwardError,
    StorageError,
)
from policies.packed_errors import pack_error, unpack_error
from policies.restore_tests import Verdict
from storage.ledger_entries import KEPT_FOR
from storage.mounts import mounts
from tests.checks.serving import BOOT_SECTOR
from tests.checks.starting import order_of
from tests.command import in_this_process
from tests.commands import run, tool
from tests.failing_medium import FailingMedium, needs_fuse
from tests.unit.test_boot import WRITES
from tests.unit.tiny import Password, TinyVolume, noise
from tests.waiting import wait_for

MIB = 1 << 20

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="FUSE cannot be used here"
)


def never() -> bool:
    return False


def make_file_system(volume: TinyVolume) -> TinyVolume:
    volume.resize(8 * MIB)
    run("mkfs.ext4", "-q", "-F", "-d", "/usr/share/doc/e2fsprogs", str(volume.raw))
    volume.capture()
    return volume


@pytest.fixture
def ext4(tiny: TinyVolume) -> TinyVolume:
    return make_file_system(tiny)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where scratch folders of tests lie: its name leaves room for that of a socket."""
    with TemporaryDirectory(prefix="rf-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture
def tester(tmp_path: Path) -> ChildTester:
    return ChildTester(tmp_path / "state")


def have_only(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have no other programs installed than these."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(tool(name))
    monkeypatch.setenv("PATH", str(folder))


def hang(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have file systems checked for ever; return a file that says which process is at it."""
    folder.mkdir()
    busy = folder / "busy"
    (folder / "e2fsck").write_text(f"#!/bin/sh\necho $$ > {busy}\nexec sleep 60\n")
    (folder / "e2fsck").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return busy


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()


def put_shots(folder: Path) -> None:
    """Leave a screenshot that nobody knows of any more, and a newer one."""
    folder.mkdir(parents=True)
    for name, age_s in (("old.png", KEPT_FOR.total_seconds() + 60), ("new.png", 3600)):
        (folder / name).touch()
        moment = (folder / name).stat().st_mtime - age_s
        os.utime(folder / name, (moment, moment))


def test_a_whole_file_system_and_a_start(ext4: TinyVolume, tester: ChildTester, room: Path, tmp_path: Path):
    ext4.put(0, BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa")
    ext4.capture()
    order = order_of(ext4, starts=True, marker="from a backup", shot="shot.png")
    put_shots(tmp_path / "state" / SHOTS)
    answer = tester(order, never)
    assert answer is not None
    assert (answer.verdict, answer.lacking) == (Verdict.GOOD, None)
    assert re.fullmatch(r"volume: ext4 good; start: said its words, [0-9.]+ s, by (tcg|kvm)", answer.words)
    shot = tmp_path / "state" / SHOTS / "shot.png"
    assert answer.screenshot == str(shot)
    assert shot.read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in shot.parent.iterdir()) == ["new.png", "shot.png"]
    assert answer.seconds > 0
    assert list(room.iterdir()) == []


def test_what_says_nowhere_that_it_starts_is_started_only_if_that_is_asked(
    ext4: TinyVolume, tester: ChildTester
):
    passed_over = tester(order_of(ext4, starts=True), never)
    assert passed_over is not None
    assert (passed_over.verdict, passed_over.words) == (
        Verdict.GOOD,
        "volume: ext4 good; not started: nothing says that it starts",
    )
    insisted = tester(order_of(ext4, starts=True, insists=True), never)
    assert insisted is not None
    assert insisted.verdict is Verdict.BAD
    assert "start: nothing starts" in insisted.words


def test_an_encrypted_point_takes_the_password(quick_path: Path, tester: ChildTester):
    volume = make_file_system(TinyVolume(quick_path / "secret", password=Password(b"horse")))
    answer = tester(order_of(volume, password=b"horse"), never)
    assert answer is not None
    assert answer.verdict is Verdict.GOOD
    with pytest.raises(PasswordError, match="the job has no password"):
        tester(order_of(volume), never)


def test_another_image_than_the_one_that_was_verified_is_refused(ext4: TinyVolume, tester: ChildTester):
    order = order_of(ext4)
    with pytest.raises(FormatError, match="not the image that was verified") as caught:
        tester(replace(order, roots=(bytes(32),)), never)
    assert caught.value.path == str(order.images[0])
    with pytest.raises(FormatError, match="another point"):
        tester(replace(order, point_id=bytes(16)), never)


def test_a_damaged_image_is_named(ext4: TinyVolume, tester: ChildTester):
    order = order_of(ext4)
    with order.images[0].open("r+b") as file:
        file.seek(1024)  # in a frame that the check reads
        file.write(os.urandom(600))
    with pytest.raises(FormatError) as caught:
        tester(order, never)
    assert caught.value.path == str(order.images[0])


@needs_fuse
def test_a_share_that_fails_during_a_start_says_nothing_of_the_point(
    tiny: TinyVolume, tester: ChildTester, tmp_path: Path
):
    tiny.put(0, WRITES.ljust(510, b"\0") + b"\x55\xaa" + bytes(10 * MIB))
    tiny.put(4 * MIB, noise(4 * MIB))
    tiny.capture()
    with FailingMedium(tmp_path / "share") as share:
        name = tiny.image().name
        shutil.copyfile(tiny.image(), share.folder / name)
        order = replace(order_of(tiny, starts=True, marker="was refused"), images=(share.folder / name,))
        share.fail(name, 3 * MIB)  # only the guest reads there, and then it says the marker
        with pytest.raises(StorageError, match="Input/output error") as caught:
            tester(order, never)
        assert caught.value.path == str(share.folder / name)
        assert caught.value.retryable
        options = ("--boot", "--marker", "was refused", "--accelerator", "tcg", "--memory", "64")
        ran = in_this_process("test-restore", share.folder, "--volume", tiny.name, *options)
    assert ran.code == 7, str(ran)
    assert str(share.folder / name) in ran.errors


@pytest.mark.parametrize("marker", ["", " "])
def test_an_order_with_a_blank_marker_is_refused(ext4: TinyVolume, tester: ChildTester, marker: str):
    order = order_of(ext4, starts=True, insists=True, marker=marker)
    with pytest.raises(ConfigurationError, match="is no marker") as caught:
        tester(order, never)
    assert "hsr test" in (caught.value.hint or "")


def test_programs_that_look_at_a_backup_inherit_no_order(
    ext4: TinyVolume, tester: ChildTester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spy, seen, real = tmp_path / "bin" / "e2fsck", tmp_path / "seen", tool("e2fsck")
    spy.parent.mkdir()
    spy.write_text(f'#!/bin/sh\nreadlink /proc/self/fd/0 >> {seen}\nexec {real} "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{spy.parent}:{os.environ['PATH']}")
    assert tester(order_of(ext4), never) is not None
    assert set(seen.read_text().split()) == {"/dev/null"}


def test_a_program_that_is_missing_is_named(
    ext4: TinyVolume, tester: ChildTester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    have_only(tmp_path / "programs", monkeypatch, "e2fsck", "fusermount3")
    with pytest.raises(ConfigurationError, match=r"qemu-\S+ is not installed") as caught:
        tester(order_of(ext4, starts=True, insists=True), never)
    assert "Debian" in (caught.value.hint or "")
    with ext4.raw.open("r+b") as file:  # it was in use
        file.seek(1024 + 0x60)
        flags = int.from_bytes(file.read(4), "little") | 0x4
        file.seek(1024 + 0x60)
        file.write(flags.to_bytes(4, "little"))
    ext4.capture()
    answer = tester(order_of(ext4), never)
    assert answer is not None
    assert answer.verdict is Verdict.UNCLEAR
    assert re.match(r"qemu-\S+ is not installed\. Install it", answer.lacking or "")


def leave(busy: Path) -> Callable[[], bool]:
    return lambda: busy.exists() and bool(busy.read_text().strip())


def test_a_test_that_is_stopped_or_takes_too_long_leaves_nothing(
    ext4: TinyVolume, tester: ChildTester, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    busy = hang(tmp_path / "programs", monkeypatch)
    assert tester(order_of(ext4), leave(busy)) is None
    assert list(room.iterdir()) == []
    wait_for(lambda: not is_there(int(busy.read_text())), "the end of the check")
    busy.unlink()
    with pytest.raises(RestoreError, match="took longer"):
        ChildTester(tmp_path / "state", limit_s=0.1)(order_of(ext4), never)
    wait_for(lambda: list(room.iterdir()) == [], "all of it to go")


def test_a_test_that_is_killed_leaves_what_the_next_worker_sweeps_away(
    ext4: TinyVolume, tester: ChildTester, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(room))
    busy = hang(tmp_path / "programs", monkeypatch)

    def kill() -> bool:
        if busy.exists() and busy.read_text().strip():
            for pid in children():
                os.kill(pid, signal.SIGKILL)
        return False

    with pytest.raises(RestoreError, match="was killed by signal 9, and did not say"):
        tester(order_of(ext4), kill)
    wait_for(lambda: not is_there(int(busy.read_text())), "the end of the check")

    def swept() -> bool:
        sweep_tests()
        return list(room.iterdir()) == [] and not any(room in mount.at.parents for mount in mounts())

    wait_for(swept, "all of it to go")


def test_a_guest_ends_with_the_test_that_started_it(
    tiny: TinyVolume, tester: ChildTester, room: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(room))
    tiny.put(0, BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa" + bytes(MIB))
    tiny.capture()
    order = order_of(tiny, starts=True, marker="never said")

    def kill() -> bool:
        if guests(room):
            for pid in children():
                os.kill(pid, signal.SIGKILL)
        return False

    with pytest.raises(RestoreError, match="signal 9"):
        tester(order, kill)
    wait_for(lambda: not guests(room), "the end of the guest")
    sweep_tests()
    assert list(room.iterdir()) == []
    assert tester(order, lambda: bool(guests(room))) is None
    assert not guests(room)
    assert list(room.iterdir()) == []


def guests(room: Path) -> list[int]:
    """List the machines whose disks lie in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes()
                if b"qemu-system" in words and os.fsencode(room) in words:
                    found.append(int(entry.name))
    return found


def children() -> list[int]:
    """List the processes of this one that test a restore."""
    found = []
    for entry in Path("/proc/self/task").iterdir():
        for pid in (entry / "children").read_text().split():
            if b"ops.restore_child" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DigestMismatchError("bytes differ", path="/x", offset=3, expected=1, actual=2), FormatError),
        (StorageError("does not answer", path="/x", hint="look"), StorageError),
        (ConfigurationError("no"), ConfigurationError),
        (RollforwardError("odd"), RestoreError),
    ],
)
def test_errors_cross_over(error: RollforwardError, kind: type[RollforwardError]):
    found = unpack_error(pack_error(error))
    assert (type(found), str(found), found.path, found.hint) == (kind, str(error), error.path, error.hint)
