"""Retiring that is stopped at any step, on any kind of file system: done again, it ends as if nothing had happened."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from storage import own_folder
from storage.file_marks import FileMark, mark_files
from storage.retired import MoveOutcome, Place, bring_back, delete_aside, move_aside, tokens_on_disk
from tests.bed import quick_folder
from tests.stopping import every_step

NAMES = ("V-b001-i004.spi", "V-b001-i004.sp1", "V-b001-i004.md5")
TOKEN = "20260302-0123456789abcdef"
STAYS = "V-b001-i005.spi"


def prepare(folder: Path) -> tuple[FileMark, ...]:
    """Put an image in three files into an emptied folder, and another one beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in (*NAMES, STAYS):
        (folder / name).write_bytes(name.encode())
    return mark_files(folder / NAMES[0])


def files(folder: Path) -> dict[str, int]:
    """Count how often each content lies anywhere below a folder."""
    found: dict[str, int] = {}
    seen = set()
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_ino not in seen:
            seen.add(path.stat().st_ino)
            found[path.read_text()] = found.get(path.read_text(), 0) + 1
    return found


@pytest.fixture(params=["renameat2", "link"])
def _file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "link":
        monkeypatch.setattr(own_folder, "rename_at", lambda *_: errno.EINVAL)


@pytest.mark.usefixtures("_file_system")
@pytest.mark.parametrize("to_incrementals", [False, True])
def test_moving_aside_and_back(to_incrementals: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with quick_folder() as bed:
        folder = bed / "images"
        place = Place(folder, TOKEN, to_incrementals)
        marks = [prepare(folder)]
        whole = files(folder)

        def ends(step: int) -> None:
            assert files(folder) == whole, f"step {step}"
            assert move_aside(place, marks[0]) is MoveOutcome.DONE
            assert [path.name for path in folder.iterdir() if path.is_file()] == [STAYS]
            assert bring_back(place, marks[0]) is MoveOutcome.DONE
            assert tokens_on_disk(folder) == []
            marks[0] = prepare(folder)

        def is_given_up(step: int) -> None:
            assert bring_back(place, marks[0]) is MoveOutcome.DONE, f"step {step}"
            assert sorted(path.name for path in folder.iterdir() if path.is_file()) == sorted((*NAMES, STAYS))
            marks[0] = prepare(folder)

        assert every_step(lambda: move_aside(place, marks[0]), monkeypatch, ends) > 8
        assert every_step(lambda: move_aside(place, marks[0]), monkeypatch, is_given_up) > 8


@pytest.mark.usefixtures("_file_system")
def test_bringing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with quick_folder() as bed:
        folder = bed / "images"
        place = Place(folder, TOKEN)

        def set_up() -> tuple[FileMark, ...]:
            marks = prepare(folder)
            move_aside(place, marks)
            return marks

        marks = [set_up()]
        whole = files(folder)

        def ends(step: int) -> None:
            assert files(folder) == whole, f"step {step}"
            if (folder / NAMES[0]).exists():  # with the first part, all of it is there
                assert all((folder / name).exists() for name in NAMES)
            assert bring_back(place, marks[0]) is MoveOutcome.DONE
            assert tokens_on_disk(folder) == []
            marks[0] = set_up()

        assert every_step(lambda: bring_back(place, marks[0]), monkeypatch, ends) > 8


def test_deleting(monkeypatch: pytest.MonkeyPatch) -> None:
    with quick_folder() as bed:
        folder = bed / "images"
        place = Place(folder, TOKEN)
        marks = [prepare(folder)]
        move_aside(place, marks[0])

        def ends(step: int) -> None:
            delete_aside(place, marks[0])
            assert files(folder) == {STAYS: 1}, f"step {step}"
            assert tokens_on_disk(folder) == []
            marks[0] = prepare(folder)
            move_aside(place, marks[0])

        assert every_step(lambda: delete_aside(place, marks[0]), monkeypatch, ends) > 5
