"""Loop devices and small mounted file systems, taken away again whatever happens. They need root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import run

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="loop devices and mounts need root")


@contextlib.contextmanager
def loop_device(file: Path, sector_bytes: int = 512) -> Iterator[Path]:
    """Give a block device with the bytes of a file."""
    device = run("losetup", "--find", "--show", "--sector-size", str(sector_bytes), str(file)).strip()
    try:
        yield Path(device)
    finally:
        run("losetup", "--detach", device)


@contextlib.contextmanager
def small_file_system(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a new ext4 file system of that size below `folder`."""
    file, mounted = folder / "small.ext4", folder / "small"
    mounted.mkdir()
    try:
        with file.open("wb") as image:
            image.truncate(size_bytes)
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", str(file))
        with loop_device(file) as device:
            run("mount", str(device), str(mounted))
            try:
                yield mounted
            finally:
                run("umount", str(mounted))
    finally:
        mounted.rmdir()
        file.unlink()
