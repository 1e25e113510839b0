"""A full disk: a clear error, nothing lost, nothing left behind, and success once there is room again."""

from __future__ import annotations

import os
from pathlib import Path

from storage.parts import image_files, stored_bytes_of
from tests.bed import VOLUME, Bed, image_names, partial_files
from tests.command import Ran
from tests.loop import small_file_system

SHARES = (0.0, 0.3, 0.6, 0.9, 0.97, 1.0, 1.03, 1.1)
"""How much room is left free, as a share of what the new file needs."""


def full_for_captures(bed: Bed) -> str:
    """An incremental, then a new base, find no room, or hardly enough."""
    names = image_names(bed.chain)[: bed.per_day + 1]
    following = image_names(bed.chain)[bed.per_day + 1]
    refused = done = 0
    with small_file_system(bed.folder, _size_of(bed.chain, names) * 3) as folder:
        replay = bed.history.replay(bed.folder / "full.raw", bed.per_day + 1)
        for new, more in ((following, ()), (names[0], ("--new-base",))):
            size_bytes = stored_bytes_of(bed.chain / new)
            for share in SHARES:
                _begin_again(bed.chain, folder, names)
                _fill(folder, round(size_bytes * share))
                ran = bed.command(
                    "capture", replay.path, "--into", folder, "--volume", VOLUME, *more, *bed.spanning
                )
                if ran.code == 0:
                    done += 1
                else:
                    refused += 1
                    _must_be_full(ran, 7, folder)
                    left = set(image_names(folder)) - set(names)
                    assert not left, f"{left} is there, though the capture said that it failed: {ran}"
                bed.must_verify(folder)
        _begin_again(bed.chain, folder, names)
        bed.must("capture", replay.path, "--into", folder, "--volume", VOLUME, *bed.spanning)
        replay.path.unlink()
        bed.must_restore(folder, [0, bed.per_day, bed.per_day + 1])
    assert refused, "no capture met a full disk"
    return f"{refused} said so and left everything as it was, {done} found room"


def full_for_consolidations(bed: Bed) -> str:
    """A monthly and a synthetic full find no room, or hardly enough."""
    names = image_names(bed.chain)
    trial = bed.linked(bed.chain)
    monthly = ("--after", "0", "--upto", str(bed.last), "--tier", "monthly", *bed.spanning)
    refused = done = 0
    with small_file_system(bed.folder, _size_of(bed.chain, names) * 3) as folder:
        for wanted in (monthly, ("--upto", str(bed.last), "--full", *bed.spanning)):
            (made,) = bed.must("consolidate", trial, "--volume", VOLUME, *wanted).objects
            for share in SHARES:
                _begin_again(bed.chain, folder, names)
                _fill(folder, round(made["stored_bytes"] * share))
                ran = bed.command("consolidate", folder, "--volume", VOLUME, *wanted)
                if ran.code == 0:
                    done += 1
                else:
                    refused += 1
                    _must_be_full(ran, 7, folder)
                    assert image_names(folder) == names, f"{share} of the room: {image_names(folder)}"
        bed.must_verify(folder)
        _begin_again(bed.chain, folder, names)
        bed.must("consolidate", folder, "--volume", VOLUME, *monthly)
        bed.must_restore(folder, [bed.last])
    assert refused, "no consolidation met a full disk"
    return f"{refused} said so and left everything as it was, {done} found room"


def full_for_restores(bed: Bed) -> str:
    """A restored file finds no room; the file that it was to replace stays."""
    needed_bytes = bed.history.states[0].volume_bytes // 2
    with small_file_system(bed.folder, needed_bytes * 4) as folder:
        existing = folder / "existing.raw"
        existing.write_bytes(b"older restore")
        arguments = ("restore", bed.chain, "--volume", VOLUME)
        for share in (0.0, 0.5, 0.9):
            _fill(folder, round(needed_bytes * share))
            _must_be_full(bed.command(*arguments, "--to", folder / "new.raw"), 6, folder)
            _must_be_full(bed.command(*arguments, "--to", existing, "--overwrite"), 6, folder)
            assert existing.read_bytes() == b"older restore"
            assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [
                "ballast",
                "existing.raw",
            ]
        (folder / "ballast").unlink()
        bed.must(*arguments, "--to", existing, "--overwrite")
        bed.must_be(existing, bed.last)
    return "new files and ones to replace: said so, nothing lost, went on with room"


CHECKS = (full_for_captures, full_for_consolidations, full_for_restores)


def _must_be_full(ran: Ran, code: int, folder: Path) -> None:
    assert ran.code == code, str(ran)
    assert "the disk is full" in ran.errors, str(ran)
    assert str(folder) in ran.errors, str(ran)
    assert not partial_files(folder), partial_files(folder)


def _size_of(folder: Path, names: list[str]) -> int:
    return sum(stored_bytes_of(folder / name) for name in names)


def _begin_again(source: Path, folder: Path, names: list[str]) -> None:
    """Bring a folder back to the named images, without changing those that are there."""
    files = [path for name in names for path in image_files(source / name)]
    kept = {path.name for path in files}
    for path in folder.iterdir():
        if path.is_file() and path.name not in kept:
            path.unlink()
    for path in files:
        if not (folder / path.name).exists():
            (folder / path.name).write_bytes(path.read_bytes())


def _fill(folder: Path, spare_bytes: int) -> None:
    """Put a file there that takes all but a little of the room."""
    ballast = folder / "ballast"
    ballast.unlink(missing_ok=True)
    os.sync()
    stat = os.statvfs(folder)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, stat.f_bavail * stat.f_frsize - spare_bytes - _METADATA_BYTES)
    os.sync()


_METADATA_BYTES = 16 << 10
"""What the file system takes for the ballast itself."""
