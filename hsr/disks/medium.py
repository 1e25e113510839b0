"""What disks and their side files lie on: the few deeds that they ask of a file system, one place for its errors."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from hsr.disks import medium_kernels as kernels
from hsr.disks.devices import device_identity, forget_cached, open_alone, sector_bytes
from hsr.disks.pieces import Pieces
from hsr.disks.shares import Link, replace_on_share, sync_file
from hsr.targets import DirectWriter
from policies.errors import BusyError, ConfigurationError, RestoreError
from storage.locking import lock_file
from storage.mounts import Mount, share_at
from storage.publish import rename_without_replacing, sync_folder
from storage.sharing import insist
from storage.source import device_or_file_bytes

_ZERO_PIECE: Final = bytes(1 << 20)
_PUNCH_HOLE_KEEPING_SIZE: Final = 0x02 | 0x01
_BLKZEROOUT: Final = 0x127F
_ZERO_RUN_BYTES: Final = 1 << 30
"""A device is told to zero so much at once: nobody can interrupt it meanwhile."""
_FICLONE: Final = 0x40049409
_COPY_BYTES: Final = 16 << 20
_FULL: Final = {errno.ENOSPC, errno.EDQUOT}
_AWAY: Final = {
    *(errno.ENOTCONN, errno.ESTALE, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT),
    *(errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET),
}
"""What is said of a share whose server does not answer."""

_SEND_BYTES: Final = 4 << 20
"""The kernel is told to begin with so much; it would wait for seconds, or for a sync."""
_SEND_ONLY: Final = 2
_DIRECT_BYTES_MIN: Final = 1 << 20
"""Longer runs go past the page cache; shorter ones would have to drop first what it holds of them."""

_TIME_UNIT_NS: Final = 2_000_000_000
_WITHOUT_MODES: Final = {errno.EPERM, errno.EACCES, errno.EROFS, errno.EOPNOTSUPP, errno.ENOSYS}
_WRITE_BITS: Final = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_LIBC.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]

_UNSUPPORTED: Final = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV}


Told = Callable[[int, int], bool]
"""Told (done_bytes, total_bytes) now and then; returns whether to stop."""


class DiskFile(Protocol):
    """An open file or block device. All raise RestoreError where the medium refuses."""

    def write(self, content: bytes | memoryview, offset: int) -> None:
        """Write bytes. Crash: any part of them, until `sync`."""

    def write_pieces(self, pieces: Pieces) -> None:
        """Write pieces, each to its offset. Crash: any part of them, until `sync`."""

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes; fewer at the end of the file."""

    def zero(self, offset: int, size: int) -> None:
        """Make a range within the file read as zero, giving its room back where that can be done."""

    def size_bytes(self) -> int:
        """Return the size."""

    def truncate(self, size_bytes: int) -> None:
        """Give a file another size; devices keep theirs."""

    def sync(self) -> None:
        """Make all of it durable."""

    def close(self) -> None:
        """Close it; no error, since what was not synced may be lost anyway."""


class Medium(Protocol):
    """A file system. All raise RestoreError where it refuses."""

    def open(self, path: Path, *, create: bool = False) -> DiskFile:
        """Open a file, alone, or make one that is not there yet.

        Raises:
            BusyError: somebody else has it open.
            ConfigurationError: it is to be made, and is there.
        """

    def exists(self, path: Path) -> bool:
        """Tell whether a name leads to anything."""

    def identity(self, path: Path) -> str:
        """Say what tells a block device from all others; empty where nothing does."""

    def load(self, path: Path, limit_bytes: int) -> bytes | None:
        """Return what a small file holds, whoever has it open, up to a limit; None if it is not there."""

    def clone(self, source: Path, target: Path) -> bool:
        """Make a new file that shares the blocks of another, durably but for its name; return whether that can be done.

        Raises:
            ConfigurationError: the new file is there already.
        """

    def copy(self, source: Path, target: Path, told: Told) -> bool:
        """Make a new file with what another holds, durably but for its name, holes as holes.

        Args:
            source: the other; nobody writes to it meanwhile.
            target: the new file.
            told: told how much is done, of how much; returns whether to stop.

        Returns:
            Whether it is whole; otherwise it was told to stop.

        Raises:
            ConfigurationError: the new file is there already.
        """

    def look(self, path: Path) -> tuple[int, int] | None:
        """Return size, in bytes, and time of the last write, in nanoseconds since 1970; None if it is not there."""

    def settle_time(self, path: Path) -> None:
        """Give a file, durably, a time of the last write that servers and file systems keep as it is."""

    def set_writable(self, path: Path, *, is_writable: bool) -> None:
        """Let the owner of a file write to it, or nobody, as far as there are such modes; who has it open goes on."""

    def make_folder(self, path: Path) -> None:
        """Make a folder, if it is missing."""

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, replacing what bears it."""

    def publish(self, source: Path, target: Path) -> None:
        """Give a file of the same file system, durably, a name that nothing bears.

        Raises:
            ConfigurationError: something bears it.
            RestoreError: it refuses; the file has its old name, if that can be done.

        Crash: either name, or both, lead to the whole file.
        """

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder, if it is there."""

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""


class LocalMedium:
    """Files and devices of this machine, network mounts among them; see `Medium`."""

    def open(self, path: Path, *, create: bool = False) -> DiskFile:
        """Open a file; see `Medium`."""
        with refusals(path):
            is_device = path.is_block_device()
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
            if create:
                flags |= os.O_CREAT | os.O_EXCL
            try:
                fd = open_alone(path) if is_device else os.open(path, flags, 0o640)
            except FileExistsError:
                raise ConfigurationError("exists already", path=str(path)) from None
            try:
                _take(fd, path)
                if is_device:
                    forget_cached(fd)
            except BaseException:
                os.close(fd)
                raise
        return _LocalFile(fd, path, is_device=is_device)

    def exists(self, path: Path) -> bool:
        """Tell whether a name leads to anything; see `Medium`. What cannot be told is an error, not a no."""
        with refusals(path):
            try:
                path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def identity(self, path: Path) -> str:
        """Say which device it is; see `Medium`."""
        with refusals(path):
            return device_identity(path)

    def load(self, path: Path, limit_bytes: int) -> bytes | None:
        """Read a small file; see `Medium`."""
        with refusals(path):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                return None
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise ConfigurationError("is no regular file", path=str(path))
                return _LocalFile(fd, path, is_device=False).read(0, limit_bytes)
            finally:
                os.close(fd)

    def clone(self, source: Path, target: Path) -> bool:
        """Share the blocks of a file; see `Medium`."""
        with refusals(target):
            refusal: OSError | None = None
            with _both(source, target) as (read_fd, write_fd):
                link = Link(share_at(write_fd))
                try:
                    fcntl.ioctl(write_fd, _FICLONE, read_fd)
                except OSError as error:
                    refusal = error
                else:
                    os.fsync(write_fd)
                    link.refuse_broken(target)
            if refusal is not None:  # file systems and servers have many words for what they cannot do
                self.remove(target)  # now that it is closed: some cannot do that before
                if refusal.errno in _FULL:
                    raise refusal
            return refusal is None

    def copy(self, source: Path, target: Path, told: Told) -> bool:
        """Copy a file; see `Medium`."""
        with refusals(target), _both(source, target) as (read_fd, write_fd):
            total = os.fstat(read_fd).st_size
            link = Link(share_at(write_fd))
            os.ftruncate(write_fd, total)
            for at, size in _data_pieces(read_fd, total):
                if told(at, total):
                    return False
                _copy_piece(read_fd, write_fd, at, size)
            os.fsync(write_fd)
            link.refuse_broken(target)
            return not told(total, total)

    def look(self, path: Path) -> tuple[int, int] | None:
        """Look at a file; see `Medium`."""
        with refusals(path):
            try:
                found = path.stat(follow_symlinks=False)
            except FileNotFoundError:
                return None
            return found.st_size, found.st_mtime_ns

    def settle_time(self, path: Path) -> None:
        """Settle a file's time; see `Medium`.

        It is cut to what every file system can hold, and lies before what any later write is given where times are
        that coarse. One that was set is kept by servers, too, which otherwise note a write only after a while.
        """
        with refusals(path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.fsync(fd)
                time_ns = os.fstat(fd).st_mtime_ns // _TIME_UNIT_NS * _TIME_UNIT_NS - _TIME_UNIT_NS
                os.utime(fd, ns=(time_ns, time_ns))
                os.fsync(fd)
            finally:
                os.close(fd)

    def set_writable(self, path: Path, *, is_writable: bool) -> None:
        """Set who may write to a file; see `Medium`. Where there are no modes, nothing is set."""
        with refusals(path):
            mode = stat.S_IMODE(path.stat(follow_symlinks=False).st_mode)
            try:
                path.chmod(mode | stat.S_IWUSR if is_writable else mode & ~_WRITE_BITS)
            except OSError as error:
                if error.errno not in _WITHOUT_MODES:
                    raise

    def make_folder(self, path: Path) -> None:
        """Make a folder; see `Medium`."""
        with refusals(path):
            path.mkdir(mode=0o750, exist_ok=True)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file; see `Medium`."""
        with refusals(target):
            share = share_at(source)
            if share is None:
                source.replace(target)
            else:
                replace_on_share(source, target, share)

    def publish(self, source: Path, target: Path) -> None:
        """Give a file a name that nothing bears; see `Medium`."""
        with refusals(target):
            share = share_at(source)
            link = Link(share)
            _name_anew(source, target, share)
            try:
                if share is not None:
                    sync_file(target)
                sync_folder(target.parent)
                link.refuse_broken(target)
            except (OSError, RestoreError):
                with contextlib.suppress(OSError):
                    rename_without_replacing(target, source)
                raise

    def remove(self, path: Path) -> None:
        """Remove a file; see `Medium`."""
        with refusals(path), contextlib.suppress(FileNotFoundError):
            insist(path.unlink, share_at(path.parent))

    def remove_folder(self, path: Path) -> None:
        """Remove a folder; see `Medium`."""
        with refusals(path), contextlib.suppress(FileNotFoundError):
            insist(path.rmdir, share_at(path.parent))

    def sync_folder(self, path: Path) -> None:
        """Sync a folder; see `Medium`."""
        with refusals(path):
            sync_folder(path)


class _LocalFile:
    def __init__(self, fd: int, path: Path, *, is_device: bool) -> None:
        self._fd = fd
        self._path = path
        self._is_device = is_device
        self._link = Link(share_at(fd))
        self._punches = True
        self._kept_bytes = 0
        self._direct: DirectWriter | None = None
        self._sender: ThreadPoolExecutor | None = None
        self._sending: Future[None] | None = None

    def write(self, content: bytes | memoryview, offset: int) -> None:
        with refusals(self._path, offset):
            _write_all(self._fd, memoryview(content), offset)
        self._send_soon(len(content))

    def write_pieces(self, pieces: Pieces) -> None:
        pieces = pieces.joined()
        is_long = pieces.lengths >= _DIRECT_BYTES_MIN
        whole = pieces.buffer.data
        for row in np.flatnonzero(is_long).tolist():
            start, length = int(pieces.starts[row]), int(pieces.lengths[row])
            self._write_long(whole[start : start + length], int(pieces.offsets[row]))
        rest = pieces.where(~is_long) if is_long.any() else pieces
        self._write_short(rest)
        self._send_soon(int(rest.lengths.sum()))

    def _write_long(self, content: memoryview, offset: int) -> None:
        """Write past the page cache what can be; the rest the ordinary way."""
        if self._direct is None:  # by its descriptor: its name may be another file's by now
            self._direct = DirectWriter(Path(f"/proc/self/fd/{self._fd}"))
        done = self._direct.write(offset, content)
        self.write(content[done:], offset + done)

    def _write_short(self, pieces: Pieces) -> None:
        """Write pieces in one go; one that is refused, or cut short, is tried by itself, so that its error is known."""
        starts, offsets, lengths = (
            np.ascontiguousarray(column) for column in (pieces.starts, pieces.offsets, pieces.lengths)
        )
        columns = pieces.buffer, starts, offsets, lengths
        row = -1
        while (row := kernels.write_pieces(kernels.PWRITE, self._fd, *columns, row + 1)) < len(starts):
            start, offset = int(starts[row]), int(offsets[row])
            with refusals(self._path, offset):
                _write_all(self._fd, pieces.buffer.data[start : start + int(lengths[row])], offset)

    def _send_soon(self, size: int) -> None:
        """Have what was written sent, once it is enough; it takes a while, so in a thread."""
        self._kept_bytes += size
        if self._kept_bytes >= _SEND_BYTES and (self._sending is None or self._sending.done()):
            self._sender = self._sender or ThreadPoolExecutor(1, "rollforward-sender")
            self._sending = self._sender.submit(_send, self._fd)
            self._kept_bytes = 0

    def read(self, offset: int, size: int) -> bytes:
        found = bytearray()
        with refusals(self._path, offset):
            while len(found) < size:
                piece = os.pread(self._fd, size - len(found), offset + len(found))
                if not piece:
                    break
                found += piece
        return bytes(found)

    def zero(self, offset: int, size: int) -> None:
        with refusals(self._path, offset):
            left = [(offset, offset + size)]
            if self._is_device:
                left = self._zero_on_device(offset, offset + size)
            elif self._punches and size:
                self._punches = _punch(self._fd, offset, size)
                if self._punches:
                    return
            for start, stop in left:
                for at in range(start, stop, len(_ZERO_PIECE)):
                    _write_all(self._fd, memoryview(_ZERO_PIECE)[: stop - at], at)

    def _zero_on_device(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Have the device zero whole sectors; return what is left at both ends, which an ordinary write has to do."""
        sector = sector_bytes(self._fd)
        first, last = -(-start // sector) * sector, stop // sector * sector
        if first >= last:
            return [(start, stop)]
        for at in range(first, last, _ZERO_RUN_BYTES):
            fcntl.ioctl(self._fd, _BLKZEROOUT, struct.pack("QQ", at, min(_ZERO_RUN_BYTES, last - at)))
        return [(start, first), (last, stop)]

    def size_bytes(self) -> int:
        return device_or_file_bytes(self._fd, self._path)

    def truncate(self, size_bytes: int) -> None:
        if not self._is_device:
            with refusals(self._path):
                os.ftruncate(self._fd, size_bytes)

    def sync(self) -> None:
        with refusals(self._path):
            os.fdatasync(self._fd)
        self._link.refuse_broken(self._path)

    def close(self) -> None:
        """Close it; an error that is told only now is of what nobody relies on: all else was synced before."""
        if self._sender is not None:
            self._sender.shutdown()
            self._sender = None
        direct, self._direct = self._direct, None
        if direct is not None:
            with contextlib.suppress(OSError):
                direct.close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # the descriptor is free all the same
                os.close(fd)


@contextlib.contextmanager
def _both(source: Path, target: Path) -> Iterator[tuple[int, int]]:
    """Open a file for reading, whoever has it open, and make a new one."""
    with contextlib.ExitStack() as opened:
        read_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        opened.callback(os.close, read_fd)
        # Some shares give a size to nothing that is only written.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            write_fd = os.open(target, flags, 0o640)
        except FileExistsError:
            raise ConfigurationError("exists already", path=str(target)) from None
        opened.callback(os.close, write_fd)
        yield read_fd, write_fd


def _name_anew(source: Path, target: Path, share: Mount | None) -> None:
    """Rename a file, never over another; an error over a network may come after the deed, so that is looked at."""
    try:
        insist(lambda: rename_without_replacing(source, target), share)
    except FileExistsError:
        raise ConfigurationError("exists already", path=str(target)) from None
    except OSError:
        if os.path.lexists(source) or not os.path.lexists(target):
            raise


def _data_pieces(fd: int, total: int) -> Iterator[tuple[int, int]]:
    """Yield where a file holds something, in pieces."""
    at = 0
    while at < total:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            end = total  # whoever cannot say where holes are has none
        else:
            end = os.lseek(fd, at, os.SEEK_HOLE)
        for first in range(at, end, _COPY_BYTES):
            yield first, min(_COPY_BYTES, end - first)
        at = end


def _copy_piece(read_fd: int, write_fd: int, at: int, size: int) -> None:
    """Copy a piece of a file to the same place in another."""
    while size:
        try:
            done = os.copy_file_range(read_fd, write_fd, size, at, at)
        except OSError as error:
            if error.errno in _FULL:
                raise
            piece = os.pread(read_fd, size, at)
            _write_all(write_fd, memoryview(piece), at)
            done = len(piece)
        if not done:
            raise OSError(errno.EIO, "the file ended early")
        at, size = at + done, size - done


def _take(fd: int, path: Path) -> None:
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise ConfigurationError("is neither a regular file nor a block device", path=str(path))
    try:
        lock_file(fd)
    except BlockingIOError:
        raise BusyError("is being worked on", path=str(path), hint="Wait for that to end.") from None


def _write_all(fd: int, content: memoryview, offset: int) -> None:
    """Write bytes to the last one."""
    while content:
        done = os.pwrite(fd, content, offset)
        offset, content = offset + done, content[done:]


def _send(fd: int) -> None:
    """Have the kernel begin to write what it keeps of a file, and wait for nothing: a later sync is short then.

    Where that cannot be done, nothing is lost; what goes wrong is told by the sync.
    """
    _LIBC.sync_file_range(fd, 0, 0, _SEND_ONLY)


def _punch(fd: int, offset: int, size: int) -> bool:
    """Make a hole; return whether the file system can."""
    if _LIBC.fallocate(fd, _PUNCH_HOLE_KEEPING_SIZE, offset, size) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code))


@contextlib.contextmanager
def refusals(path: Path, offset: int | None = None) -> Iterator[None]:
    """Turn an OSError within the block into a RestoreError that says what to do.

    Args:
        path: what is used.
        offset: where in it, in bytes; None if that says nothing.
    """
    try:
        yield
    except OSError as error:
        full, hint = error.errno in _FULL, None
        if full:
            hint = "Free some room, then have it go on; nothing is lost."
        elif error.errno in _AWAY:
            hint = "Is its server up? It goes on from where it was once the share is back."
        raise RestoreError(
            "the disk is full" if full else f"cannot be used: {error.strerror}",
            path=str(path),
            offset=offset,
            hint=hint,
        ) from error
