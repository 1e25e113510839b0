"""Locks on files: the system frees them when their process ends.

On a disk of this machine, and on most shares, a lock is a matter between those who ask for it. A server of SMB refuses
to read and write what another has locked, even to programs of one machine: there, a single byte is locked that lies
far beyond the end of any file, so that only those who ask for the lock come to know of it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

from storage.mounts import share_at

_BINDING: Final = frozenset({"cifs", "smb2", "smb3", "smbfs"})
"""Shares on which a lock keeps others from reading and writing."""

_FAR_BYTES: Final = 1 << 62
_FLOCK: Final = "hhqqi4x"
"""struct flock of 64-bit systems: type, whence, start, length, process."""

_HELD: Final = {errno.EACCES, errno.EAGAIN}
"""Either is said by one server or another of a lock that somebody holds."""


def lock_file(fd: int, *, waiting: bool = False) -> None:
    """Lock a file that is open for writing, until it is closed.

    Args:
        fd: the file.
        waiting: whether to wait for whoever holds it.

    Raises:
        BlockingIOError: somebody holds it.
        OSError: there are no locks here.
    """
    share = share_at(fd)
    if share is None or share.kind not in _BINDING:
        fcntl.flock(fd, fcntl.LOCK_EX if waiting else fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _FAR_BYTES, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW if waiting else fcntl.F_OFD_SETLK, asked)
    except OSError as error:
        if error.errno in _HELD:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
        raise
