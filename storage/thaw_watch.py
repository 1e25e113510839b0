"""A process of its own that freezes a file system and thaws it again, whatever becomes of the one that asked for it.

    python -P -m storage.thaw_watch MOUNT_POINT LIMIT_S

says `ready`. A line on its input makes it freeze the file system and say `frozen`, or why it cannot. It thaws when
its input ends, as it does when the asking process dies, or when the time is up. In the end it says `thawed`, or
`late` if the time was up. Nothing is loaded once the file system is frozen: our own files may lie on it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import sys

FIFREEZE = 0xC0045877
FITHAW = 0xC0045878


def main() -> None:
    """Do as the module says."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    mount_point, limit = sys.argv[1], float(sys.argv[2])
    fd = os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY)
    _say("ready")
    if not os.read(0, 64):
        return
    try:
        fcntl.ioctl(fd, FIFREEZE, 0)
    except OSError as error:
        _say(f"{error.strerror}")
        return
    try:
        _say("frozen")
        is_over = bool(select.select([0], [], [], limit)[0])
    finally:
        try:
            fcntl.ioctl(fd, FITHAW, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:  # it was thawed by somebody else
                raise
    _say("thawed" if is_over else "late")


def _say(word: str) -> None:
    try:
        os.write(1, f"{word}\n".encode())
    except OSError:
        return  # nobody listens any more


if __name__ == "__main__":
    main()
