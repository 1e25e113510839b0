"""Reading an image with positioned reads: no mapping, so that a failing medium is an error, not a crash."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from policies.errors import NotAnImageError, StorageError, TruncatedError

_MAX_VECTORS: Final = 1024
"""IOV_MAX of Linux: how many pieces one vectored read takes."""


class StoredFile:
    """An open image file: positioned reads that are complete or raise. Safe to share between threads.

    Args:
        path: the file.

    Raises:
        NotAnImageError: it is a link, a folder, a pipe or a device.
        StorageError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:  # without O_NONBLOCK, opening a pipe would wait for its writer
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotAnImageError("is a symbolic link, not a file", path=str(path)) from error
            raise StorageError(f"cannot be opened: {error.strerror}", path=str(path)) from error
        status = os.fstat(self._fd)
        self.size_bytes = status.st_size
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise NotAnImageError("is not a regular file", path=str(path))

    def read_into(self, offset: int, pieces: Sequence[memoryview]) -> None:
        """Fill the pieces, one after the other, from consecutive bytes of the file.

        Args:
            offset: where the first piece begins, in bytes.
            pieces: writable buffers; empty ones are allowed.

        Raises:
            TruncatedError: the file ends before the last piece is full.
            StorageError: the medium fails.
        """
        at = 0
        while at < len(pieces):
            group = list(pieces[at : at + _MAX_VECTORS])
            at += len(group)
            wanted = sum(map(len, group))
            while wanted:
                got = self._read_some(offset, group)
                offset += got
                wanted -= got
                if wanted:
                    group = _rest(group, got)

    def _read_some(self, offset: int, group: list[memoryview]) -> int:
        try:
            got = os.preadv(self._fd, group, offset)
        except OSError as error:
            raise StorageError(
                f"cannot be read: {error.strerror}",
                path=str(self.path),
                offset=offset,
                hint="Check the medium; copy the file from a replica.",
            ) from error
        if got == 0:
            raise TruncatedError("the file ends too early", path=str(self.path), offset=offset)
        return got

    def read(self, offset: int, size: int) -> bytearray:
        """Return `size` bytes from `offset`; raises as `read_into` does."""
        buffer = bytearray(size)
        self.read_into(offset, [memoryview(buffer)])
        return buffer

    def forget_cache(self) -> None:
        """Ask the kernel to drop the file's cached pages, so that later reads come from the medium.

        Raises:
            StorageError: what was cached cannot be brought to the medium.
        """
        try:
            os.fsync(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise StorageError(f"cannot be synced: {error.strerror}", path=str(self.path)) from error

    def close(self) -> None:
        """Close the file; harmless when closed already."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _rest(group: list[memoryview], got: int) -> list[memoryview]:
    for at, piece in enumerate(group):
        if got < len(piece):
            return [piece[got:], *group[at + 1 :]]
        got -= len(piece)
    return []
