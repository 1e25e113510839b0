"""Copying files out of a point: into the place that was named and nowhere else."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hsr.serving.file_systems import Entry, FileSystem
from policies.errors import ConfigurationError, RestoreError, SourceError

_DEPTH_MAX: Final = 200
_PERMISSIONS: Final = 0o777
"""What is kept of a mode: a copy belongs to whoever copied it, so set-user-id would say something else on it."""


@dataclass(slots=True)
class Copied:
    """What was copied.

    Attributes:
        files: number of files and links.
        folders: number of folders.
        size_bytes: bytes of the files.
        skipped: paths of what is neither: devices, pipes, sockets.
    """

    files: int
    folders: int
    size_bytes: int
    skipped: list[str]


def copy_out(system: FileSystem, entry: Entry, target: Path, *, recursive: bool) -> Copied:
    """Copy a file, or a folder with all that is in it, with times and permissions.

    Symbolic links are copied, never followed, neither there nor here; nothing that exists is overwritten.

    Args:
        system: where to copy from.
        entry: what to copy.
        target: an existing folder, to copy into under the same name; or a new name.
        recursive: whether a folder may be copied.

    Returns:
        What was copied.

    Raises:
        ConfigurationError: it is a folder, without `recursive`; or the target exists.
        RestoreError: the target cannot be written.
        SourceError: the file system cannot be read.

    Crash: files copied so far, the last one maybe in part.
    """
    if entry.is_folder and not recursive:
        raise ConfigurationError("is a folder", path=entry.path, hint="Say --recursive.")
    if target.is_dir():
        parent, name = target, entry.name
        if entry.path == "/":
            raise ConfigurationError("exists already; the root needs a new name", path=str(target))
    else:
        parent, name = target.parent, target.name
    copied = Copied(0, 0, 0, [])
    with _writing(target):
        place = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _Copying(system, copied).copy(entry, name, place, ())
        finally:
            os.close(place)
    return copied


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise ConfigurationError(
            f"exists already: {os.fsdecode(error.filename)!r}", path=str(target)
        ) from error
    except OSError as error:
        raise RestoreError(f"cannot be written: {error.strerror}", path=str(target)) from error


class _Copying:
    def __init__(self, system: FileSystem, copied: Copied) -> None:
        self._system = system
        self._copied = copied

    def copy(self, entry: Entry, name: str, place: int, above: tuple[str, ...]) -> None:
        """Copy an entry into an open folder, by a name that is no path."""
        if name in {"", ".", ".."} or "/" in name or "\0" in name:
            raise SourceError("has a name that is no name", path=entry.path)
        if stat.S_ISDIR(entry.mode):
            self._copy_folder(entry, name, place, above)
        elif stat.S_ISLNK(entry.mode):
            os.symlink(self._system.link_target(entry), os.fsencode(name), dir_fd=place)
            self._date(entry, name, place)
            self._copied.files += 1
        elif stat.S_ISREG(entry.mode):
            self._copy_file(entry, name, place)
        else:
            self._copied.skipped.append(entry.path)

    def _copy_folder(self, entry: Entry, name: str, place: int, above: tuple[str, ...]) -> None:
        if entry.number in above or len(above) > _DEPTH_MAX:
            raise SourceError("is a folder within itself, or far too deep", path=entry.path)
        os.mkdir(name, 0o700, dir_fd=place)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
        try:
            for each in self._system.entries(entry):
                self.copy(each, each.name, inner, (*above, entry.number))
            os.fchmod(inner, entry.mode & _PERMISSIONS)
        finally:
            os.close(inner)
        self._date(entry, name, place)
        self._copied.folders += 1

    def _copy_file(self, entry: Entry, name: str, place: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=place)
        try:
            self._system.read(entry, fd)
            os.fchmod(fd, entry.mode & _PERMISSIONS)
        finally:
            os.close(fd)
        self._date(entry, name, place)
        self._copied.files += 1
        self._copied.size_bytes += entry.size_bytes

    def _date(self, entry: Entry, name: str, place: int) -> None:
        time_ns = self._system.time_ns(entry)
        if time_ns is not None:
            os.utime(name, ns=(time_ns, time_ns), dir_fd=place, follow_symlinks=False)
