"""What is mounted, as the kernel's table has it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_OCTAL: Final = re.compile(rb"\\([0-7]{3})")
"""How the kernel writes blanks, line ends and backslashes in its table; all else is there as it is."""

_SHARED: Final = frozenset(
    {
        "9p",
        "acfs",
        "afs",
        "autofs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "gfs",
        "gfs2",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs3",
        "nfs4",
        "ocfs2",
        "orangefs",
        "prl_fs",
        "smb2",
        "smb3",
        "smbfs",
        "vboxsf",
        "virtiofs",
        "vmhgfs",
    }
)
"""Where others may write without the kernel's knowledge: shares, and disks of several machines."""

_LOCAL_FUSE: Final = frozenset({"fuse.ntfs-3g", "fuse.exfat", "fuse.lowntfs-3g"})
"""File systems in user space whose disk is this machine's own; any other may be a share."""


@dataclass(frozen=True, slots=True)
class Mount:
    """Something mounted.

    Attributes:
        at: where.
        kind: type of the file system.
        source: what is mounted, in words of the file system.
        device: number of the device, as `stat` has it.
        options: those of the file system, not of this one mount.
    """

    at: Path
    kind: str
    source: str
    device: int
    options: frozenset[str]


def is_shared(kind: str) -> bool:
    """Tell whether a file system of this type may be a share, or another machine's disk as well."""
    if kind.startswith("fuse"):
        return kind != "fuseblk" and kind not in _LOCAL_FUSE
    return kind in _SHARED


def mounts() -> list[Mount]:
    """List what this process sees mounted, in the order in which it was done.

    Source: proc(5), "/proc/[pid]/mountinfo".
    """
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        before, _, rest = line.partition(b" - ")
        fields = before.split()
        kind, source, options = rest.split(b" ")[:3]
        major, minor = map(int, fields[2].split(b":"))
        named = frozenset(_plain(options).split(","))
        at = Path(_plain(fields[4]))
        found.append(Mount(at, os.fsdecode(kind), _plain(source), os.makedev(major, minor), named))
    return found


def share_at(path: Path | int) -> Mount | None:
    """Return the share that a file or folder lies on; None if it lies on a disk of this machine.

    Args:
        path: the file or folder, or a descriptor of it.

    Raises:
        OSError: it is not there, or its share does not answer.
    """
    device = (os.fstat(path) if isinstance(path, int) else path.stat()).st_dev
    try:
        known = mounts()
    except OSError:  # nothing can be known of any mount here
        return None
    return next((mount for mount in known if mount.device == device and is_shared(mount.kind)), None)


def _plain(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda octal: bytes([int(octal[1], 8)]), field))
