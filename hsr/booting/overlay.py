"""Where a guest writes to: a file without a name, gone with the guest, or one that is kept."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hsr.exchange.qemu import find_tool
from policies.errors import ConfigurationError, RestoreError
from storage.scratch import scratch_folder

_FD_SET: Final = 1


@dataclass(frozen=True, slots=True)
class Overlay:
    """An overlay.

    Attributes:
        name: what qemu calls it.
        options: what qemu has to be told for that.
        fds: what it inherits for that.
    """

    name: str
    options: tuple[str, ...] = ()
    fds: tuple[int, ...] = ()


@contextmanager
def passing_overlay(disk_bytes: int) -> Iterator[Overlay]:
    """Make an overlay whose file has lost its name already, so that nothing can leave it behind.

    Args:
        disk_bytes: size of the disk that it lies over.

    Raises:
        RestoreError: it cannot be made.

    Crash: nothing; within the moment in which it has a name, a scratch folder that the next command sweeps away.
    """
    with scratch_folder("boot", Path(tempfile.gettempdir())) as folder:
        path = folder / "overlay.qcow2"
        make_overlay(path, disk_bytes)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield Overlay(f"/dev/fdset/{_FD_SET}", ("-add-fd", f"fd={fd},set={_FD_SET}"), (fd,))
    finally:
        os.close(fd)


def kept_overlay(path: Path, disk_bytes: int, over: str) -> Overlay:
    """Make an overlay that stays, or go on with one.

    Args:
        path: the file.
        disk_bytes: size of the disk that it lies over.
        over: what it lies over, in a word that is noted in it.

    Raises:
        ConfigurationError: the file is no overlay of this point.
        RestoreError: it cannot be made.

    Crash: the file, with what the guest had written.
    """
    if not os.path.lexists(path):
        make_overlay(path, disk_bytes, ("-u", "-F", "raw", "-b", over))
    elif not path.is_file():
        raise ConfigurationError("is no regular file", path=str(path))
    elif _lies_over(path) != (over, disk_bytes):
        raise ConfigurationError(
            "is no overlay of this point", path=str(path), hint="Name a file that is not there yet."
        )
    return Overlay(str(path.absolute()))


def make_overlay(path: Path, disk_bytes: int, options: tuple[str, ...] = ()) -> None:
    """Make an empty qcow2 file.

    Args:
        path: a name that nothing bears.
        disk_bytes: size of the disk that it lies over.
        options: what else qemu-img is told.

    Raises:
        RestoreError: it cannot be made.
    """
    command = [find_tool("qemu-img"), "create", "-q", "-f", "qcow2", *options, f"file:{path.absolute()}"]
    done = subprocess.run([*command, str(disk_bytes)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RestoreError(f"no overlay can be made: {done.stderr.strip()}", path=str(path))


def _lies_over(path: Path) -> tuple[str | None, int] | None:
    command = [find_tool("qemu-img"), "info", "--output=json", "-f", "qcow2", f"file:{path.absolute()}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    told = json.loads(done.stdout)
    return told.get("backing-filename"), told["virtual-size"]
