"""Changing passwords on a full disk, and from two sides at once: the key file is the old one or a new one, whole."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from storage import keys
from tests.bed import quick_folder
from tests.command import PROGRAM, in_this_process
from tests.loop import needs_root, small_file_system
from tests.unit.tiny import BLOCK, fill, noise

ROUNDS = 4


@pytest.fixture(autouse=True)
def _cheap_guesses(monkeypatch):
    monkeypatch.setattr(keys, "RECOMMENDED_COST", keys.KdfCost(memory_kib=64, passes=1, lanes=1))


def password_file(folder: Path, name: str) -> Path:
    file = folder / name
    file.touch(mode=0o600)
    file.write_text(name)
    return file


def captured(home: Path, images: Path, file: Path) -> None:
    images.mkdir()
    (home / "disk.raw").write_bytes(noise(BLOCK))
    capture = ("capture", home / "disk.raw", "--into", images, "--volume", "D", "--password-file", file)
    assert in_this_process(*capture).code == 0


def change(images: Path, old: Path, new: Path) -> tuple[str | Path, ...]:
    return (
        *("password", "change", images, "--volume", "D"),
        *("--password-file", old, "--new-password-file", new),
    )


def opens(home: Path, images: Path, file: Path) -> bool:
    target = home / "restored.raw"
    restore = ("restore", images, "--volume", "D", "--to", target, "--overwrite", "--password-file", file)
    ran = in_this_process(*restore)
    assert ran.code in (0, 10), str(ran)
    return ran.code == 0


@needs_root
def test_a_full_disk(tmp_path: Path) -> None:
    files = [password_file(tmp_path, name) for name in ("one", "two")]
    with small_file_system(tmp_path, 2 << 20) as disk:
        images = disk / "images"
        captured(tmp_path, images, files[0])
        before = {path.name for path in images.iterdir()}
        slots = (images / "D-b001.spk").read_bytes()
        fill(disk, 0)
        with contextlib.suppress(OSError), (disk / "filler").open("ab", buffering=0) as filler:
            while True:  # the file system counts a few blocks less than there are
                filler.write(bytes(1024))
                os.fsync(filler.fileno())
        ran = in_this_process(*change(images, *files))
        assert (ran.code, "the disk is full" in ran.errors) == (7, True), str(ran)
        assert {path.name for path in images.iterdir()} == before
        assert (images / "D-b001.spk").read_bytes() == slots
        assert opens(tmp_path, images, files[0])
        image, genuine = images / "D-b001.spf", (images / "D-b001.spf").read_bytes()
        at = genuine.index(slots)
        with image.open("r+b") as stream:
            stream.seek(at + 110)
            stream.write(b"spoilt")
        assert in_this_process("password", "repair", images, "--volume", "D").code == 0, "it takes no room"
        assert image.read_bytes() == genuine
        (disk / "filler").unlink()
        assert in_this_process(*change(images, *files)).code == 0
        assert opens(tmp_path, images, files[1])


def test_two_at_once() -> None:
    """One of them wins; the other is told that it came too late, or that the password is another one now."""
    with quick_folder() as home:
        images, present = home / "images", password_file(home, "present")
        captured(home, images, present)
        for number in range(ROUNDS):
            new = [password_file(home, f"{side}-{number}") for side in ("left", "right")]
            commands = [[PROGRAM, *map(str, change(images, present, file))] for file in new]
            running = [
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                for command in commands
            ]
            told = [process.communicate() for process in running]
            codes = [process.returncode for process in running]
            assert sorted(codes) in ([0, 8], [0, 10]), str(told)
            winner = new[codes.index(0)]
            assert [opens(home, images, file) for file in (present, *new)] == [
                False,
                *(file == winner for file in new),
            ]
            present = winner
