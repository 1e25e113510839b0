"""Publishing an image that may be in several files: all of them, or none that looks like an image.

What is seen as an image begins with its first part, so that one gets its name last:

    1. every part is written under a partial name and synced; the first one stays locked
    2. the further parts get their final names beside their partial ones (two names, one file); the folder is synced
    3. the first part is renamed, which is the commit; the folder is synced
    4. the partial names of the further parts are removed

After a crash before 3, the first part's partial file is there and unlocked, and tells a sweep that the further
parts are nobody's, those under final names too. After 3 it is gone, so that only partial names are left to remove.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policies.errors import BusyError, ConfigurationError
from policies.names import PART_NUMBER_MAX
from storage.parts import following_parts, part_numbers_beside, part_path
from storage.publish import (
    PartialFile,
    name_taken,
    rename_without_replacing,
    storage_errors,
    sync_folder,
)
from storage.stored_file import words_for_parts
from storage.sweep import further_partial

_UNLINKABLE: Final = {errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK}


@dataclass(frozen=True, slots=True)
class _Further:
    """A further part that was begun: its partial and final path, and what tells the file from others."""

    partial: Path
    final: Path
    identity: tuple[int, int]


class PartialSet:
    """An image that is being written beside its final name, in one file or in several.

    A context manager: leaving it without `publish` removes everything.

    Args:
        target: final path of the first part; its folder must exist.
        part_bytes: size of the parts; None for one file, however large.

    Attributes:
        target: final path of the first part.
        part_bytes: size of the parts, or None.
        fd: the file that is being written, open for reading and writing.
        path: its path.

    Raises:
        BusyError: the final name is taken, or that of a further part.
        StorageError: the folder refuses.

    Crash: partial files, and further parts without a first one: the next writer in the folder removes them. Where
        the file system has no hard links, further parts that had their names already stay, and are shown as such.
    """

    def __init__(self, target: Path, part_bytes: int | None = None) -> None:
        self.target = target
        self.part_bytes = part_bytes
        self._first = PartialFile(target)
        self.fd, self.path = self._first.fd, self._first.path
        self._further: list[_Further] = []
        try:
            self._refuse_strangers(part_numbers_beside(target))
        except BaseException:
            self._first.discard()
            raise

    @property
    def part_count(self) -> int:
        """How many parts were begun."""
        return 1 + len(self._further)

    def begin_part(self) -> None:
        """Sync the file that was being written, and begin the next one.

        Raises:
            ConfigurationError: there are as many parts as an image may have.
            StorageError: the medium refuses.
        """
        number = self.part_count
        if number > PART_NUMBER_MAX:
            raise ConfigurationError(
                f"needs more than {PART_NUMBER_MAX:,} further parts of {self.part_bytes:,} bytes",
                path=str(self.target),
                hint="Choose a larger --part-size.",
            )
        with storage_errors(self.target):
            self._end_part()
            path = further_partial(self._first.path, number)
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            self.path = path
            final = part_path(self.target, number)
            self._further.append(_Further(path, final, _identity(os.fstat(self.fd))))

    def _end_part(self) -> None:
        """Sync the present file; only the first one stays open, since it holds the lock."""
        os.fsync(self.fd)
        self._close_part()

    def _close_part(self) -> None:
        if self.fd not in (self._first.fd, -1):
            os.close(self.fd)
        self.fd = -1

    def publish(self) -> None:
        """Sync everything and give it its final names, the first part last.

        Raises:
            BusyError: a final name was taken meanwhile.
            StorageError: the medium refuses; or all names are there, as the message says then, but that cannot be
                made durable.

        Crash: the first part's name is there with all parts behind it, or it is not there.
        """
        with storage_errors(self.target):
            self._end_part()
            self._refuse_strangers(range(1, 1 + len(following_parts(self.target))))
            if self._further:
                sync_folder(self.target.parent)
                for part in self._further:
                    _place(part)
                sync_folder(self.target.parent)
        self._first.publish()
        with contextlib.suppress(
            OSError
        ):  # the image is there: what stays beside it is swept by the next writer
            self._remove_partial_names()

    def _refuse_strangers(self, numbers: Sequence[int]) -> None:
        """Refuse parts under the image's name that are not ours: they would be read as parts of it.

        Raises:
            BusyError: there are some.
        """
        if numbers:
            raise BusyError(
                f"cannot get this name: there {words_for_parts(numbers)} of a set whose first part is missing, "
                "left as they are",
                path=str(self.target),
                hint="Bring its first part back from a replica, or move those files away.",
            )

    def _remove_partial_names(self) -> None:
        for part in self._further:
            part.partial.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove everything, if it was not published."""
        self._close_part()
        try:
            with storage_errors(self.target):
                if self._first.fd < 0 or self._first.has_final_name():
                    with contextlib.suppress(OSError):  # as in `publish`
                        self._remove_partial_names()
                    return
                self._take_names_back()
                self._remove_partial_names()
                self._first.discard()  # last: while it is there, a sweep knows the rest for what it is
        finally:
            self._first.abandon()

    def _take_names_back(self) -> None:
        for part in self._further:
            with contextlib.suppress(FileNotFoundError):
                if _identity(part.final.lstat()) == part.identity:
                    part.final.unlink()

    def __enter__(self) -> PartialSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _place(part: _Further) -> None:
    """Give a further part its final name; it keeps the partial one too, where the file system has links."""
    try:
        try:
            os.link(part.partial, part.final)
        except OSError as error:
            if error.errno not in _UNLINKABLE:
                raise
            rename_without_replacing(part.partial, part.final)
    except FileExistsError:
        raise name_taken(part.final) from None
