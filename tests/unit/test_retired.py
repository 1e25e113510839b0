"""Images moved aside, brought back and deleted: all of their files, no others, and never over anything."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from policies.errors import BusyError, FormatError, StorageError
from storage import own_folder
from storage.file_marks import FileMark, mark_files, same_files
from storage.retired import (
    INCREMENTALS_NAME,
    MoveOutcome,
    Place,
    bring_back,
    delete_aside,
    identify,
    move_aside,
    tokens_on_disk,
)
from tests.unit.tiny import BLOCK, TinyVolume, noise

NAME = "A b's-b001-i004.spi"
SET = (NAME, "A b's-b001-i004.sp1", "A b's-b001-i004.sp2", "A b's-b001-i004.md5")
TOKEN = "20260302-0123456789abcdef"


def put_set(folder: Path, names: tuple[str, ...] = SET) -> None:
    for name in names:
        (folder / name).write_bytes(f"content of {name}".encode())


def contents(folder: Path) -> dict[str, bytes]:
    """Return all plain files below a folder, by their paths."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=[False, True], ids=["retired", "incrementals"])
def place(request: pytest.FixtureRequest, quick_path: Path) -> Place:
    return Place(quick_path, TOKEN, request.param)


@pytest.fixture(params=["renameat2", "link", "rename"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """File systems that can do less and less."""
    if request.param != "renameat2":
        monkeypatch.setattr(own_folder, "rename_at", lambda *_: errno.EINVAL)
    if request.param == "rename":

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    return str(request.param)


def test_there_and_back(place: Place, file_system: str):
    put_set(place.folder)
    before, marks = contents(place.folder), mark_files(place.folder / NAME)
    assert [mark.name for mark in marks] == list(SET)
    for _ in range(2):  # what is done is done
        assert move_aside(place, marks) is MoveOutcome.DONE
        way = "/".join(place.way)
        assert contents(place.folder) == {f"{way}/{name}": content for name, content in before.items()}
    for _ in range(2):
        assert bring_back(place, marks) is MoveOutcome.DONE
        assert contents(place.folder) == before
    assert same_files(place.folder / NAME, marks)
    assert tokens_on_disk(place.folder) == []


def test_only_the_file_that_was_marked_is_moved(place: Place, file_system: str):
    put_set(place.folder)
    marks = mark_files(place.folder / NAME)
    (place.folder / SET[1]).unlink()
    (place.folder / SET[1]).write_bytes(b"content of another")
    before = contents(place.folder)
    assert move_aside(place, marks) is MoveOutcome.CHANGED
    assert contents(place.folder) == before
    assert tokens_on_disk(place.folder) == []
    (place.folder / NAME).unlink()
    assert move_aside(place, marks) is MoveOutcome.GONE
    assert bring_back(place, marks) is MoveOutcome.GONE


def test_a_file_that_takes_the_name_in_the_last_moment_is_put_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    put_set(place.folder, (NAME,))
    marks = mark_files(place.folder / NAME)
    real = own_folder.rename_at

    def late(source_fd: int, target_fd: int, name: str) -> int:
        if not late_once:
            late_once.append(name)
            (place.folder / NAME).unlink()
            (place.folder / NAME).write_bytes(b"a new image")
        return real(source_fd, target_fd, name)

    late_once: list[str] = []
    monkeypatch.setattr(own_folder, "rename_at", late)
    assert move_aside(place, marks) is MoveOutcome.CHANGED
    assert contents(place.folder) == {NAME: b"a new image"}


def test_nothing_is_ever_replaced(place: Place, file_system: str):
    put_set(place.folder)
    marks = mark_files(place.folder / NAME)
    there = place.folder.joinpath(*place.way)
    there.mkdir(parents=True)
    (there / SET[2]).write_bytes(b"somebody's")
    before = contents(place.folder)
    with pytest.raises(BusyError, match="exists already"):
        move_aside(place, marks)
    assert contents(place.folder) == before
    (there / SET[2]).unlink()
    move_aside(place, marks)
    (place.folder / NAME).write_bytes(b"made anew")
    before = contents(place.folder)
    with pytest.raises(BusyError, match="exists already"):
        bring_back(place, marks)
    assert contents(place.folder) == before


def test_deleting_takes_what_was_retired_and_nothing_else(quick_path: Path):
    put_set(quick_path, (*SET, "A b's-b001.spf"))
    place, marks = Place(quick_path, TOKEN), mark_files(quick_path / NAME)
    move_aside(place, marks)
    stranger = quick_path / ".rollforward" / "retired" / TOKEN / "notes"
    stranger.write_bytes(b"somebody's")
    with pytest.raises(StorageError, match="not put there by us"):
        delete_aside(place, marks)
    stranger.unlink()
    assert delete_aside(place, marks) == 0
    assert list(contents(quick_path)) == ["A b's-b001.spf"]
    assert tokens_on_disk(quick_path) == []
    assert delete_aside(place, marks) == 0
    with pytest.raises(ValueError, match="Incrementals"):
        delete_aside(Place(quick_path, TOKEN, True), marks)


def test_what_it_frees_is_told(quick_path: Path):
    put_set(quick_path)
    place, marks = Place(quick_path, TOKEN), mark_files(quick_path / NAME)
    move_aside(place, marks)
    assert tokens_on_disk(quick_path) == [TOKEN]
    assert delete_aside(place, marks) == sum(mark.size_bytes for mark in marks)


def test_another_file_in_its_place_is_not_deleted(quick_path: Path):
    put_set(quick_path, (NAME,))
    place, marks = Place(quick_path, TOKEN), mark_files(quick_path / NAME)
    move_aside(place, marks)
    there = quick_path / ".rollforward" / "retired" / TOKEN / NAME
    there.unlink()
    there.write_bytes(b"another")
    with pytest.raises(StorageError, match="not put there by us"):
        delete_aside(place, marks)
    assert there.read_bytes() == b"another"


@pytest.mark.parametrize(
    "link", [".rollforward", ".rollforward/retired", f".rollforward/retired/{TOKEN}", INCREMENTALS_NAME]
)
def test_no_link_is_followed(quick_path: Path, link: str):
    folder, elsewhere = quick_path / "folder", quick_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    put_set(folder)
    (folder / link).parent.mkdir(parents=True, exist_ok=True)
    (folder / link).symlink_to(elsewhere)
    place, marks = Place(folder, TOKEN, link == INCREMENTALS_NAME), mark_files(folder / NAME)
    with pytest.raises(StorageError, match="is a link"):
        move_aside(place, marks)
    assert not list(elsewhere.iterdir())
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == sorted(SET)


def test_an_image_that_is_a_link_or_a_folder_is_left(quick_path: Path):
    (quick_path / "target").write_bytes(b"x")
    (quick_path / NAME).symlink_to("target")
    with pytest.raises(StorageError, match="no plain file"):
        mark_files(quick_path / NAME)
    with pytest.raises(StorageError, match="cannot be looked at"):
        mark_files(quick_path / "A-b002.spf")


def test_a_digest_file_goes_with_the_image_that_it_names(quick_path: Path):
    put_set(quick_path, ("V-b001-i002.spi", "V-b001-i002.spf"))
    digest = quick_path / "V-b001-i002.md5"
    digest.write_bytes(b"0123 *V-b001-i002.spf\r\n;GUID;DATE\r\n")
    (quick_path / "V-b001-i002.spi.md5").write_bytes(b"4567 *V-b001-i002.spi\n")
    names = {
        name: [mark.name for mark in mark_files(quick_path / name)]
        for name in ("V-b001-i002.spi", "V-b001-i002.spf")
    }
    assert names == {
        "V-b001-i002.spi": ["V-b001-i002.spi", "V-b001-i002.spi.md5"],
        "V-b001-i002.spf": ["V-b001-i002.spf", "V-b001-i002.md5"],
    }


def test_a_digest_file_that_changed_stays(quick_path: Path):
    put_set(quick_path)
    place, marks = Place(quick_path, TOKEN), mark_files(quick_path / NAME)
    (quick_path / SET[-1]).write_bytes(b"written anew, and longer than before")
    assert move_aside(place, marks) is MoveOutcome.DONE
    assert (quick_path / SET[-1]).exists()


def test_an_image_is_told_by_its_trailer(tiny: TinyVolume):
    tiny.put(0, noise(BLOCK))
    image = tiny.capture().path
    assert identify(image).files == mark_files(image)
    assert len(identify(image).root) == 32
    image.write_bytes(image.read_bytes()[:-40])
    with pytest.raises(FormatError):
        identify(image)
    (image.parent / "notes").write_bytes(b"x")
    with pytest.raises(FormatError, match="no trailer"):
        identify(image.parent / "notes")


def test_a_mark_is_written_and_read():
    mark = FileMark(NAME, 1 << 40, -5, (1 << 64) - 1)
    assert FileMark.unpack(mark.pack()) == mark
