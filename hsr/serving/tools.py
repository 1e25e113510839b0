"""The system's own programs, found where they are."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

from policies.errors import ConfigurationError

_PACKAGES = {
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "xfs_repair": "xfsprogs",
    "ntfsfix": "ntfs-3g",
    "ntfsresize": "ntfs-3g",
    "fsck.fat": "dosfstools",
    "sfdisk": "fdisk",
    "ntfsls": "ntfs-3g",
    "ntfscat": "ntfs-3g",
    "ntfsinfo": "ntfs-3g",
    "fusermount3": "fuse3",
    "mount": "mount",
    "umount": "mount",
    "losetup": "mount",
}


def tool(name: str) -> str:
    """Find a program on PATH, or where root's programs live.

    Raises:
        ConfigurationError: it is not installed.
    """
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        raise ConfigurationError(
            f"the program {name} is missing",
            hint=f"On Debian, the package {_PACKAGES.get(name, name)} has it.",
        )
    return found


def run_tool(
    name: str, *arguments: str, tethered: Callable[..., list[str]] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program and return what it gave back, whatever that is; its words are in the C locale.

    Args:
        name: the program.
        arguments: what it is told.
        tethered: makes it end with this process; None for one that may outlive it.

    Raises:
        ConfigurationError: it is not installed.
    """
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC", "DEBUGFS_PAGER": "cat"}
    command = [tool(name), *arguments]
    command = command if tethered is None else tethered(*command)
    return subprocess.run(command, capture_output=True, check=False, env=environment)
