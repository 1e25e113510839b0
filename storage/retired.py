"""Moving images out of the way, bringing them back, deleting them: all files of an image, and no other's.

    FOLDER/NAME.spi, NAME.sp1 …, NAME.md5  ──move_aside──▶  FOLDER/.rollforward/retired/TOKEN/   ──delete_aside──▶ gone
                                           ◀──bring_back──
                                           ──move_aside──▶  FOLDER/Incrementals/                 stays there

Each file is moved only while it is the one that was marked, and never over another. The first part goes first and
comes back last, so that the image is there whole, or not there. Done again after a crash, each of the three ends the
same way: what was moved already is known by its mark.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from policies.errors import BusyError, FormatError, StorageError
from policies.names import parse_image_name
from storage.file_marks import FileMark, mark_files
from storage.own_folder import OWN_NAME, OpenFolder, is_plain_file, move_between, opened_folder
from storage.publish import storage_errors

RETIRED_NAME: Final = "retired"
"""Folder in `.rollforward/` for what is deleted later."""

INCREMENTALS_NAME: Final = "Incrementals"
"""Folder for what is moved away in place of being deleted."""


class MoveOutcome(StrEnum):
    """What became of a move.

    DONE: all files are where they should be. CHANGED: a file is not the one that was marked; all are where they were.
    GONE: the image is in neither place.
    """

    DONE = "done"
    CHANGED = "changed"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which image it is that lies somewhere.

    Attributes:
        root: 32 bytes, as its trailer gives them.
        files: its files, the first part first, digest files last.
    """

    root: bytes
    files: tuple[FileMark, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a removed image lies.

    Attributes:
        folder: the managed folder.
        token: of the removal.
        to_incrementals: whether it was moved to `Incrementals/`.
    """

    folder: Path
    token: str
    to_incrementals: bool = False

    @property
    def way(self) -> tuple[str, ...]:
        """The way down from the managed folder."""
        return (INCREMENTALS_NAME,) if self.to_incrementals else (OWN_NAME, RETIRED_NAME, self.token)


def identify(image: Path) -> Identity:
    """Tell which image lies at a path, from its trailer, just before it is removed.

    Args:
        image: the image; of a spanned set, its first part.

    Raises:
        StorageError: it cannot be looked at, or is no plain file.
        FormatError: it has no readable trailer, or changes while it is looked at.
    """
    from storage.folder import look_at
    from storage.parts import part_numbers_beside

    name = parse_image_name(image.name)
    before = mark_files(image)
    found = None if name is None else look_at(image, name, part_numbers_beside(image))
    if found is None or found.root is None or found.problem is not None:
        problem = None if found is None else found.problem
        raise FormatError(problem or "has no trailer that can be read", path=str(image))
    if mark_files(image) != before:
        raise FormatError("changes while it is looked at", path=str(image))
    return Identity(found.root, before)


def move_aside(place: Place, marks: Sequence[FileMark]) -> MoveOutcome:
    """Move an image out of its folder.

    Args:
        place: where it goes.
        marks: its files as they were marked, the first part first.

    Returns:
        What became of it.

    Raises:
        BusyError: something else lies under one of the names where it goes; all files are where they were.
        StorageError: the medium refuses.

    Crash: some files are there, some here; moving again ends it.
    """
    with (
        opened_folder(place.folder) as source,
        opened_folder(place.folder, *place.way, make=True) as target,
        storage_errors(target.path),
    ):
        if not _is_any(marks[:1], source, target):
            _remove_if_empty(place)
            return MoveOutcome.GONE
        if not _is_at(target, marks[0]) and not all(_may_leave(source, mark) for mark in marks):
            _remove_if_empty(place)
            return MoveOutcome.CHANGED
        try:
            done = _move_all(source, target, marks)
        except FileExistsError as error:
            _move_all(target, source, reversed(marks))
            raise _name_taken(error) from error
        if not done:
            _move_all(target, source, reversed(marks))
            _remove_if_empty(place)
            return MoveOutcome.CHANGED
        target.sync()
        source.sync()
    return MoveOutcome.DONE


def bring_back(place: Place, marks: Sequence[FileMark]) -> MoveOutcome:
    """Move an image back into its folder.

    Args:
        place: where it lies.
        marks: its files, as they were marked.

    Returns:
        What became of it; `CHANGED` if it is not all there any more: what is there stays there.

    Raises:
        BusyError: something else lies under one of the names in the folder.
        StorageError: the medium refuses.

    Crash: some files are there, some here, the first part there; bringing back again ends it.
    """
    if not _is_there(place):
        with opened_folder(place.folder) as folder, storage_errors(place.folder):
            return MoveOutcome.DONE if _is_at(folder, marks[0]) else MoveOutcome.GONE
    with (
        opened_folder(place.folder, *place.way) as source,
        opened_folder(place.folder) as target,
        storage_errors(target.path),
    ):
        images = [mark for mark in marks if parse_image_name(mark.name) is not None]
        if not _is_any(marks[:1], source, target):
            return MoveOutcome.GONE
        if not all(_is_at(source, mark) or _is_at(target, mark) for mark in images):
            return MoveOutcome.CHANGED
        try:
            _move_all(source, target, reversed(marks))
        except FileExistsError as error:
            _move_all(target, source, marks)
            raise _name_taken(error) from error
        target.sync()
        source.sync()
    _remove_if_empty(place)
    return MoveOutcome.DONE


def delete_aside(place: Place, marks: Sequence[FileMark]) -> int:
    """Delete a retired image for good.

    Args:
        place: where it lies; what was moved to `Incrementals/` is never deleted.
        marks: its files, as they were marked.

    Returns:
        How many bytes were freed; 0 if it was gone already.

    Raises:
        ValueError: it lies in `Incrementals/`.
        StorageError: the medium refuses, or something else lies there, which stays.

    Crash: fewer of its files are left; deleting again ends it.
    """
    if place.to_incrementals:
        raise ValueError("what was moved to Incrementals is not deleted")
    if not _is_there(place):
        return 0
    freed_bytes = 0
    with opened_folder(place.folder, *place.way) as source, storage_errors(source.path):
        for mark in marks:
            if _is_at(source, mark):
                os.unlink(mark.name, dir_fd=source.fd)
                freed_bytes += mark.size_bytes
        source.sync()
        strangers = source.names()
    if strangers:
        raise StorageError(
            f"holds what was not put there by us, and is left as it is: {strangers[0]}",
            path=str(place.folder.joinpath(*place.way)),
            hint="Look what it is; an empty folder is removed by itself.",
        )
    _remove_if_empty(place)
    return freed_bytes


def tokens_on_disk(folder: Path) -> list[str]:
    """List the removals whose files lie in a folder's `.rollforward/retired/`.

    Raises:
        StorageError: that cannot be read.
    """
    try:
        with opened_folder(folder, OWN_NAME, RETIRED_NAME) as retired, storage_errors(retired.path):
            return retired.names()
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise


def _is_there(place: Place) -> bool:
    return os.path.lexists(place.folder.joinpath(*place.way))


def _is_at(folder: OpenFolder, mark: FileMark) -> bool:
    """Tell whether the very file that was marked lies in a folder."""
    status = folder.status(mark.name)
    return status is not None and is_plain_file(status) and FileMark.of(mark.name, status) == mark


def _may_leave(source: OpenFolder, mark: FileMark) -> bool:
    """Tell whether a file may be moved: it is the one that was marked, or a digest file that is gone or another's."""
    return _is_at(source, mark) or parse_image_name(mark.name) is None


def _is_any(marks: Iterable[FileMark], *folders: OpenFolder) -> bool:
    return any(folder.status(mark.name) is not None for mark in marks for folder in folders)


def _move_all(source: OpenFolder, target: OpenFolder, marks: Iterable[FileMark]) -> bool:
    """Move what of an image still lies in the source; a file that is another one is left, or put back.

    Returns:
        Whether nothing but the marked files was moved.
    """
    for mark in marks:
        if not _is_at(source, mark):
            continue
        if _is_at(target, mark):  # both names lead to it: a move was interrupted
            os.unlink(mark.name, dir_fd=source.fd)
            continue
        move_between(source, target, mark.name)
        if not _is_at(target, mark):  # another took its name between the look and the move
            move_between(target, source, mark.name)
            return False
    return True


def _remove_if_empty(place: Place) -> None:
    """Remove the folder of a removal once nothing lies in it."""
    if place.to_incrementals or not _is_there(place):
        return
    with opened_folder(place.folder, OWN_NAME, RETIRED_NAME) as retired, storage_errors(retired.path):
        try:
            os.rmdir(place.token, dir_fd=retired.fd)
        except OSError:
            return  # not empty: whoever asks next sees what lies there
        retired.sync()


def _name_taken(error: OSError) -> BusyError:
    return BusyError(
        "a file of this name exists already; both are left as they are",
        path=str(error.filename),
        hint="Look what it is, and move it away or remove it.",
    )
