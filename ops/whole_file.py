"""Writing small files of settings: whole, or not at all."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from policies.errors import StorageError


def write_whole(file: Path, text: str, *, private: bool = False) -> None:
    """Write a file; one that is there is replaced.

    Args:
        file: the file; its folder must exist.
        text: its content.
        private: whether a new one is for the owner of its folder alone, and one that is there stays whose it is.

    Raises:
        StorageError: the folder refuses.

    Crash: it is the old one or the new one, whole; a `.NAME.*.new` file may stay.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(partial, flags, 0o600 if private else 0o666)
        with os.fdopen(fd, "w", encoding="utf-8") as stream:
            if private:
                _make_like(fd, file)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise StorageError(f"cannot be written: {error.strerror}", path=str(file)) from error


def _make_like(fd: int, file: Path) -> None:
    """Give a file owner and rights of the one that it is to replace, so that the agent can read it as before."""
    is_there = file.exists()
    status = file.stat() if is_there else file.parent.stat()
    if os.geteuid() == 0:
        os.fchown(fd, status.st_uid, status.st_gid)
    os.fchmod(fd, stat.S_IMODE(status.st_mode) if is_there else 0o600)
