"""`rollforward test-restore`: real file systems, whole, damaged and in use; real starts."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hsr.testing_restore import starting
from hsr.testing_restore.record import StartCheck
from hsr.testing_restore.starting import Waiting
from policies.errors import ConfigurationError
from storage.capture import capture
from storage.mounts import mounts
from storage.scratch import scratch_folder
from tests.checks.serving import BOOT_SECTOR
from tests.command import PROGRAM, in_this_process
from tests.commands import run, tool
from tests.loop import needs_root
from tests.unit.tiny import START, TinyVolume
from tests.waiting import wait_for

MIB = 1 << 20
SECTOR = BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa"
BOOT = ("--boot", "--accelerator", "tcg", "--memory", "64")

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="FUSE cannot be used here"
)


def outcome(volume: TinyVolume, *options: str | Path, code: int = 0) -> dict[str, Any]:
    ran = in_this_process("test-restore", volume.folder, "--volume", volume.name, "--json", *options)
    assert ran.code == code, str(ran)
    (told,) = ran.objects
    return told


@pytest.fixture
def ext4(tiny: TinyVolume) -> TinyVolume:
    tiny.resize(32 * MIB)
    run("mkfs.ext4", "-q", "-F", "-d", "/usr/share/doc/e2fsprogs", str(tiny.raw))
    tiny.capture()
    return tiny


def test_a_whole_file_system(ext4: TinyVolume) -> None:
    told = outcome(ext4)
    (check,) = told["file_systems"]
    assert (told["verdict"], check["verdict"], check["contents"]) == ("good", "good", "ext4")
    assert check["partition"] is None
    assert "Pass 5" in check["words"]


def test_a_damaged_one(ext4: TinyVolume) -> None:
    run("debugfs", "-w", "-R", "clri <2>", str(ext4.raw))
    ext4.capture()
    assert outcome(ext4, code=1)["verdict"] == "bad"
    assert outcome(ext4, "--point", "0")["verdict"] == "good"


def leave_journal(ext4: TinyVolume) -> None:
    """Have a good block in the journal, and a bad one in its place; capture that."""
    told = run("dumpe2fs", str(ext4.raw))
    size, bitmap = (
        int(re.findall(rf"{what}\s+(\d+)", told)[0]) for what in ("Block size:", "Block bitmap at")
    )
    script, block = ext4.raw.with_name("script"), ext4.raw.with_name("block")
    block.write_bytes(ext4.raw.read_bytes()[bitmap * size : (bitmap + 1) * size])
    script.write_text(f"jo -c\njw -b {bitmap} {block}\njc\n")
    run("debugfs", "-w", "-f", str(script), str(ext4.raw))
    ext4.put(bitmap * size, bytes(size))
    assert subprocess.run([tool("e2fsck"), "-fn", str(ext4.raw)], capture_output=True, check=False).returncode
    ext4.capture()


def test_one_that_was_in_use_has_its_journal_replayed(ext4: TinyVolume) -> None:
    leave_journal(ext4)
    found = outcome(ext4)
    assert found["verdict"] == "good"
    assert found["file_systems"][0]["words"].startswith("its journal was replayed")
    ext4.check()


@needs_root
def test_a_full_disk_is_no_damage(ext4: TinyVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the check writes finds no room: that says nothing of the file system."""
    leave_journal(ext4)
    room = tmp_path / "room"
    room.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=264k", "tmpfs", str(room))
    try:
        monkeypatch.setattr("tempfile.tempdir", str(room))
        ran = in_this_process("test-restore", ext4.folder, "--volume", ext4.name, "--json")
    finally:
        run("umount", str(room))
    assert ran.code == 6, str(ran)
    assert "no room" in ran.output


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_broken_off_in_the_midst_of_it(ext4: TinyVolume, tmp_path: Path, number: signal.Signals) -> None:
    leave_journal(ext4)
    room, programs = ext4.folder.parent / "room", tmp_path / "programs"
    room.mkdir()
    programs.mkdir()
    busy = tmp_path / "busy"
    (programs / "e2fsck").write_text(f"#!/bin/sh\ntouch {busy}\nexec sleep 60\n")
    (programs / "e2fsck").chmod(0o755)
    surroundings = {
        "XDG_RUNTIME_DIR": str(room),
        "TMPDIR": str(room),
        "PATH": f"{programs}:{os.environ['PATH']}",
    }
    command = [PROGRAM, "test-restore", str(ext4.folder), "--volume", ext4.name]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | surroundings) as process:
        wait_for(busy.exists, "the check")
        process.send_signal(number)
    if number == signal.SIGTERM:
        assert list(room.iterdir()) == []
    wait_for(lambda: swept(room), "all of it to go with the next command")


def swept(room: Path) -> bool:
    """Do what the next command does; tell whether anything is left."""
    with scratch_folder("next", room) as folder:
        return list(room.iterdir()) == [folder] and not any(room in mount.at.parents for mount in mounts())


def test_each_partition(ext4: TinyVolume, tmp_path: Path) -> None:
    disk = TinyVolume(tmp_path / "disk")
    disk.resize(96 * MIB)
    table = "label: gpt\nstart=2048, size=65536\nstart=67584, size=65536\nstart=133120, size=2048\n"
    subprocess.run(["sfdisk", "-q", str(disk.raw)], input=table, text=True, check=True, capture_output=True)
    disk.put(2048 * 512, ext4.raw.read_bytes())
    ntfs = tmp_path / "ntfs"
    with ntfs.open("wb") as file:
        file.truncate(32 * MIB)
    run("mkntfs", "-q", "-F", str(ntfs))
    disk.put(67584 * 512, ntfs.read_bytes())
    disk.capture()
    told = outcome(disk, code=1)
    found = [(check["partition"], check["contents"], check["verdict"]) for check in told["file_systems"]]
    assert found == [(1, "ext4", "good"), (2, "ntfs", "good"), (3, "unknown", "unclear")]
    assert told["verdict"] == "unclear"
    disk.put(67584 * 512 + 4 * 4096, bytes(8 * 4096))  # the MFT
    disk.capture()
    told = outcome(disk, code=1)
    assert [check["verdict"] for check in told["file_systems"]] == ["good", "bad", "unclear"]


def check_of(volume: TinyVolume, code: int = 0) -> tuple[str, str]:
    volume.capture()
    (check,) = outcome(volume, code=code)["file_systems"]
    return check["verdict"], check["words"]


@pytest.mark.parametrize(("bits", "size"), [("12", 4 * MIB), ("16", 20 * MIB), ("32", 70 * MIB)])
def test_a_fat_that_was_in_use_is_told_from_a_damaged_one(tiny: TinyVolume, bits: str, size: int) -> None:
    """A running system leaves a dirty bit, and an old count of free clusters: fsck.fat's status is that of damage."""
    tiny.resize(size)
    run("mkfs.fat", "-F", bits, str(tiny.raw))
    state, tables = (0x41, 32 * 512) if bits == "32" else (0x25, tiny.raw.read_bytes()[14] * 512)
    tiny.put(state, b"\1")
    if bits != "12":
        at = tables + (7 if bits == "32" else 3)
        tiny.put(at, bytes([tiny.raw.read_bytes()[at] & (0xF7 if bits == "32" else 0x7F)]))
    if bits == "32":
        tiny.put(512 + 488, b"\5\0\0\0")
    assert subprocess.run(
        [tool("fsck.fat"), "-n", str(tiny.raw)], capture_output=True, check=False
    ).returncode
    verdict, words = check_of(tiny)
    assert (verdict, words.startswith("it was in use")) == ("good", True), words
    tiny.check()  # nothing was written to the images
    tiny.put(tables + 16, b"\x77\x07\x77\x07")  # chains that nobody has, in one table of two
    verdict, words = check_of(tiny, code=1)
    assert (verdict, "FATs differ" in words) == ("bad", True), words
    tiny.put(state, b"\0")
    assert check_of(tiny, code=1)[0] == "bad"


def use_program(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """Have another program than the real one found: how a system's own fails cannot be had on demand."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


MAKERS = {
    "e2fsck": (8 * MIB, ("mkfs.ext4", "-q", "-F")),
    "xfs_repair": (300 * MIB, ("mkfs.xfs", "-q")),
    "ntfsresize": (8 * MIB, ("mkntfs", "-q", "-F")),
    "fsck.fat": (4 * MIB, ("mkfs.fat",)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_checker_that_did_not_check_finds_nothing(
    quick_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    size, make = MAKERS[name]
    volume = TinyVolume(quick_path / "one")
    volume.resize(size)
    run(*make, str(volume.raw))
    volume.capture()
    for script, why in (
        ("#!/bin/sh\nkill -SEGV $$\n", f"{name} was killed by signal 11"),
        ("\177ELF", f"{name} ended with status 1"),  # for another machine: it cannot be run
    ):
        use_program(tmp_path / "programs", monkeypatch, name, script)
        (check,) = outcome(volume, code=1)["file_systems"]
        assert (check["verdict"], why in check["words"]) == ("unclear", True), check["words"]


def test_a_checker_that_is_too_old_finds_nothing(quick_path: Path) -> None:
    ext4, xfs = TinyVolume(quick_path / "ext4"), TinyVolume(quick_path / "xfs")
    ext4.resize(8 * MIB)
    run("mkfs.ext4", "-q", "-F", "-O", "^metadata_csum", str(ext4.raw))
    ext4.put(1024 + 0x63, b"\1")  # a feature that nobody knows
    verdict, words = check_of(ext4, code=1)
    assert (verdict, "Get a newer version" in words) == ("unclear", True), words
    xfs.resize(300 * MIB)
    run("mkfs.xfs", "-q", str(xfs.raw))
    for number in range(4):
        run("xfs_db", "-x", "-c", f"sb {number}", "-c", "write -d features_incompat 0x4000000b", str(xfs.raw))
    verdict, words = check_of(xfs, code=1)
    assert (verdict, "unsupported" in words) == ("unclear", True), words


def test_what_e2fsck_passes_over_is_damage(ext4: TinyVolume) -> None:
    """It calls these clean with -n, or when it has mended them; a kernel mounts none of them."""
    whole = ext4.raw.read_bytes()
    ext4.resize(24 * MIB)
    assert (
        subprocess.run([tool("e2fsck"), "-fn", str(ext4.raw)], capture_output=True, check=False).returncode
        == 0
    )
    assert check_of(ext4, code=1)[0] == "bad"
    ext4.raw.write_bytes(whole)
    begin = int(run("debugfs", "-R", "bmap <8> 0", str(ext4.raw)).split()[-1])
    leave_journal(ext4)
    size = 1024 << whole[1024 + 24]
    ext4.put(begin * size, bytes(size))
    verdict, words = check_of(ext4, code=1)
    assert (verdict, "invalid journal" in words) == ("bad", True), words
    ext4.put(1024 + 4, bytes(40))  # its only superblock, but for the magic bytes
    ext4.raw.write_bytes(ext4.raw.read_bytes()[: 4 * MIB])
    assert check_of(ext4, code=1)[0] == "bad"


def test_xfs_and_fat(quick_path: Path) -> None:
    for kind, size, make in (
        ("xfs", 300 * MIB, ("mkfs.xfs", "-q")),
        ("fat", 20 * MIB, ("mkfs.fat", "-F", "16")),
    ):
        volume = TinyVolume(quick_path / kind)
        volume.resize(size)
        run(*make, str(volume.raw))
        for number, verdict in enumerate(("good", "bad")):
            if verdict == "bad":
                volume.put(512, bytes(4096 - 512) if kind == "xfs" else b"\xff" * 20_000)
            capture(volume.raw, volume.folder, volume.name, now=START + timedelta(hours=number))
            (check,) = outcome(volume, code=verdict == "bad")["file_systems"]
            assert (check["contents"], check["verdict"]) == (kind, verdict), check["words"]


@pytest.mark.parametrize(("bits", "sectors", "state"), [(12, "32", 0x25), (16, "4", 0x25), (32, "1", 0x41)])
def test_a_fat_in_use_is_judged_by_the_rest_of_it(
    quick_path: Path, bits: int, sectors: str, state: int
) -> None:
    volume = TinyVolume(quick_path / "fat")
    volume.resize(36 * MIB)
    run("mkfs.fat", "-F", str(bits), "-s", sectors, str(volume.raw))
    volume.put(state, b"\x01")
    for number, verdict in enumerate(("good", "bad")):
        if verdict == "bad":
            at = volume.raw.read_bytes()[14] * 512  # the reserved sectors, and then the first table
            volume.put(at + 512, b"\x55" * 256)
        capture(volume.raw, volume.folder, volume.name, now=START + timedelta(hours=number))
        (check,) = outcome(volume, code=verdict == "bad")["file_systems"]
        assert (check["contents"], check["verdict"]) == ("fat", verdict), check["words"]
        assert check["words"].startswith("it was in use: ")


def test_an_ext4_that_the_checker_does_not_know_is_unclear(ext4: TinyVolume) -> None:
    run("debugfs", "-w", "-R", "feature FEATURE_I31", str(ext4.raw))
    ext4.capture()
    (check,) = outcome(ext4, code=1)["file_systems"]
    assert (check["contents"], check["verdict"]) == ("ext4", "unclear"), check["words"]
    assert "newer version" in check["words"]


def test_a_start_to_a_marker(tiny: TinyVolume, tmp_path: Path) -> None:
    tiny.put(0, SECTOR + bytes(4 * MIB))
    tiny.capture()
    shot = tmp_path / "screen.png"
    told = outcome(tiny, *BOOT, "--marker", "from a backup", "--screenshot", shot)
    assert told["verdict"] == "good"
    assert told["start"]["ending"] == "marker"
    assert 0 < told["start"]["seconds"] < 60
    assert "booted from a backup" in told["start"]["console"]
    assert shot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">2I", shot.read_bytes()[16:24]) == (720, 400)


@pytest.mark.parametrize("marker", ["", " ", "a\nb", "x" * 201])
def test_words_that_prove_nothing_are_no_marker(tiny: TinyVolume, marker: str) -> None:
    """Nothing starts here, and yet blank words would be found on its console."""
    tiny.put(0, bytes(4 * MIB))
    tiny.capture()
    options = ("test-restore", tiny.folder, "--volume", tiny.name, *BOOT, "--marker", marker)
    ran = in_this_process(*options)
    assert ran.code == 2, str(ran)
    assert f"--marker: {marker!r} is no marker" in ran.errors
    assert "leave the option out" in ran.errors
    assert "nothing starts" not in ran.output
    with pytest.raises(ConfigurationError, match="is no marker"):
        Waiting(marker)


def test_a_screenshot_that_cannot_be_written(
    tiny: TinyVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.put(0, SECTOR + bytes(4 * MIB))
    tiny.capture()
    options = ("test-restore", tiny.folder, "--volume", tiny.name, *BOOT, "--marker", "from a backup")
    for shot, why in ((tmp_path / "none" / "s.png", "none: is no folder"), (tmp_path, "exists already")):
        ran = in_this_process(*options, "--screenshot", shot)
        assert (ran.code, ran.output) == (2, ""), str(ran)
        assert why in ran.errors
    shots = tmp_path / "shots"
    shots.mkdir()
    start_and_look = starting.start_and_look

    def meanwhile(*arguments: Any) -> StartCheck:
        found = start_and_look(*arguments)
        shots.rmdir()
        return found

    monkeypatch.setattr(starting, "start_and_look", meanwhile)
    ran = in_this_process(*options, "--screenshot", shots / "s.png")
    assert ran.code == 6, str(ran)
    assert "said its words" in ran.output  # what was found is told all the same
    assert f"{shots}/s.png: the screenshot is not kept: No such file" in ran.errors


@needs_root
def test_a_screenshot_that_finds_no_room_leaves_nothing(tiny: TinyVolume, tmp_path: Path) -> None:
    tiny.put(0, SECTOR + bytes(4 * MIB))
    tiny.capture()
    full = tmp_path / "full"
    full.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(full))
    try:
        (full / "filling").write_bytes(bytes(4096))
        options = (*BOOT, "--marker", "from a backup", "--screenshot", full / "s.png")
        ran = in_this_process("test-restore", tiny.folder, "--volume", tiny.name, *options)
        assert [path.name for path in full.iterdir()] == ["filling"]
    finally:
        run("umount", str(full))
    assert ran.code == 6, str(ran)
    assert "No space left" in ran.errors


def test_a_start_until_the_screen_settles(tiny: TinyVolume) -> None:
    tiny.put(0, SECTOR + bytes(4 * MIB))
    tiny.capture()
    told = outcome(tiny, *BOOT, "--settled", "1", code=1)
    assert (told["verdict"], told["start"]["ending"]) == ("unclear", "settled")
    told = outcome(tiny, *BOOT, "--marker", "never said", "--limit", "2", code=1)
    assert (told["verdict"], told["start"]["ending"]) == ("bad", "late")


def test_nothing_starts(tiny: TinyVolume) -> None:
    tiny.put(0, bytes(4 * MIB))
    tiny.capture()
    told = outcome(tiny, *BOOT, code=1)
    assert (told["verdict"], told["start"]["ending"]) == ("bad", "nothing starts")


PANIC = (
    bytes.fromhex("31c0 8ed8 baf803 be117c ac 84c0 7403 ee ebf8 f4") + b"Kernel panic - not syncing: x\n\0"
)


def test_a_panic_is_no_settled_screen(tiny: TinyVolume) -> None:
    tiny.put(0, PANIC.ljust(510, b"\0") + b"\x55\xaa" + bytes(4 * MIB))
    tiny.capture()
    told = outcome(tiny, *BOOT, code=1)
    assert (told["verdict"], told["start"]["ending"]) == ("bad", "panic")


def test_json_of_a_failure_is_whole(ext4: TinyVolume) -> None:
    ran = in_this_process("test-restore", ext4.folder, "--volume", "none such", "--json")
    assert ran.code != 0
    assert json.loads(ran.output)["status"] == "error"
    ran = in_this_process("test-restore", ext4.folder, "--volume", ext4.name, "--marker", "x")
    assert ran.code == 2
