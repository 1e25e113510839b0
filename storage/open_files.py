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

    It is the same file from beginning to end: one that took its name meanwhile is refused.

    Args:
        path: the file; it is opened at once.

    Raises:
        NotAnImageError: it is a link, a folder, a pipe or a device.
        StorageError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._first: os.stat_result | None = None
        self.size_bytes = 0
        with self.descriptor() as fd:
            self.size_bytes = os.fstat(fd).st_size

    @contextlib.contextmanager
    def descriptor(self) -> Iterator[int]:
        """Lend the descriptor, open for reading, while the block lasts.

        Raises:
            StorageError: it cannot be opened any more, or its name leads to another file now.
        """
        fd = _pool.take(self)
        try:
            yield fd
        finally:
            _pool.give(self)

    def close(self) -> None:
        """Close the file; harmless when closed already. Nobody may be reading it."""
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
        is_same_inode = (status.st_dev, status.st_ino) == (first.st_dev, first.st_ino)
        looks_alike = (status.st_size, status.st_mtime_ns) == (first.st_size, first.st_mtime_ns)
        if not is_same_inode and not looks_alike:  # some file systems number a file anew each time
            raise StorageError("was replaced while it was being read", path=str(self.path), hint="Try again.")
        self._first = first


class _Pool:
    """Open descriptors of this process, the longest unused one first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: OrderedDict[SharedFile, int] = OrderedDict()
        self._lent: dict[SharedFile, tuple[int, int]] = {}

    def take(self, file: SharedFile) -> int:
        """Return the file's descriptor, which stays open until as many `give` follow."""
        with self._lock:
            lent = self._lent.get(file)
            if lent is not None:
                fd, users = lent
            else:
                fd, users = self._idle.pop(file, -1), 0
                fd = self._open(file) if fd < 0 else fd
            self._lent[file] = (fd, users + 1)
            return fd

    def give(self, file: SharedFile) -> None:
        """Take a descriptor back."""
        with self._lock:
            fd, users = self._lent[file]
            if users > 1:
                self._lent[file] = (fd, users - 1)
            else:
                del self._lent[file]
                self._idle[file] = fd

    def drop(self, file: SharedFile) -> None:
        """Close a file's descriptor, if it has one."""
        with self._lock:
            fd = self._idle.pop(file, -1)
            if fd >= 0:
                os.close(fd)

    def _open(self, file: SharedFile) -> int:
        limit = _limit()
        while self._idle and len(self._idle) + len(self._lent) >= limit:
            self._close_oldest()
        while True:
            try:
                return file.open_again()
            except OSError as error:  # others have taken what the limit left
                if not self._idle:
                    raise StorageError(f"cannot be opened: {error.strerror}", path=str(file.path)) from error
                self._close_oldest()

    def _close_oldest(self) -> None:
        _, fd = self._idle.popitem(last=False)
        os.close(fd)


def _limit() -> int:
    """Tell how many descriptors may be held: half of what the process may have, so that the rest gets by."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else max(min(soft // 2, _MOST), _LEAST)


_pool: Final = _Pool()
