"""HeadStart jobs whose disk is a block device: taken when a person says so, known again by its mark, or left alone."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pytest

from hsr.disks.device_mark import mark_on
from hsr.disks.side_files import SIDE_NAME, Claim
from policies.headstart import DiskState
from storage.capture import capture
from storage.catalog.headstart import make_job_due
from tests.commands import is_clean_ext4, run
from tests.disk_readers import blkid_says
from tests.household import VOLUME, Household
from tests.killer import Killed, Killer
from tests.loop import loop_device, needs_root
from tests.office import HOUR, Office

pytestmark = needs_root

MORNING = datetime(2026, 3, 2, 6, tzinfo=UTC)
MIB = 1 << 20
DEVICE_BYTES = 8 * MIB


class Bench(Office):
    """An office whose volume is a small ext4, with a device beside it."""

    device: Path

    def new_file(self, name: str, size_bytes: int = DEVICE_BYTES, fill: bytes = b"\0") -> Path:
        file = self.place / name
        file.write_bytes(fill * size_bytes)
        return file

    def settled(self) -> None:
        """Capture a first state of an ext4, and have the location."""
        run("mkfs.ext4", "-q", "-F", "-b", "1024", str(self.source.path))
        self.mark("0")
        self.land()
        self.did("location", "add", "here", self.disks)

    def mark(self, words: str) -> None:
        """Write a file into the volume."""
        note = self.place / "note"
        note.write_text(words * 3000)
        run("debugfs", "-w", "-R", "rm note", str(self.source.path))
        run("debugfs", "-w", "-R", f"write {note} note", str(self.source.path))

    def land(self) -> None:
        """Have the volume captured as it is, and all be done."""
        capture(self.source.path, self.home.folder, VOLUME, now=self.home.now)
        self.truth[len(self.truth)] = self.source.path.read_bytes()
        self.home.settle()

    def adding(self, *words: str | Path, device: Path | None = None) -> list[str | Path]:
        common = ["hsr", "add", "stand-by", self.home.folder, "--location", "here", "--subfolder", "kept"]
        return [*common, "--device", device or self.device, *words]

    def roll(self, count: int = 1) -> None:
        for _ in range(count):
            self.home.now += HOUR
            self.mark(str(len(self.truth)))
            self.land()

    def number(self) -> int | None:
        number = self.shown()["number"]
        assert number is None or isinstance(number, int)
        return number

    def look_again(self) -> None:
        self.home.now += 3 * HOUR
        with self.home.catalog.write() as session:
            make_job_due(session, self.row().job_id)
        self.home.settle()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    home = Household(tmp_path / "home", MORNING)
    one = Bench(tmp_path, home)
    with loop_device(one.new_file("backing")) as one.device:
        one.settled()
        yield one
    home.catalog.close()


def is_nothing(device: Path) -> bool:
    return blkid_says(device) == "" and not any(device.read_bytes()[:2048])


def test_a_device_is_rolled_forward_and_shows_nothing_until_it_is_finalized(bench: Bench):
    bench.did(*bench.adding("--lag", "1h"))
    assert is_nothing(bench.device)
    bench.home.settle()
    bench.roll(3)
    assert bench.number() == 2
    assert is_nothing(bench.device)
    assert {path.name for path in (bench.disks / "kept" / SIDE_NAME).iterdir()} == {
        f"{bench.device.name}.{ending}" for ending in ("map", "edges", "cursor")
    }
    bench.did("hsr", "finalize", "stand-by", "--point", "3")
    assert bench.device.read_bytes()[: bench.volume_bytes] == bench.truth[3]
    assert not any(bench.device.read_bytes()[-MIB:])
    assert "ext4" in blkid_says(bench.device)
    assert is_clean_ext4(bench.device)
    bench.home.lose_catalogue()
    bench.home.settle()
    assert bench.row().state is DiskState.FINALIZED


@pytest.mark.parametrize("wrap", ["mbr", "gpt"])
def test_a_wrapped_volume_on_a_larger_device(bench: Bench, wrap: str):
    bench.did(*bench.adding("--wrap", wrap))
    bench.home.settle()
    bench.roll()
    assert is_nothing(bench.device)
    bench.did("hsr", "finalize", "stand-by")
    assert bench.device.read_bytes()[MIB:][: bench.volume_bytes] == bench.truth[1]
    told = run("sfdisk", "--verify", str(bench.device))
    assert "No errors detected" in told
    assert is_clean_ext4(Path(f"{bench.device}?offset={MIB}"))
    if wrap == "gpt":
        assert bench.device.read_bytes()[-512:].startswith(b"EFI PART")


def test_a_catalogue_that_is_lost_finds_the_device_by_its_mark(bench: Bench):
    bench.did(*bench.adding())
    bench.home.settle()
    bench.home.lose_catalogue()
    bench.home.settle()
    bench.roll()
    assert bench.number() == 1


def test_what_is_no_free_device_is_refused(bench: Bench):
    other = bench.place / "file"
    other.write_bytes(bytes(DEVICE_BYTES))
    assert "is no block device" in bench.refused(*bench.adding(device=other))
    run("mkfs.ext4", "-q", "-F", "-L", "people", str(bench.device))
    before = bench.device.read_bytes()
    said = bench.refused(*bench.adding())
    assert "holds ext4 'people'" in said
    assert "--overwrite" in said
    mounted = bench.place / "mounted"
    mounted.mkdir()
    run("mount", "-o", "ro", str(bench.device), str(mounted))
    try:
        assert "is in use" in bench.refused(*bench.adding("--overwrite"), code=6)
    finally:
        run("umount", str(mounted))
    assert bench.device.read_bytes() == before
    with loop_device(bench.new_file("small", 768 << 10)) as small:
        said = bench.refused(*bench.adding(device=small), code=6)
        assert "is too small" in said
        assert "1,048,576" in said
    run("dd", "if=/dev/zero", f"of={bench.device}", "bs=1M", "count=8", "conv=fsync")
    subprocess.run(["sfdisk", "-q", str(bench.device)], input="label: gpt\n,2M\n", text=True, check=True)
    assert "a partition table (gpt)" in bench.refused(*bench.adding())
    assert "leave --format out" in bench.refused(*bench.adding("--format", "vhd"))
    with loop_device(bench.new_file("large-sectors"), 4096) as large:
        said = bench.refused(*bench.adding("--wrap", "gpt", device=large))
        assert "sectors of 4,096 bytes" in said
    assert not bench.did("hsr", "list")
    bench.did(*bench.adding("--overwrite"))
    assert is_nothing(bench.device)
    assert "is where job 'stand-by' keeps a disk" in bench.refused(*["hsr", "add", "b", *bench.adding()[3:]])


def test_sectors_of_4096_bytes(bench: Bench):
    with loop_device(bench.new_file("large-sectors", fill=b"\x55"), 4096) as bench.device:
        assert "something that is not zero" in bench.refused(*bench.adding())
        bench.did(*bench.adding("--overwrite"))
        bench.home.settle()
        bench.roll(2)
        assert is_nothing(bench.device)
        bench.did("hsr", "finalize", "stand-by")
        assert bench.device.read_bytes()[: bench.volume_bytes] == bench.truth[2]


def attach(device: Path, file: Path) -> None:
    """Have a device's name be of another one."""
    run("losetup", "--detach", str(device))
    run("losetup", str(device), str(file))


@pytest.mark.parametrize("other", ["blank", "strange", "another job's", "of another size", "smaller"])
def test_another_device_under_the_same_name_is_left_alone(bench: Bench, other: str):
    bench.did(*bench.adding())
    bench.home.settle()
    file = bench.new_file("other")
    if other == "strange":
        run("mkfs.ext4", "-q", "-F", str(file))
    elif other == "another job's":
        mark = mark_on(bench.device)
        assert mark is not None
        content = bytearray(DEVICE_BYTES)
        content[:4096] = replace(mark, claim=Claim()).front()
        file.write_bytes(content)
    elif other in ("of another size", "smaller"):
        content = (bench.place / "backing").read_bytes()
        file.write_bytes(content + bytes(MIB) if other == "of another size" else content[:-MIB])
    before = file.read_bytes()
    attach(bench.device, file)
    bench.roll()
    assert bench.row().state is DiskState.STOPPED
    words = {
        "another job's": "was taken for another job",
        "of another size": "is another device",
        "smaller": "is another device",
    }
    assert words.get(other, "bears no mark of this job") in bench.row().reason
    assert bench.number() == 0
    bench.refused("hsr", "finalize", "stand-by", code=6)
    assert file.read_bytes() == before
    attach(bench.device, bench.place / "backing")
    bench.look_again()
    assert bench.number() == 1
    bench.did("hsr", "finalize", "stand-by")
    assert bench.device.read_bytes()[: bench.volume_bytes] == bench.truth[1]


def test_a_copy_of_a_device_and_one_that_was_taken_before(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """A copy bears the mark, and the number of the device that it was made of."""
    serial = ["serial 1"]
    for module in ("hsr.disks.medium", "actors.headstart_device"):
        monkeypatch.setattr(f"{module}.device_identity", lambda _: serial[0])
    bench.did(*bench.adding())
    bench.home.settle()
    first, copy = bench.place / "backing", bench.place / "copy"
    run("sync")
    shutil.copyfile(first, copy)
    before, serial[0] = copy.read_bytes(), "serial 2"
    attach(bench.device, copy)
    bench.roll()
    assert "or a copy of it" in bench.row().reason
    assert copy.read_bytes() == before
    said = bench.refused("hsr", "enable", "stand-by", "--fresh", "--yes")
    assert "something that is not zero" in said
    serial[0] = "serial 1"
    bench.did("hsr", "enable", "stand-by", "--fresh", "--yes")
    bench.home.settle()
    assert bench.number() == 1
    before = first.read_bytes()
    attach(bench.device, first)
    bench.roll()
    assert "was taken for this job before" in bench.row().reason
    assert first.read_bytes() == before
    attach(bench.device, copy)
    bench.look_again()
    assert bench.number() == 2


def test_a_device_that_is_gone_or_written_to_by_others(bench: Bench):
    bench.did(*bench.adding())
    bench.home.settle()
    run("mkfs.ext4", "-q", "-F", str(bench.device))
    before = bench.device.read_bytes()
    bench.roll()
    assert "somebody else wrote to it" in bench.row().reason
    assert bench.device.read_bytes() == before
    said = bench.refused("hsr", "enable", "stand-by", "--fresh", "--yes")
    assert "holds ext4" in said
    assert bench.device.read_bytes() == before
    bench.did("hsr", "enable", "stand-by", "--fresh", "--overwrite", "--yes")
    bench.home.settle()
    assert bench.number() == 1
    bench.did("hsr", "enable", "stand-by", "--fresh", "--yes")
    bench.home.settle()
    bench.did("hsr", "finalize", "stand-by")
    assert bench.device.read_bytes()[: bench.volume_bytes] == bench.truth[1]


def test_a_damaged_cursor_of_a_device(bench: Bench):
    bench.did(*bench.adding())
    bench.home.settle()
    cursor = bench.disks / "kept" / SIDE_NAME / f"{bench.device.name}.cursor"
    cursor.write_bytes(b"damaged")
    bench.look_again()
    assert bench.row().state is DiskState.NEEDS_FRESH
    bench.did("hsr", "enable", "stand-by", "--fresh", "--yes")
    bench.home.settle()
    assert bench.number() == 0
    assert cursor.with_name(f"{bench.device.name}.aside-1").is_dir()


def test_the_side_files_are_gone(bench: Bench):
    """Nothing is begun on a device because what tells of it is not there."""
    bench.did(*bench.adding())
    bench.home.settle()
    shutil.rmtree(bench.disks / "kept")
    before = bench.device.read_bytes()
    bench.roll()
    assert bench.row().state is DiskState.STOPPED
    assert "--fresh" in bench.row().reason
    bench.refused("hsr", "finalize", "stand-by")
    assert bench.device.read_bytes() == before
    bench.did("hsr", "enable", "stand-by", "--fresh", "--yes")
    bench.home.settle()
    assert bench.number() == 1


def test_killed_anywhere_in_taking_a_device_the_agent_leaves_it_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    killer, step = Killer(monkeypatch, "write", "write_pieces", "zero"), 0
    bench.did(*bench.adding())
    while True:
        run("dd", "if=/dev/zero", f"of={bench.device}", "bs=1M", "count=8", "conv=fsync")
        run("mkfs.ext4", "-q", "-F", str(bench.device))
        again = ["hsr", "enable", "stand-by", "--fresh", "--overwrite", "--yes"]
        killer.left = step
        with suppress(Killed):
            bench.do(*again)
        was_killed, killer.left = killer.left < 0, None
        before = bench.device.read_bytes()
        bench.look_again()
        if bench.number() is None:
            assert bench.device.read_bytes() == before
            bench.did(*again)
            bench.home.settle()
        assert bench.number() == 0
        if not was_killed:
            assert step > 20
            return
        step += 7


def test_killed_anywhere_in_finalizing_a_device(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.did(*bench.adding("--wrap", "gpt"))
    bench.home.settle()
    backing = bench.place / "backing"
    run("sync", str(bench.device))
    kept = {path: path.read_bytes() for path in bench.disks.rglob("*") if path.is_file()}
    content = bench.device.read_bytes()
    killer, step = Killer(monkeypatch, "write", "write_pieces", "zero"), 0
    while True:
        killer.left = step
        with suppress(Killed):
            bench.do("hsr", "finalize", "stand-by")
        was_killed, killer.left = killer.left < 0, None
        if bench.row().state is not DiskState.FINALIZED:
            bench.did("hsr", "finalize", "stand-by")
        assert bench.device.read_bytes()[MIB:][: bench.volume_bytes] == bench.truth[0]
        assert "No errors detected" in run("sfdisk", "--verify", str(bench.device))
        if not was_killed:
            assert step > 20
            break
        bench.device.write_bytes(content)
        for path, plain in kept.items():
            path.write_bytes(plain)
        bench.home.lose_catalogue()
        bench.home.settle()
        step += 7
    assert backing.stat().st_size == DEVICE_BYTES


def test_a_copy_is_built_as_a_file_and_the_job_is_deleted(bench: Bench):
    bench.did(*bench.adding())
    bench.home.settle()
    assert "--fresh" in bench.refused("hsr", "finalize", "stand-by", "--copy", bench.place / "copy.raw")
    bench.did("hsr", "finalize", "stand-by", "--fresh", "--copy", bench.place / "copy.raw")
    assert (bench.place / "copy.raw").read_bytes() == bench.truth[0]
    bench.did("hsr", "delete", "stand-by", "--with-disk", "--yes")
    assert not any((bench.disks / "kept" / SIDE_NAME).iterdir())
    assert "not zero" in bench.refused(*bench.adding())
    bench.did(*bench.adding("--overwrite"))


def test_a_device_that_is_swapped_to_is_refused(bench: Bench):
    run("mkswap", str(bench.device))
    if subprocess.run(["swapon", str(bench.device)], check=False, capture_output=True).returncode:
        pytest.skip("swapping cannot be switched on here")
    try:
        assert "swap area" in bench.refused(*bench.adding("--overwrite"), code=6)
    finally:
        run("swapoff", str(bench.device))


def test_a_device_with_a_partition_in_use_is_refused(bench: Bench):
    backing = bench.new_file("parted")
    subprocess.run(["sfdisk", "-q", str(backing)], input="label: dos\n,4M\n", text=True, check=True)
    whole = Path(run("losetup", "--find", "--show", "--partscan", str(backing)).strip())
    part, mounted = Path(f"{whole}p1"), bench.place / "mounted"
    mounted.mkdir()
    try:
        if not part.is_block_device():
            run("partx", "--add", str(whole))
        run("mkfs.ext4", "-q", "-F", str(part))
        run("mount", str(part), str(mounted))
        try:
            said = bench.refused(*bench.adding("--overwrite", device=whole), code=6)
            assert f"mounted at {mounted}" in said
        finally:
            run("umount", str(mounted))
        bench.did(*bench.adding("--overwrite", device=whole))
        assert not part.exists()
        assert is_nothing(whole)
    finally:
        run("losetup", "--detach", str(whole))


def test_killed_before_the_device_of_a_new_job_is_taken(bench: Bench):
    before = bench.device.read_bytes()
    with patch("ops.headstart_errands.take_device", side_effect=Killed), suppress(Killed):
        bench.do(*bench.adding())
    bench.look_again()
    assert bench.row().state is DiskState.STOPPED
    assert "hsr enable stand-by --fresh" in bench.row().reason
    assert bench.device.read_bytes() == before
    bench.did("hsr", "enable", "stand-by", "--fresh", "--yes")
    bench.home.settle()
    assert bench.number() == 0
