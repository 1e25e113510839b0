"""Who has a file open: other programs of this machine, and whoever locked it, be it on another one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from policies.errors import BusyError, RestoreError
from storage.mounts import share_at

_FLOCK: Final = struct.Struct("hhqqi4x")
_LOCKED: Final = {errno.EAGAIN, errno.EACCES}
_PROC: Final = Path("/proc")
_LOOPS: Final = Path("/sys/block")


@contextlib.contextmanager
def alone_with(paths: Iterable[Path]) -> Iterator[None]:
    """Keep files to ourselves for a while: qemu does not open what is locked so. On a share it is only looked.

    Args:
        paths: the files; those that are not there are passed over.

    Raises:
        BusyError: somebody has one of them open; who, as far as that can be known.
        RestoreError: one cannot be opened.

    *Source:* fcntl(2), "Open file description locks", which qemu takes on images; proc(5), "/proc/[pid]/fd".
    """
    with contextlib.ExitStack() as opened:
        for path in dict.fromkeys(paths):
            fd = _open(path)
            if fd is None:
                continue
            opened.callback(os.close, fd)
            is_locked = not _lock(fd)
            users = list(_users(path, os.fstat(fd)))
            if is_locked or users or _is_open_elsewhere(fd):
                why = "somebody has locked it" if is_locked else "nobody that can be named here"
                raise BusyError(
                    f"is open: {', '.join(users) or why}",
                    path=str(path),
                    hint="Shut down whatever uses it.",
                )
        yield


def _open(path: Path) -> int | None:
    """Open a file for locking it; one that we may not write to can only be looked at."""
    try:
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
                raise
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RestoreError(f"cannot be opened: {error.strerror}", path=str(path)) from error


def _lock(fd: int) -> bool:
    """Lock a file whole, unless somebody has locked a byte of it; where there are no locks, nobody has.

    One that we may only read takes no lock for writing; qemu keeps away from one for reading just as well.
    """
    is_ours = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    is_shared = share_at(fd) is not None  # there a lock may bind us, too
    try:
        if is_ours or not is_shared:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _whole(fcntl.F_WRLCK if is_ours else fcntl.F_RDLCK))
        if is_ours and is_shared:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _whole(fcntl.F_UNLCK))
        found = (
            _whole(fcntl.F_UNLCK) if is_ours else fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _whole(fcntl.F_WRLCK))
        )
    except OSError as error:
        return error.errno not in _LOCKED
    return bool(_FLOCK.unpack(found)[0] == fcntl.F_UNLCK)


def _whole(kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


def _is_open_elsewhere(fd: int) -> bool:
    """Tell whether the kernel knows of anybody else who has a file open, or mapped; no where it does not say.

    It gives a lease to nobody then. What comes in between is held up for the blink of an eye, and its signal ignored.

    *Source:* fcntl(2), "Leases".
    """
    if share_at(fd) is not None:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False


def _users(path: Path, mine: os.stat_result) -> Iterator[str]:
    """Name the programs that have a file open, as far as we may look, and loop devices that lie on it."""
    for process in _PROC.iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid() and _has_open(process, path, mine):
            with contextlib.suppress(OSError):
                yield f"{(process / 'comm').read_text().strip()} ({process.name})"
    for told in _LOOPS.glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if told.read_text().rstrip("\n") == str(path.resolve()):
                yield f"/dev/{told.parts[-3]}"


def _has_open(process: Path, path: Path, mine: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        for entry in (process / "fd").iterdir():
            with contextlib.suppress(
                OSError
            ):  # only what has the name is looked at: other media may be silent
                if Path(entry.readlink()).name == path.name and _is_same(entry.stat(), mine):
                    return True
    return False


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
