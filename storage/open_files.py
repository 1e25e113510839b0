"""File descriptors, few at a time: files are opened when they are read, and the longest unused one makes room.

A chain may have thousands of images and each of them hundreds of parts; a process may have far fewer open files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from policies.errors import NotAnImageError, StorageError

_LEAST: Final = 8
_MOST: Final = 16_384
_TOO_MANY: Final = {errno.EMFILE, errno.ENFILE}


class SharedFile:
    """A regular file that is opened when it is read and may be closed in between. Safe to share between threads.

    It is the same file from beginning to end: one that took its name meanwhile is refused, and so is one whose size or
    time of change is another one now. (The inode's own time is not looked at: it changes with each further name.)

    Args:
        path: the file; it is opened at once.

    Attributes:
        is_closed: whether nobody may read from it any more.
        opening: held while it is being opened.

    Raises:
        NotAnImageError: it is a link, a folder, a pipe or a device.
        StorageError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_closed = False
        self.opening = threading.Lock()
        self._first: os.stat_result | None = None
        self.size_bytes = 0
        with self.descriptor() as fd:
            self.size_bytes = os.fstat(fd).st_size

    @contextlib.contextmanager
    def descriptor(self) -> Iterator[int]:
        """Lend the descriptor while the block lasts; raises as `take` does."""
        fd = self.take()
        try:
            yield fd
        finally:
            self.give()

    def take(self) -> int:
        """Return the descriptor, open for reading; it stays open until `give` follows.

        Raises:
            ValueError: the file was closed.
            StorageError: the file cannot be opened any more, or its name leads to another one now.
        """
        return _pool.take(self)

    def give(self) -> None:
        """Say that the descriptor is no longer needed."""
        _pool.give(self)

    def close(self) -> None:
        """Close the file for good; whoever reads from it at this moment may end. Harmless when closed already."""
        _pool.drop(self)

    def open_again(self) -> int:
        """Open the file for the pool; raises as the constructor does."""
        try:  # without O_NONBLOCK, opening a pipe would wait for its writer
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in _TOO_MANY:
                raise
            if error.errno == errno.ELOOP:
                raise NotAnImageError("is a symbolic link, not a file", path=str(self.path)) from error
            raise StorageError(f"cannot be opened: {error.strerror}", path=str(self.path)) from error
        try:
            self._check(os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise NotAnImageError("is not a regular file", path=str(self.path))
        first = self._first or status
        # an inode's number alone proves nothing: it is given away again, and some file systems number a file anew
        # each time
        if (status.st_size, status.st_mtime_ns) != (first.st_size, first.st_mtime_ns):
            raise StorageError(
                "was replaced or changed while it was being read", path=str(self.path), hint="Try again."
            )
        self._first = first


class _Lent:
    """An open descriptor, and how many read from it now."""

    __slots__ = ("fd", "users")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.users = 0


class _Pool:
    """Open descriptors of this process, the longest unused one first.

    The lock is never held while a file is opened or closed: a medium that hangs stalls its own readers alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[SharedFile, _Lent] = OrderedDict()
        self._dropped: dict[SharedFile, _Lent] = {}
        self._being_opened = 0

    def take(self, file: SharedFile) -> int:
        """Return the file's descriptor, which stays open until as many `give` follow."""
        fd = self._taken(file)
        if fd is not None:
            return fd
        with file.opening:
            fd = self._taken(file)  # another thread may have opened it meanwhile
            return self._open_file(file) if fd is None else fd

    def _taken(self, file: SharedFile) -> int | None:
        with self._lock:
            if file.is_closed:
                raise ValueError(f"{file.path} was closed")
            lent = self._open.get(file)
            if lent is None:
                return None
            self._open.move_to_end(file)
            lent.users += 1
            return lent.fd

    def give(self, file: SharedFile) -> None:
        """Take a descriptor back."""
        with self._lock:
            lent = self._open.get(file)
            if lent is not None:
                lent.users -= 1
                return
            lent = self._dropped[file]
            lent.users -= 1
            if lent.users:
                return
            del self._dropped[file]
        os.close(lent.fd)

    def drop(self, file: SharedFile) -> None:
        """Close a file's descriptor, if it has one: now, or when the last reader gives it back."""
        with self._lock:
            file.is_closed = True
            lent = self._open.pop(file, None)
            if lent is None:
                return
            if lent.users:
                self._dropped[file] = lent
                return
        os.close(lent.fd)

    def _open_file(self, file: SharedFile) -> int:
        """Open a file, and lend its descriptor."""
        with self._lock:
            self._being_opened += 1
        try:
            fd = self._opened(file)
        finally:
            with self._lock:
                self._being_opened -= 1
        with self._lock:
            if not file.is_closed:
                lent = self._open[file] = _Lent(fd)
                lent.users = 1
                return fd
        os.close(fd)
        raise ValueError(f"{file.path} was closed")

    def _opened(self, file: SharedFile) -> int:
        limit = _limit()
        while self._held() > limit and self._close_oldest():
            pass
        while True:
            try:
                return file.open_again()
            except OSError as error:  # others have taken what the limit left
                if not self._close_oldest():
                    raise StorageError(f"cannot be opened: {error.strerror}", path=str(file.path)) from error

    def _held(self) -> int:
        with self._lock:
            return len(self._open) + len(self._dropped) + self._being_opened

    def _close_oldest(self) -> bool:
        """Close the longest unused descriptor that nobody reads from; False if there is none."""
        with self._lock:
            oldest = next((file for file, lent in self._open.items() if lent.users == 0), None)
            if oldest is None:
                return False
            lent = self._open.pop(oldest)
        os.close(lent.fd)
        return True


def _limit() -> int:
    """Tell how many descriptors may be held: half of what the process may have, so that the rest gets by."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else max(min(soft // 2, _MOST), _LEAST)


_pool: Final = _Pool()
