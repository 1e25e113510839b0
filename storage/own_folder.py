"""Our own folder within a managed one, `.rollforward/`, and moves between the two that never go astray.

Folders are held open while they are worked in, and are never reached through a link: whoever may write in the managed
folder cannot have us write, move or delete anywhere else.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from policies.errors import FormatError, RollforwardError, StorageError
from storage.publish import storage_errors

OWN_NAME: Final = ".rollforward"
"""Name of our own folder."""

_RENAME_NOREPLACE: Final = 1
_UNSUPPORTED: Final = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
UNLINKABLE: Final = frozenset({errno.EPERM, errno.EMLINK, *_UNSUPPORTED})
"""Errors by which a file system says that it has no links."""

_NOT_A_FOLDER: Final = {errno.ELOOP, errno.ENOTDIR}


@dataclass(frozen=True, slots=True)
class OpenFolder:
    """A folder that is held open.

    Attributes:
        fd: its descriptor.
        path: where it was found, for messages.
    """

    fd: int
    path: Path

    def at(self, name: str) -> Path:
        """Return a path to a name in this very folder, whatever becomes of the folder's own name."""
        return Path(f"/proc/self/fd/{self.fd}") / name

    def status(self, name: str) -> os.stat_result | None:
        """Return what a name stands for, links not followed; None if there is nothing.

        Raises:
            OSError: that cannot be told.
        """
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """List what lies in it.

        Raises:
            OSError: it cannot be read.
        """
        return sorted(os.listdir(self.fd))  # noqa: PTH208 - an open folder has no path that cannot change

    def sync(self) -> None:
        """Make its names durable; file systems that cannot are tolerated.

        Raises:
            OSError: the medium refuses.
        """
        try:
            os.fsync(self.fd)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise


@contextlib.contextmanager
def opened_folder(folder: Path, *names: str, make: bool = False) -> Iterator[OpenFolder]:
    """Hold a folder below a managed one open.

    Args:
        folder: the managed folder.
        names: the way down from it, such as `.rollforward` and `retired`; none for the managed folder itself.
        make: whether folders on the way are made where they are missing.

    Raises:
        StorageError: one is missing, is a link or no folder, or cannot be made.

    Crash: leaves some folders of the way, empty, or none.
    """
    path = folder
    with storage_errors(folder):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            path = path / name
            inner = _open_below(fd, name, path, make=make)
            os.close(fd)
            fd = inner
        held = OpenFolder(fd, path)
        with _told_by_name(held):
            yield held
    finally:
        os.close(fd)


@contextlib.contextmanager
def _told_by_name(held: OpenFolder) -> Iterator[None]:
    """Have errors name the folder as people know it, where `OpenFolder.at` gave the way to it."""
    way = held.at("x").parent
    try:
        yield
    except RollforwardError as error:
        if error.path is not None and Path(error.path).is_relative_to(way):
            error.path = str(held.path / Path(error.path).relative_to(way))
        raise


def _open_below(fd: int, name: str, path: Path, *, make: bool) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o750, dir_fd=fd)
                OpenFolder(fd, path.parent).sync()
        return os.open(name, flags, dir_fd=fd)
    except OSError as error:
        if error.errno in _NOT_A_FOLDER:
            raise StorageError(
                "is a link, or no folder, and is not followed",
                path=str(path),
                hint="Look who put it there, then remove it.",
            ) from error
        if error.errno == errno.ENOENT:
            raise StorageError("is not there", path=str(path)) from error
        with storage_errors(path):
            raise


@contextlib.contextmanager
def readable(folder: OpenFolder, name: str) -> Iterator[BinaryIO | None]:
    """Open a plain file of an open folder to be read; None if there is none.

    Raises:
        FormatError: it is a link, or no plain file.
        StorageError: it cannot be read.
    """
    path = folder.path / name
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder.fd)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        if error.errno in _NOT_A_FOLDER:
            raise FormatError("is a link, and is not followed", path=str(path)) from error
        raise StorageError(f"cannot be read: {error.strerror}", path=str(path)) from error
    if not is_plain_file(os.fstat(fd)):
        os.close(fd)
        raise FormatError("is no plain file", path=str(path))
    with os.fdopen(fd, "rb") as file:
        yield file


def move_between(source: OpenFolder, target: OpenFolder, name: str) -> None:
    """Move a file from one open folder to another of the same file system, never over an existing name.

    Args:
        source: where it lies.
        target: where it goes.
        name: its name, here and there.

    Raises:
        FileExistsError: the name is taken in the target.
        OSError: the medium refuses, or the folders lie on different file systems.

    Crash: either name or, where the file system knows no better, both lead to the file.
    """
    code = rename_at(source.fd, target.fd, name)
    if code == 0:
        return
    if code not in _UNSUPPORTED:
        raise OSError(code, os.strerror(code), str(target.path / name))
    try:
        os.link(name, name, src_dir_fd=source.fd, dst_dir_fd=target.fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in UNLINKABLE:
            raise
        if target.status(name) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target.path / name)) from None
        os.rename(name, name, src_dir_fd=source.fd, dst_dir_fd=target.fd)
    else:
        os.unlink(name, dir_fd=source.fd)


def rename_at(source_fd: int, target_fd: int, name: str) -> int:
    """Rename within or between open folders without replacing anything.

    Returns:
        0, or the number of the error.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return errno.ENOSYS
    text = os.fsencode(name)
    done = libc.renameat2(source_fd, text, target_fd, text, _RENAME_NOREPLACE)
    return 0 if done == 0 else ctypes.get_errno()


def is_plain_file(status: os.stat_result | None) -> bool:
    """Tell whether something is there, and is a plain file."""
    return status is not None and stat.S_ISREG(status.st_mode)
