"""Block devices: what tells one from all others, who uses one, and what lies on it."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

from hsr.disks.form import HIDDEN_BYTES
from hsr.serving.tools import run_tool
from policies.errors import ConfigurationError, RestoreError
from storage.source import device_or_file_bytes, read_write_user

_SYS_BLOCK: Final = Path("/sys/dev/block")
_BY_ID: Final = Path("/dev/disk/by-id")
_BLKSSZGET: Final = 0x1268
_BLKRRPART: Final = 0x125F
_BLKFLSBUF: Final = 0x1261

_IDENTITIES: Final = ("wwid", "device/wwid", "dm/uuid", "serial", "device/serial", "md/uuid")
"""Where the kernel says what a device's maker, or whoever made it up of others, has called it for good."""

_IDENTITY_CHARS_MAX: Final = 200

_NAMES_FIRST: Final = ("wwn-", "nvme-eui.", "nvme-uuid.", "dm-uuid-", "md-uuid-")
"""Names of `by-id` that rest on numbers which are unique in the world; the others rest on model and serial."""


def device_identity(path: Path) -> str:
    """Say what tells a block device from all others, wherever it is attached.

    Args:
        path: the device.

    Returns:
        Words that stay, of a partition with its number; empty where the kernel knows none.

    Raises:
        OSError: the device cannot be looked at.
    """
    number = path.stat().st_rdev
    place = (_SYS_BLOCK / f"{os.major(number)}:{os.minor(number)}").resolve()
    part = _line(place / "partition")
    whole = place.parent if part else place
    found = next((f"{name} {line}" for name in _IDENTITIES if (line := _line(whole / name))), "")
    return f"{found}, partition {part}" if found and part else found


def _line(path: Path) -> str:
    try:
        words = path.read_text(errors="replace").split()
    except OSError:
        return ""
    line = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in " ".join(words))
    return line[:_IDENTITY_CHARS_MAX]


def lasting_name(path: Path) -> Path:
    """Return the name of a device that goes wherever the device goes, if it has one; else the one that was given."""
    number = path.stat().st_rdev
    found = []
    with suppress(OSError):
        found = [one for one in _BY_ID.iterdir() if one.is_block_device() and one.stat().st_rdev == number]
    ranks = {one: [one.name.startswith(start) for start in _NAMES_FIRST] for one in found}
    return max(sorted(found), key=lambda one: ranks[one], default=path.absolute())


def refuse_unfit(path: Path, size_bytes: int, *, in_sectors: bool) -> None:
    """Make sure that a device is there, is nobody's at this moment, and large enough.

    Args:
        path: the device.
        size_bytes: what is to fit on it.
        in_sectors: whether its sectors have to have 512 bytes, since a partition table counts in them.

    Raises:
        ConfigurationError: it is no block device, or has sectors of another size.
        RestoreError: it is in use, too small, or cannot be opened.
    """
    if not path.is_block_device():
        raise ConfigurationError("is no block device", path=str(path))
    fd = open_alone(path)
    try:
        found = device_or_file_bytes(fd, path)
        sector = sector_bytes(fd)
    finally:
        os.close(fd)
    if found < size_bytes:
        raise RestoreError(
            "is too small", path=str(path), expected=f"{size_bytes:,} bytes", actual=f"{found:,}"
        )
    if in_sectors and sector != 512:
        raise ConfigurationError(
            f"has sectors of {sector:,} bytes, and partition tables are made for sectors of 512 only",
            path=str(path),
            hint="Say --wrap none, or take another device.",
        )


def open_alone(path: Path) -> int:
    """Open a device for oneself alone, to be written to.

    Raises:
        RestoreError: it is mounted, swapped to, part of another device, or cannot be opened.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        raise refused(path, error) from error


def refused(path: Path, error: OSError) -> RestoreError:
    """Say why a device could not be opened, and who uses it, if somebody does."""
    if error.errno != errno.EBUSY:
        return RestoreError(f"cannot be opened: {error.strerror}", path=str(path))
    user = read_write_user(path)
    words = user or "mounted, or part of another device"
    return RestoreError(
        f"is in use: {words}", path=str(path), hint="Unmount it, or take it out of use, first."
    )


def sector_bytes(fd: int) -> int:
    """Return the size of the sectors that an open device is written in."""
    size: int = struct.unpack("i", fcntl.ioctl(fd, _BLKSSZGET, bytes(4)))[0]
    return size


def forget_cached(fd: int) -> None:
    """Drop what the kernel has cached of an open device: it may have been written to by other ways."""
    fcntl.ioctl(fd, _BLKFLSBUF, 0)


def what_is_on(path: Path) -> str | None:
    """Say what lies on a device, as far as its ends show.

    Args:
        path: the device.

    Returns:
        What it is, in words; None if the first and the last MiB are zero.

    Raises:
        RestoreError: it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = device_or_file_bytes(fd, path)
            back = max(size - HIDDEN_BYTES, 0)
            ends = os.pread(fd, HIDDEN_BYTES, 0), os.pread(fd, HIDDEN_BYTES, back)
        finally:
            os.close(fd)
    except OSError as error:
        raise RestoreError(f"cannot be read: {error.strerror}", path=str(path)) from error
    if not any(map(any, ends)):
        return None
    told = run_tool("blkid", "-p", "-o", "export", str(path)).stdout.decode(errors="replace")
    facts = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    if "TYPE" in facts:
        label = f" {facts['LABEL']!r}" if "LABEL" in facts else ""
        return f"{facts['TYPE']}{label}"
    return f"a partition table ({facts['PTTYPE']})" if "PTTYPE" in facts else "something that is not zero"


def look_anew(path: Path) -> None:
    """Have the kernel look at the partitions of a device anew, where it can and nobody uses any."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _BLKRRPART)
        finally:
            os.close(fd)
