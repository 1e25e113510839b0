"""Media that fail, and files that are cut off, while they are read: named with file and byte, nothing left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.bed import VOLUME, Bed, image_names, partial_files
from tests.failing_medium import FailingMedium


def failing_media(bed: Bed) -> str:
    """A read error, and then a cut, at several bytes of a base and an incremental; afterwards all is as before."""
    names = image_names(bed.chain)
    victims = [names[0], names[len(names) // 2]]
    count = 0
    with FailingMedium(bed.new_folder("medium")) as medium:
        for name in names:
            shutil.copyfile(bed.chain / name, medium.backing / name)
        before = sorted(entry.name for entry in medium.backing.iterdir())
        for victim in victims:
            size = (medium.backing / victim).stat().st_size
            for at_byte in (size // 10, size // 3, size // 2):
                for spoil, words in ((medium.fail, "Input/output error at byte"), (medium.cut, "at byte")):
                    for command in _commands(medium.folder, victim, bed):
                        spoil(victim, at_byte)
                        _must_name(bed, command, medium.folder, victim, words)
                        medium.lift()
                        shutil.copyfile(bed.chain / victim, medium.backing / victim)
                        count += 1
        shutil.rmtree(medium.backing / ".rollforward", ignore_errors=True)
        assert sorted(entry.name for entry in medium.backing.iterdir()) == before
        bed.must_verify(medium.folder)
        bed.must_restore(medium.folder, [bed.last])
    return f"{count} commands named file and byte, then all was good and exact"


def _commands(folder: Path, victim: str, bed: Bed) -> list[tuple[str | Path, ...]]:
    volume = ("--volume", VOLUME)
    return [
        ("verify", folder / victim),
        ("restore", folder, *volume, "--to", _target(bed)),
        ("consolidate", folder, *volume, "--upto", str(bed.last), "--full"),
    ]


def _target(bed: Bed) -> Path:
    return bed.folder / "from-a-failing-medium.raw"


def _must_name(bed: Bed, command: tuple[str | Path, ...], folder: Path, victim: str, words: str) -> None:
    ran = bed.command(*command)
    told = ran.output + ran.errors
    assert ran.code in (1, 3, 7), str(ran)
    assert victim in told, str(ran)
    assert words in told, str(ran)
    assert "Traceback" not in told, str(ran)
    assert not _target(bed).exists()
    assert not partial_files(folder)
