"""Bringing a file under its final name: whole, synced, and never over another.

A file is written under a temporary name in its own folder and locked while its writer lives. So whatever a crash
leaves behind is recognised, is never taken for an image, and is swept away by the next writer in that folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from policies.errors import BusyError, RollforwardError, StorageError
from storage.locking import lock_file
from storage.mounts import share_at
from storage.sharing import insist
from storage.sweep import PARTIAL_SUFFIX, sweep_partials

_STEM_BYTES_MAX: Final = 200
"""How much of the final name a partial one repeats: with the rest, it stays within the usual 255 bytes."""

_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
_UNSUPPORTED: Final = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_UNLINKABLE: Final = {errno.EPERM, *_UNSUPPORTED}
_HINTS: Final = {
    errno.ENOSPC: "Free some room on this file system, then try again; nothing that was there before is touched.",
    errno.EDQUOT: "The quota is used up; free some room, then try again.",
    errno.EROFS: "The file system is mounted read-only.",
    errno.EACCES: "Give this user the right to write there.",
}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError within the block into a StorageError that names the path and says what to do."""
    try:
        yield
    except OSError as error:
        words = "the disk is full" if error.errno == errno.ENOSPC else f"cannot be written: {error.strerror}"
        raise StorageError(words, path=str(path), hint=_HINTS.get(error.errno or 0)) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; file systems that cannot sync a folder are tolerated."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(fd)


def _settle(target: Path) -> None:
    """Make a name durable that was just given.

    Raises:
        StorageError: that fails; the message says that the name is there.
    """
    try:
        sync_folder(target.parent)
    except OSError as error:
        raise StorageError(
            f"is written, whole, and has its name, but its folder cannot be synced: {error.strerror}",
            path=str(target),
            hint="It may be gone if the power fails soon. Look whether it is there before this is done again.",
        ) from error


class PartialFile:
    """A file that is being written beside its final name.

    A context manager: leaving it without `publish` removes the file.

    Args:
        target: the final path; its folder must exist.
        replacing: whether a file of that name is to be replaced.

    Raises:
        BusyError: the final name is taken.
        StorageError: the folder refuses.

    Crash: leaves a `.NAME.*.rf-partial` file, which the next writer in the folder removes.
    """

    def __init__(self, target: Path, *, replacing: bool = False) -> None:
        self.target = target
        if not replacing and os.path.lexists(target):
            raise name_taken(target)
        stem = os.fsencode(target.name)[:_STEM_BYTES_MAX].decode(errors="ignore")
        self.path = target.with_name(f".{stem}.{secrets.token_hex(6)}{PARTIAL_SUFFIX}")
        with storage_errors(target):
            sweep_partials(target.parent)
            self.fd = _create_locked(self.path)

    def publish(self) -> None:
        """Sync the file and give it its final name.

        An error over a network may come after the deed, so what has become of the name is looked at.

        Raises:
            BusyError: the final name was taken meanwhile.
            StorageError: the medium refuses; or the file has its name, as the message says then, but that cannot be
                made durable.

        Crash: the name is there with the whole file behind it, or it is not there.
        """
        self._give_name(rename_without_replacing)

    def _give_name(self, rename: Callable[[Path, Path], object]) -> None:
        with storage_errors(self.target):
            os.fsync(self.fd)
            try:
                self._rename(rename)
            except FileExistsError:
                raise name_taken(self.target) from None
            if self.fd >= 0 and share_at(self.fd) is not None:
                os.fsync(self.fd)  # a folder's sync may not reach the server; this takes the new name with it
        self._close()
        _settle(self.target)

    def _rename(self, rename: Callable[[Path, Path], object]) -> None:
        try:
            rename(self.path, self.target)
        except OSError as error:
            if self.has_final_name():
                return
            share = share_at(self.fd)
            if share is None or error.errno != errno.EBUSY:
                raise
            self._close()  # some shares cannot rename what is open
            insist(lambda: rename(self.path, self.target), share)

    def has_final_name(self) -> bool:
        """Tell whether the final name leads to this very file, which is still open.

        Raises:
            OSError: that cannot be told.
        """
        try:
            there = self.target.lstat()
        except FileNotFoundError:
            return False
        mine = os.fstat(self.fd)
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def replace(self) -> None:
        """Sync the file and put it in the place of whatever bears the final name; else like `publish`."""
        self._give_name(Path.replace)

    def discard(self) -> None:
        """Remove the file, if it was not published."""
        if self.fd >= 0:
            try:
                share = share_at(self.fd)
            finally:
                self._close()  # some shares cannot remove what is open
            with contextlib.suppress(FileNotFoundError):
                insist(self.path.unlink, share)

    def abandon(self) -> None:
        """Close the file, if it was not published, and leave it to a sweep."""
        self._close()

    def _close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def _create_locked(path: Path) -> int:
    """Create a file and lock it; again, where another writer's sweep comes between the two and takes it away."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            lock_file(fd, waiting=True)
            if os.fstat(fd).st_nlink:
                return fd
        except BaseException:
            os.close(fd)
            path.unlink()
            raise
        os.close(fd)


def name_taken(target: Path) -> RollforwardError:
    """Say that a final name is in use."""
    return BusyError("a file of this name exists already; it is left as it is", path=str(target))


def rename_without_replacing(source: Path, target: Path) -> None:
    """Rename a file within its folder; never over an existing name.

    Tries renameat2(RENAME_NOREPLACE), then link and unlink, where the file system lacks the former.

    Raises:
        FileExistsError: the target exists.
        OSError: neither way is supported, or the medium refuses.

    Crash: either name or, between link and unlink, both lead to the whole file.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        done = libc.renameat2(
            _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE
        )
        if done == 0:
            return
        code = ctypes.get_errno()
        if code not in _UNSUPPORTED:
            raise OSError(code, os.strerror(code), str(target))
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _UNLINKABLE:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        source.rename(target)  # no way to do both at once here: the one-writer lock of the chain must suffice
    else:
        source.unlink()


@contextlib.contextmanager
def folder_lock(folder: Path, name: str, what: str) -> Iterator[None]:
    """Hold an exclusive lock in a folder's `.rollforward/`; the system frees it when the process ends.

    Args:
        folder: the managed folder.
        name: name of the lock.
        what: what is under way, for the message.

    Raises:
        BusyError: another process holds it.
        StorageError: the folder refuses.
    """
    hidden = folder / ".rollforward"
    with storage_errors(hidden):
        hidden.mkdir(mode=0o750, exist_ok=True)
        fd = os.open(hidden / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        try:
            lock_file(fd)
        except BlockingIOError:
            raise BusyError(
                f"{what} is already running", path=str(folder), hint="Wait for it to end."
            ) from None
        except OSError as error:
            raise StorageError(
                f"cannot be locked: {error.strerror}",
                path=str(hidden),
                hint="Mount it with support for flock.",
            ) from error
        yield
    finally:
        os.close(fd)
