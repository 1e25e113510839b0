"""Scratch folders: what a command needs while it runs, swept away by the next command should it be killed.

    ROOM/rollforward.KIND.xxxxxxxx    mode 0700, locked (flock) for as long as anybody uses it

The lock ends with the last process that holds it, however that ends; a child that was forked holds it, too. So a folder
that nobody locks belongs to nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from policies.errors import ConfigurationError
from storage.mounts import mounts

_PREFIX: Final = "rollforward."
_OURS: Final = re.compile(r"rollforward\.[a-z]+\.[a-z0-9_]{8}")


def runtime_folder() -> Path:
    """Return the folder for sockets and mount points: the user's own in /run, else the one for temporary files."""
    named = os.environ.get("XDG_RUNTIME_DIR")
    for folder in filter(None, (named, "/run")):
        with contextlib.suppress(OSError):
            if Path(folder).stat().st_uid == os.geteuid() and os.access(folder, os.W_OK):
                return Path(folder)
    return Path(tempfile.gettempdir())


@contextlib.contextmanager
def scratch_folder(kind: str, room: Path | None = None) -> Iterator[Path]:
    """Make a folder that is gone afterwards, and remove those of commands that were killed.

    Args:
        kind: what it is for: a word of small letters, part of its name.
        room: the folder to make it in; `runtime_folder` if not given.

    Yields:
        The folder; only this user may enter it.

    Raises:
        ConfigurationError: it cannot be made there.

    Crash: the folder, with what is in it, until the next command of this user makes one in the same place.
    """
    room = runtime_folder() if room is None else room
    sweep_scratch(room)
    try:
        folder, lock = _make(kind, room)
    except OSError as error:
        raise ConfigurationError(
            f"no folder can be made in it: {error.strerror or error}", path=str(room)
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def is_scratch(folder: Path, kind: str) -> bool:
    """Tell whether a folder's name is that of a scratch folder of a kind."""
    return _OURS.fullmatch(folder.name) is not None and folder.name.split(".")[1] == kind


def _make(kind: str, room: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{kind}.", dir=room))
        try:
            lock = _open(folder)
        except FileNotFoundError:  # swept away before it was locked
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return folder, lock
        os.close(lock)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def sweep_scratch(room: Path) -> None:
    """Remove this user's scratch folders whose owners are gone; what cannot be removed stays.

    What is mounted in them by FUSE is unmounted first. A folder stays while the kernel has a file system mounted from a
    file in it: `rollforward unmount` clears both.

    Crash: less is left for the next one.
    """
    try:
        with os.scandir(room) as entries:
            found = [Path(entry.path) for entry in entries if _OURS.fullmatch(entry.name)]
    except OSError:
        return  # whoever makes a folder there is told
    for folder in found:
        with contextlib.suppress(OSError):  # another one sweeps, too, or it is not ours
            _sweep(folder)


def _sweep(folder: Path) -> None:
    lock = _open(folder)
    try:
        status = os.fstat(lock)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
            return
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _has_loop(folder):
            return
        for mount in _mounts_below(folder):
            _unmount_fuse(mount)
        if not _mounts_below(folder):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _has_loop(folder: Path) -> bool:
    """Tell whether a loop device shows a file below a folder."""
    for device in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if device.read_bytes().startswith(os.fsencode(folder.resolve()) + b"/"):
                return True
    return False


def _mounts_below(folder: Path) -> list[Path]:
    """List what is mounted below a folder, the innermost first."""
    start = folder.resolve()
    return [mount.at for mount in mounts() if start in mount.at.parents][::-1]


def _unmount_fuse(mount: Path) -> None:
    program = shutil.which("fusermount3", path=os.environ.get("PATH", os.defpath) + ":/usr/bin:/bin")
    if program is not None:
        subprocess.run([program, "-u", "-z", "-q", "--", str(mount)], capture_output=True, check=False)
