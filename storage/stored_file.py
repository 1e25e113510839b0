"""Reading an image with positioned reads: no mapping, so that a failing medium is an error, not a crash.

An image in several parts reads like one file: the parts one after the other.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final

from policies.errors import StorageError, TruncatedError
from storage.open_files import SharedFile
from storage.parts import following_parts, part_numbers_beside

_MAX_VECTORS: Final = 1024
"""IOV_MAX of Linux: how many pieces one vectored read takes."""


class StoredFile:
    """An image's bytes: positioned reads that are complete or raise. Safe to share between threads.

    Args:
        path: the file; of a spanned set, the first part. Those that follow it without a gap are part of it.

    Attributes:
        path: the file, or the first part.
        size_bytes: size of all parts together.
        part_sizes: size of each part in bytes, first part first.

    Raises:
        NotAnImageError: it, or a part, is a link, a folder, a pipe or a device.
        TruncatedError: the first part is missing, though others are there.
        StorageError: it, or a part, cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: list[SharedFile] = []
        try:
            for part in (path, *following_parts(path)):
                self._files.append(SharedFile(part))
        except BaseException as error:
            self.close()
            if isinstance(error, StorageError) and not self._files and not os.path.lexists(path):
                _refuse_headless(path)
            raise
        self.part_sizes = tuple(file.size_bytes for file in self._files)
        self._starts = [0, *accumulate(self.part_sizes)]
        self.size_bytes = self._starts[-1]

    @property
    def part_count(self) -> int:
        """How many files it is in: 1, or more for a spanned set."""
        return len(self._files)

    def part_at(self, offset: int) -> int:
        """Return which part holds a byte of the image: 0 for the first; the last one for what lies beyond."""
        return min(bisect_right(self._starts, offset) - 1, len(self._files) - 1)

    def part_start(self, part: int) -> int:
        """Return the offset in the image at which a part begins; that of the end, for one part too many."""
        return self._starts[part]

    def place(self, offset: int) -> tuple[Path, int]:
        """Return which file holds a byte of the image, and its offset there."""
        part = self.part_at(offset)
        return self._files[part].path, offset - self._starts[part]

    def part_path(self, part: int) -> Path:
        """Return the path of a part."""
        return self._files[part].path

    def read_into(self, offset: int, pieces: Sequence[memoryview]) -> None:
        """Fill the pieces, one after the other, from consecutive bytes of the image.

        Args:
            offset: where the first piece begins, in bytes.
            pieces: writable buffers; empty ones are allowed.

        Raises:
            TruncatedError: the image ends before the last piece is full.
            StorageError: the medium fails.
        """
        if len(self._files) == 1:
            self.read_part(0, offset, pieces)
            return
        part = self.part_at(offset)
        left = list(pieces)
        while part < len(self._files) - 1:
            room = self._starts[part + 1] - offset
            here, left = _cut(left, room)
            self.read_part(part, offset - self._starts[part], here)
            if not left:
                return
            part, offset = part + 1, self._starts[part + 1]
        self.read_part(part, offset - self._starts[part], left)

    def read_part(self, part: int, offset: int, pieces: Sequence[memoryview]) -> None:
        """Fill the pieces from consecutive bytes of one part; else like `read_into`.

        Args:
            part: which one; 0 is the first.
            offset: where the first piece begins in that part, in bytes.
            pieces: writable buffers.
        """
        at = 0
        file = self._files[part]
        fd = file.take()
        try:
            while at < len(pieces):
                group = list(pieces[at : at + _MAX_VECTORS])
                at += len(group)
                wanted = sum(map(len, group))
                while wanted:
                    got = self._read_some(fd, part, offset, group)
                    offset += got
                    wanted -= got
                    if wanted:
                        group = _rest(group, got)
        finally:
            file.give()

    def _read_some(self, fd: int, part: int, offset: int, group: list[memoryview]) -> int:
        path = str(self._files[part].path)
        try:
            got = os.preadv(fd, group, offset)
        except OSError as error:
            raise StorageError(
                f"cannot be read: {error.strerror}",
                path=path,
                offset=offset,
                hint="Check the medium; copy the file from a replica.",
            ) from error
        if got == 0:
            raise TruncatedError("the file ends too early", path=path, offset=offset)
        return got

    def read_cached(self, offset: int, size: int) -> bytearray | None:
        """Return `size` bytes if that needs no waiting for a medium.

        Returns:
            The bytes; None where the kernel does not hold all of them in memory or cannot tell, and where they lie
            in two parts.
        """
        part = self.part_at(offset)
        buffer = bytearray(size)
        with self._files[part].descriptor() as fd:
            try:
                got = os.preadv(fd, [buffer], offset - self._starts[part], os.RWF_NOWAIT)
            except OSError:  # not there, or not known to this file system: an ordinary read tells which
                return None
        return buffer if got == size else None

    def read(self, offset: int, size: int) -> bytearray:
        """Return `size` bytes from `offset`; raises as `read_into` does."""
        buffer = bytearray(size)
        self.read_into(offset, [memoryview(buffer)])
        return buffer

    def forget_cache(self) -> None:
        """Ask the kernel to drop the cached pages of all parts, so that later reads come from the medium.

        Raises:
            StorageError: what was cached cannot be brought to the medium.
        """
        for file in self._files:
            with file.descriptor() as fd:
                try:
                    os.fsync(fd)
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                except OSError as error:
                    raise StorageError(f"cannot be synced: {error.strerror}", path=str(file.path)) from error

    def close(self) -> None:
        """Close all parts; harmless when closed already."""
        for file in self._files:
            file.close()


def _refuse_headless(path: Path) -> None:
    """Raise if further parts of an image are there without the first.

    Raises:
        TruncatedError: they are.
    """
    numbers = part_numbers_beside(path) if path.parent.is_dir() else ()
    if numbers:
        raise TruncatedError(
            f"this first part is missing; there {words_for_parts(numbers)} of the same set",
            path=str(path),
            hint="Bring it back from a replica, or remove the rest of the set if nobody needs it.",
        )


def words_for_parts(numbers: Sequence[int]) -> str:
    """Say which further parts are there: "is .sp1", "are .sp1 and .sp2", "are .sp1 … .sp9 (9 parts)"."""
    if len(numbers) == 1:
        return f"is .sp{numbers[0]}"
    if len(numbers) == 2:
        return f"are .sp{numbers[0]} and .sp{numbers[1]}"
    return f"are .sp{numbers[0]} … .sp{numbers[-1]} ({len(numbers)} parts)"


def _cut(pieces: list[memoryview], size: int) -> tuple[list[memoryview], list[memoryview]]:
    """Split pieces after so many bytes; nothing, or pieces that hold bytes, are left behind the cut."""
    for at, piece in enumerate(pieces):
        if len(piece) > size:
            return [*pieces[:at], piece[:size]], [piece[size:], *pieces[at + 1 :]]
        size -= len(piece)
    return pieces, []


def _rest(group: list[memoryview], got: int) -> list[memoryview]:
    for at, piece in enumerate(group):
        if got < len(piece):
            return [piece[got:], *group[at + 1 :]]
        got -= len(piece)
    return []
