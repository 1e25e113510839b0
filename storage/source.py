"""The volume to be captured: what any source of it can do, and one that is a raw file or a block device."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

import numpy as np
import numpy.typing as npt

from policies.errors import SourceError
from policies.points import Point, PointId
from storage.partition_facts import partition_facts

_BLKGETSIZE64: Final = 0x80081272
_BLKFLSBUF: Final = 0x1261
_FLOCK: Final = "hhqqi4x"
"""struct flock of 64-bit systems: type, whence, start, length, process."""
_QEMU_WRITES_BYTE: Final = 101
_SYS_BLOCK: Final = Path("/sys/dev/block")
_MOUNT_TABLE: Final = Path("/proc/self/mountinfo")
_SWAPS: Final = Path("/proc/swaps")


Ranges = npt.NDArray[np.int64]
"""int64, shape (ranges, 2): first and end byte of each, ascending, apart from each other."""


class Source(Protocol):
    """One state of a volume, open for reading; safe to share between threads."""

    @property
    def name(self) -> str:
        """What errors and metadata call it."""

    @property
    def size_bytes(self) -> int:
        """Size of the volume in bytes."""

    @property
    def facts(self) -> Mapping[str, object]:
        """What the image's metadata tell of how it was read."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer from `offset`.

        Raises:
            SourceError: the source ends too early, or fails.
        """

    def read_pieces(self, pieces: Sequence[tuple[int, memoryview]]) -> None:
        """Fill several buffers, each from its offset; otherwise as `read_into`."""

    def next_stored(self, offset: int) -> int:
        """Return where the next bytes at or after `offset` lie that may differ from zero; the size if none do.

        Raises:
            SourceError: the source fails.
        """

    def marked(self) -> Iterator[Ranges] | None:
        """Yield, in order, all that may differ from the parent point; None where the source cannot tell.

        Raises:
            SourceError: the source fails.
        """

    def confirm(self) -> None:
        """Make sure, after the last read, that all that was read belongs to one state.

        Raises:
            SourceError: it does not; nothing may be published.
        """


@dataclass(frozen=True, slots=True)
class CaptureStep:
    """The step of a chain that a source is opened for.

    Attributes:
        parent: the point that the volume is compared with; None when a base is made.
        point_id: identity that the new point will have, if it comes to be.
        keeper: tells the volume's chain from all others on any machine: its folder and name, in words.
    """

    parent: Point | None
    point_id: PointId
    keeper: str


class Access(Protocol):
    """A way to a volume that has to be prepared before it is read, and tidied up afterwards.

    Attributes:
        notes: what the caller should be told when all is over.
        reads_marked: whether it was opened for what is marked only.
    """

    notes: list[str]
    reads_marked: bool

    def open(self, step: CaptureStep) -> AbstractContextManager[Source]:
        """Make the volume readable while the context lasts; a context that ends without an error was published.

        Raises:
            SourceError: it cannot be made readable.
        """


class VolumeSource:
    """A raw file or a block device, read as it stands. A context manager; safe to share between threads.

    Args:
        path: raw file or block device.
        called: what errors and metadata call it, where that is not its path.
        frozen_at: where a file system on it is mounted that is frozen, so that it counts as read-only.
        vouched: whether somebody keeps it still, so that it may be mounted read-write anywhere.

    Raises:
        SourceError: it is neither, cannot be opened, or is mounted read-write.
    """

    def __init__(
        self,
        path: Path,
        called: Path | None = None,
        *,
        frozen_at: Path | None = None,
        vouched: bool = False,
    ) -> None:
        self.path = called or path
        self.name = os.fsencode(self.path).decode(errors="replace")
        self.facts: Mapping[str, object] = {}
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(f"cannot be opened: {error.strerror}", path=str(path)) from error
        self._is_itself = not vouched and self.path == path
        try:
            self._begin(path, frozen_at, vouched)
            told = partition_facts(path) if stat.S_ISBLK(os.fstat(self._fd).st_mode) else {}
            self.facts = {"partition": told} if told else {}
        except OSError as error:
            os.close(self._fd)
            raise SourceError(f"cannot be looked at: {error.strerror}", path=str(path)) from error
        except BaseException:
            os.close(self._fd)
            raise

    def _begin(self, path: Path, frozen_at: Path | None, vouched: bool) -> None:
        """Find out how large it is, and that nobody writes to it."""
        self.size_bytes = device_or_file_bytes(self._fd, path)
        self._changed_ns = os.fstat(self._fd).st_mtime_ns
        if self.size_bytes == 0:
            raise SourceError("is empty: there is nothing to capture", path=str(path))
        if vouched or frozen_at is not None:
            _forget_cached(self._fd)
        user = None if vouched else read_write_user(path, frozen_at)
        if user is not None:
            raise SourceError(
                f"is in use read-write: {user}",
                path=str(path),
                hint="Capture a snapshot of it (--snapshot), freeze it meanwhile (--freeze), or unmount it; the disk "
                "of a running guest is captured with --qmp.",
            )

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer from `offset`.

        Raises:
            SourceError: the source ends too early, or its medium fails.
        """
        while buffer:
            try:
                got = os.preadv(self._fd, [buffer], offset)
            except OSError as error:
                raise SourceError(
                    f"cannot be read: {error.strerror}", path=str(self.path), offset=offset
                ) from error
            if got == 0:
                raise SourceError("became shorter while it was read", path=str(self.path), offset=offset)
            offset += got
            buffer = buffer[got:]

    def read_pieces(self, pieces: Sequence[tuple[int, memoryview]]) -> None:
        """Fill several buffers, each from its offset; otherwise as `read_into`."""
        for offset, buffer in pieces:
            self.read_into(offset, buffer)

    def next_stored(self, offset: int) -> int:
        """Return where the next bytes at or after `offset` lie that may differ from zero; the size if none do."""
        try:
            return os.lseek(self._fd, offset, os.SEEK_DATA)
        except OSError as error:
            return self.size_bytes if error.errno == errno.ENXIO else offset

    def marked(self) -> Iterator[Ranges] | None:
        """Tell that nobody marks what changes in a file or on a device."""
        return None

    def confirm(self) -> None:
        """Make sure that the source is as it was when it was opened, as far as its size and times tell.

        Raises:
            SourceError: it is not, so that what was read is no one state of it.
        """
        size = device_or_file_bytes(self._fd, self.path)
        if size != self.size_bytes:
            raise SourceError(
                "was given another size while it was read",
                path=str(self.path),
                expected=f"{self.size_bytes:,} bytes",
                actual=f"{size:,}",
            )
        status = os.fstat(self._fd)
        if self._is_itself and stat.S_ISREG(status.st_mode) and status.st_mtime_ns != self._changed_ns:
            raise SourceError(
                "was written to while it was read",
                path=str(self.path),
                hint="See that nobody writes to it meanwhile, or vouch for that with --before and --after.",
            )

    def close(self) -> None:
        """Close the source."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _forget_cached(fd: int) -> None:
    """Drop what was cached of a device: its file system writes past that cache, so old contents may be left in it."""
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        fcntl.ioctl(fd, _BLKFLSBUF, 0)


def device_or_file_bytes(fd: int, path: Path) -> int:
    """Return the size of an open regular file or block device, in bytes.

    Raises:
        SourceError: it is something else.
    """
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    if stat.S_ISBLK(status.st_mode):
        size: int = struct.unpack("Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))[0]
        return size
    raise SourceError("is neither a regular file nor a block device", path=str(path))


def read_write_user(path: Path, frozen_at: Path | None = None) -> str | None:
    """Tell who may be writing to a device or raw file behind our back.

    Looks at mounts and swap areas on the device itself, on its partitions, on devices stacked upon it, and, for a
    raw file, on loop devices that it backs, and at the lock of a virtual machine. A device that is claimed, though
    nothing of this explains it, counts as written to: a restore, a file system of several devices or a mount in
    another container does not show.

    Args:
        path: the device or raw file.
        frozen_at: where a file system is mounted that nobody can write to now.

    Returns:
        In words, who uses it read-write; None if nobody does.
    """
    status = path.stat()
    if stat.S_ISREG(status.st_mode) and _is_disk_of_a_guest(path):
        return "the disk of a running virtual machine"
    devices = _devices_on(path)
    if not devices:
        return None
    mounts = [mount for mount in _mounts() if mount[0] in devices]
    frozen = None if frozen_at is None else _device_number(frozen_at.stat().st_dev)
    for number, where, writable in mounts:
        if writable and number != frozen:
            return f"mounted at {where}"
    for line in _SWAPS.read_bytes().splitlines()[1:]:
        swap = Path(_unescaped(line.split()[0]))
        if swap.is_block_device() and _device_number(swap.stat().st_rdev) in devices:
            return f"swap area {swap}"
    is_stacked = any(True for number in devices for _ in (_SYS_BLOCK / number).glob("holders/*"))
    if stat.S_ISBLK(status.st_mode) and not mounts and not is_stacked and _is_claimed(path):
        return "claimed by something that no mount here shows"
    return None


def _is_disk_of_a_guest(path: Path) -> bool:
    """Tell whether a qemu has opened a file to write to it: it holds locks on certain bytes then.

    Source: qemu's block/file-posix.c, "Raw lock bytes": the byte 100 + n for a permission of bit n that is in use.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _QEMU_WRITES_BYTE, 1, 0)
        found = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
    except OSError:
        return False  # a file system without locks
    finally:
        os.close(fd)
    return bool(found[0] != fcntl.F_UNLCK)


def mounted_on(path: Path, mount_point: Path) -> bool:
    """Tell whether the file system mounted somewhere lies on a device or raw file, or on a device built on it."""
    return _device_number(mount_point.stat().st_dev) in _devices_on(path)


def _devices_on(path: Path) -> set[str]:
    """Collect the numbers of a device, or of those that a raw file backs, and of all that is built on them."""
    status = path.stat()
    if stat.S_ISBLK(status.st_mode):
        return _stack_above(_device_number(status.st_rdev))
    return {number for loop in _loops_on(path) for number in _stack_above(loop)}


def _is_claimed(device: Path) -> bool:
    """Tell whether somebody has opened a block device for themselves alone, as mounting does."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def _device_number(rdev: int) -> str:
    return f"{os.major(rdev)}:{os.minor(rdev)}"


def _stack_above(number: str) -> set[str]:
    """Collect a device, its partitions, and all devices built on any of them."""
    found: set[str] = set()
    waiting = [number]
    while waiting:
        number = waiting.pop()
        if number in found:
            continue
        found.add(number)
        folder = _SYS_BLOCK / number
        parts = [part for part in folder.glob("*/dev") if (part.parent / "partition").exists()]
        for entry in (*parts, *folder.glob("holders/*/dev")):
            waiting.append(entry.read_text().strip())
    return found


def _loops_on(path: Path) -> list[str]:
    """Numbers of the loop devices that a file backs."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            same = path.samefile(os.fsdecode(backing.read_bytes().removesuffix(b"\n")))
        except OSError:
            continue
        if same:
            found.append((backing.parent.parent / "dev").read_text().strip())
    return found


def _mounts() -> list[tuple[str, str, bool]]:
    """List (device number, mount point, writable); writable if mount and superblock both are.

    Source: proc_pid_mountinfo(5).
    """
    mounts = []
    for line in _MOUNT_TABLE.read_bytes().splitlines():
        fields = line.split(b" ")
        rest = fields[fields.index(b"-") + 1 :]
        writable = b"rw" in fields[5].split(b",") and b"rw" in rest[2].split(b",")
        where = _unescaped(fields[4])
        mounts.append((fields[2].decode(), where, writable))
        source = Path(_unescaped(rest[1]))
        if source.is_block_device():  # file systems that span devices show a number of their own
            mounts.append((_device_number(source.stat().st_rdev), where, writable))
    return mounts


def _unescaped(field: bytes) -> str:
    """Read a path as the kernel's tables write it: blanks and backslashes as octal numbers, all else as it is."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), field))
