"""Where a restored volume goes: a raw file, or a block device."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Final, Protocol, Self

from policies.errors import ConfigurationError, RestoreError
from storage.mounts import share_at
from storage.publish import PartialFile
from storage.source import device_or_file_bytes

HOLDS_PART: Final = (
    "The device holds a part of the volume now; use it only when a restore to it has ended well."
)
"""The hint of an error after which a device is not what it was, nor whole."""

_BLKZEROOUT: Final = 0x127F
_ZERO_RUN_BYTES: Final = 1 << 30
_DIRECT_ALIGN: Final = 4096
_DIRECT_BYTES_MIN: Final = 256 << 10
"""Shorter runs are left to the page cache, which gathers them."""


class RestoreTarget(Protocol):
    """A volume that is being written, in any order, each byte once. A context manager.

    Leaving it without `finish` gives up what was written.
    """

    starts_zeroed: bool
    """Whether all of it reads as zero before anything is written."""
    holds_part: bool
    """Whether something was written that stays where it is, even if nothing follows."""

    def write(self, offset: int, plain: memoryview) -> None:
        """Write bytes at an offset.

        Raises:
            RestoreError: the medium refuses.
        """

    def zero(self, offset: int, size: int) -> None:
        """Make a range read as zero, whatever it held.

        Raises:
            RestoreError: the medium refuses.
        """

    def finish(self) -> None:
        """Make everything durable, under the final name.

        Raises:
            RestoreError: the medium refuses.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def open_target(path: Path, volume_bytes: int, *, overwrite: bool = False) -> RestoreTarget:
    """Open the place that a volume is restored to.

    Args:
        path: a raw file to be made, or a block device that nobody uses.
        volume_bytes: size of the volume.
        overwrite: whether an existing file may be replaced.

    Raises:
        ConfigurationError: the place cannot be used as it is.
        RestoreError: the medium refuses.
    """
    if path.is_block_device():
        return BlockDeviceTarget(path, volume_bytes)
    if os.path.lexists(path):
        if not path.is_file() or path.is_symlink():
            raise ConfigurationError("is neither a regular file nor a block device", path=str(path))
        if not overwrite:
            raise ConfigurationError(
                "exists already", path=str(path), hint="Name another file, or say --overwrite to replace it."
            )
    if not path.parent.is_dir():
        raise ConfigurationError("the folder of the target does not exist", path=str(path))
    return RawFileTarget(path, volume_bytes, overwrite=overwrite)


class RawFileTarget:
    """A new sparse raw file; it gets its name when it is whole.

    Args:
        path: final name.
        volume_bytes: size of the volume.
        overwrite: replace a file of that name.

    Crash: a partial file that the next writer in the folder sweeps away; an older file stays as it is.
    """

    starts_zeroed = True
    holds_part = False

    def __init__(self, path: Path, volume_bytes: int, *, overwrite: bool) -> None:
        self._path = path
        self._overwrite = overwrite
        self._partial = PartialFile(path, replacing=overwrite)
        self._direct = DirectWriter(self._partial.path)
        try:
            os.ftruncate(self._partial.fd, volume_bytes)
        except OSError as error:
            self.__exit__()
            raise _refused(path, 0, error) from error

    def write(self, offset: int, plain: memoryview) -> None:
        """Write bytes at an offset; see `RestoreTarget`."""
        done = self._direct.write(offset, plain)
        write_all(self._partial.fd, offset + done, plain[done:], self._path)

    def zero(self, offset: int, size: int) -> None:
        """Nothing to do: a new file is all zero."""

    def finish(self) -> None:
        """Sync, and give the file its name; see `RestoreTarget`."""
        if self._overwrite:
            self._partial.replace()
        else:
            self._partial.publish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._direct.close()
        self._partial.discard()


class BlockDeviceTarget:
    """A block device that nobody uses; old data on it is overwritten or zeroed.

    Args:
        path: the device.
        volume_bytes: size of the volume; what the device holds beyond it stays.

    Raises:
        RestoreError: it is in use, or too small.

    Crash: the device holds part old, part new data; restoring again mends it.
    """

    starts_zeroed = False

    def __init__(self, path: Path, volume_bytes: int) -> None:
        self.holds_part = False
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            in_use = error.errno == errno.EBUSY
            raise RestoreError(
                "is in use" if in_use else f"cannot be opened: {error.strerror}",
                path=str(path),
                hint="Unmount it first." if in_use else None,
            ) from error
        size = device_or_file_bytes(self._fd, path)
        if size < volume_bytes:
            os.close(self._fd)
            raise RestoreError(
                "is too small for the volume",
                path=str(path),
                expected=f"{volume_bytes:,} bytes",
                actual=f"{size:,}",
            )
        self._direct = DirectWriter(path)

    def write(self, offset: int, plain: memoryview) -> None:
        """Write bytes at an offset; see `RestoreTarget`."""
        self.holds_part = True
        done = self._direct.write(offset, plain)
        write_all(self._fd, offset + done, plain[done:], self._path)

    def zero(self, offset: int, size: int) -> None:
        """Zero a range, without sending zeros where the device can do it itself; see `RestoreTarget`."""
        self.holds_part = True
        whole = size // 512 * 512
        for at in range(offset, offset + whole, _ZERO_RUN_BYTES):
            run = min(_ZERO_RUN_BYTES, offset + whole - at)
            try:
                fcntl.ioctl(self._fd, _BLKZEROOUT, struct.pack("QQ", at, run))
            except OSError as error:
                raise _refused(self._path, at, error) from error
        if whole < size:
            self.write(offset + whole, memoryview(bytes(size - whole)))

    def finish(self) -> None:
        """Make everything durable; see `RestoreTarget`."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise _refused(self._path, 0, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._direct.close()
        os.close(self._fd)


class DirectWriter:
    """Writes long aligned runs past the page cache, where the file system can do that.

    A restored volume is larger than the memory, mostly: caching it would only push out what others use, and on
    virtual machines the first use of fresh memory costs more than the writing itself. On shares nothing is written
    directly: two ways to write one file are for a server to bring together.

    Args:
        path: the file or device, which exists.
    """

    def __init__(self, path: Path) -> None:
        self._fd = -1
        with contextlib.suppress(OSError):
            if share_at(path) is None:
                self._fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)

    def write(self, offset: int, plain: memoryview) -> int:
        """Write as much as can be written directly from the front of a run.

        Returns:
            How many bytes were written; 0 where the run is short, or not aligned, or the medium refuses. What is
            left is for an ordinary write to do, or to fail at.
        """
        size = len(plain) // _DIRECT_ALIGN * _DIRECT_ALIGN
        if self._fd < 0 or size < _DIRECT_BYTES_MIN or offset % _DIRECT_ALIGN:
            return 0
        try:
            done = os.pwrite(self._fd, plain[:size], offset)
        except OSError:
            return 0
        return done // _DIRECT_ALIGN * _DIRECT_ALIGN

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def write_all(fd: int, offset: int, plain: memoryview, path: Path) -> None:
    """Write all bytes at an offset.

    Raises:
        RestoreError: the medium refuses.
    """
    while plain:
        try:
            done = os.pwrite(fd, plain, offset)
        except OSError as error:
            raise _refused(path, offset, error) from error
        offset += done
        plain = plain[done:]


def _refused(path: Path, offset: int, error: OSError) -> RestoreError:
    full = error.errno == errno.ENOSPC
    return RestoreError(
        "the disk is full" if full else f"cannot be written: {error.strerror}",
        path=str(path),
        offset=offset,
        hint="Free some room, or restore to another place." if full else None,
    )
