"""Which file systems tell of changes, and which have to be asked.

The kernel sees what happens on its own disks. Of a share it sees only what this machine does itself: what another
machine writes there makes no event. Which file system a folder lies on is taken from the kernel's list of mounts,
so that a server which does not answer is not asked.

*Source:* proc(5), `/proc/pid/mountinfo`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from storage.mounts import is_shared

_MOUNTS: Final = Path("/proc/self/mountinfo")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """A mounted file system.

    Attributes:
        point: where it is mounted.
        kind: its type, as the kernel names it.
    """

    point: str
    kind: str


def tells_changes(kind: str) -> bool:
    """Tell whether the kernel sees every change on a file system of this type."""
    return not is_shared(kind)


def read_mounts() -> str:
    """Return the kernel's list of mounts; empty if there is none. No file system is touched."""
    try:
        return os.fsdecode(_MOUNTS.read_bytes())
    except OSError:
        return ""


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """Read the kernel's list of mounts.

    Args:
        text: as `read_mounts` gives it; lines of another form are passed over.

    Returns:
        The mounts, in the order in which they were made.
    """
    found = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if separator and len(fields) > 4 and kinds[0]:
            found.append(Mount(_OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4]), kinds[0]))
    return tuple(found)


def mount_of(real_path: str, mounts: tuple[Mount, ...]) -> Mount | None:
    """Return the file system that a path lies on.

    Args:
        real_path: absolute, without symbolic links.
        mounts: all that there are, in the order in which they were made: a later one hides an earlier one.
    """
    best: Mount | None = None
    for mount in mounts:
        is_above = mount.point == "/" or real_path == mount.point or real_path.startswith(mount.point + "/")
        if is_above and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best
