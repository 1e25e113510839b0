"""Disks on a share: what it cannot do as a disk of this machine does, and how that is made up for.

A server may refuse to replace a file that somebody is just reading, and the kernel's client then removes that file and
fails. It syncs no folder: a name is made durable by syncing the file that bears it. And when the connection breaks, the
client makes a new one and goes on, so that a sync succeeds though the server, if it was started anew, lost what it had
not yet written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from policies.errors import RestoreError
from storage.mounts import Mount, share_at
from storage.sharing import insist

_SMB: Final = frozenset({"cifs", "smb3"})
_STATE: Final = Path("/proc/fs/cifs/DebugData")
_CONNECTION: Final = re.compile(rb"ConnectionId: (0x[0-9a-f]+)\b.*?\bInstance: (\d+)", re.DOTALL)


def refuse_unmounted(path: Path) -> None:
    """Make sure that a share is mounted at a folder, or above it, and that what is synced there is durable.

    Raises:
        RestoreError: there is none, or it does not answer, or it was mounted so that syncing does nothing.
    """
    try:
        share = share_at(path)
    except OSError as error:
        raise RestoreError(f"cannot be reached: {error.strerror}", path=str(path)) from error
    if share is None:
        raise RestoreError(
            "no share is mounted there", path=str(path), hint="Mount it; the job then goes on by itself."
        )
    if "nostrictsync" in share.options:
        raise RestoreError(
            "the share is mounted with nostrictsync: nothing written there is known to be durable",
            path=str(path),
            hint="Mount it without that option.",
        )


class Link:
    """The connection that a file on a share is written through: whether it was made anew in between.

    Only the kernel's own client of SMB tells that, and only it goes on with open files; others fail.

    Args:
        share: the share; None for a disk of this machine.
    """

    def __init__(self, share: Mount | None) -> None:
        is_told = share is not None and share.kind in _SMB
        self._before = _connections() if is_told else {}

    def refuse_broken(self, path: Path) -> None:
        """Make sure that what was written since this was made, and was synced just now, is there.

        Raises:
            RestoreError: nobody knows.
        """
        if not self._before:
            return
        now = _connections()
        if any(now.get(name, count) != count for name, count in self._before.items()):
            raise RestoreError(
                "the connection to the server broke in between: it may have lost what was written before",
                path=str(path),
                hint="Have it go on; what is not known to be durable is written again.",
            )


def _connections() -> Mapping[bytes, int]:
    """Return how often each connection to a server of SMB was made, as far as the kernel tells."""
    try:
        return {name: int(count) for name, count in _CONNECTION.findall(_STATE.read_bytes())}
    except OSError:
        return {}


def replace_on_share(source: Path, target: Path, share: Mount) -> None:
    """Give a file another name, durably, replacing what bears it.

    Args:
        source: the file; it is synced, and nobody has it open.
        target: its new name, in the same folder.
        share: what both lie on.

    Raises:
        OSError: the server refuses. The old file may be gone then, and the new one have its old name.
        RestoreError: the connection broke.

    Crash: either file has the name; or neither, and the new one has its old name.
    """
    link = Link(share)
    insist(lambda: source.replace(target), share)
    sync_file(target)
    link.refuse_broken(target)


def sync_file(path: Path) -> None:
    """Sync a file and, on a share, its name, too: a folder's sync does not reach the server.

    Raises:
        OSError: the server refuses.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
