"""The mark on a device that is an unfinished disk: by it the device is known again, whatever it is called by then.

It stands in the front of the device, which holds nothing else until the disk is finalized, and is overwritten with the
very last write. See docs/disks.md.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

import numpy as np
from blake3 import blake3

from hsr.disks import layout_side as layout
from hsr.disks.edges import FRONT_BYTES
from hsr.disks.form import SECTOR_BYTES
from hsr.disks.side_files import Claim
from policies.errors import RestoreError

_ANEW: Final = "Attach the right device; or say --fresh to have this one taken, and built anew."


@dataclass(frozen=True, slots=True)
class DeviceMark:
    """What stands on a device that is an unfinished disk.

    Attributes:
        claim: whose it is.
        size_bytes: size of the device.
        identity: what the kernel called it when it was taken (`devices.device_identity`); empty if nothing.
    """

    claim: Claim
    size_bytes: int
    identity: str

    def front(self) -> bytes:
        """Lay out the first `FRONT_BYTES` of the device."""
        mark = np.zeros((), layout.MARK)
        mark["magic"], mark["version"] = layout.MARK_MAGIC, layout.VERSION
        mark["owner"] = np.frombuffer(self.claim.owner, np.uint8)
        mark["taken"] = np.frombuffer(self.claim.taken, np.uint8)
        mark["size_bytes"], mark["identity"] = self.size_bytes, self.identity.encode()
        mark["digest"] = np.frombuffer(blake3(mark.tobytes()[:-32]).digest(), np.uint8)
        return bytes(layout.MARK_OFFSET) + mark.tobytes().ljust(FRONT_BYTES - layout.MARK_OFFSET, b"\0")


def read_mark(front: bytes) -> DeviceMark | None:
    """Read the mark in the front of a device; None if there is none, or anything beside it.

    Args:
        front: the first `FRONT_BYTES`.
    """
    packed = front[layout.MARK_OFFSET : layout.MARK_OFFSET + layout.MARK.itemsize]
    if len(packed) < layout.MARK.itemsize or blake3(packed[:-32]).digest() != packed[-32:]:
        return None
    mark: np.void = np.frombuffer(packed, layout.MARK)[0]
    claim = Claim(mark["owner"].tobytes(), mark["taken"].tobytes())
    found = DeviceMark(claim, int(mark["size_bytes"]), mark["identity"].decode(errors="replace"))
    return found if found.front() == front else None


def mark_on(path: Path) -> DeviceMark | None:
    """Read the mark on a device; None if there is none, or anything beside it.

    Raises:
        RestoreError: the device cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return read_mark(os.pread(fd, FRONT_BYTES, 0))
        finally:
            os.close(fd)
    except OSError as error:
        raise RestoreError(f"cannot be read: {error.strerror}", path=str(path)) from error


class Front(Enum):
    """How the front of a disk stands that is its file, byte for byte.

    UNFINISHED: as it is kept until the last write. TORN: the last write was begun. FINISHED: it is done. STRANGE: it is
    neither.
    """

    UNFINISHED = auto()
    TORN = auto()
    FINISHED = auto()
    STRANGE = auto()


def front_of(found: bytes, unfinished: bytes, finished: bytes) -> Front:
    """Tell how a front stands.

    Args:
        found: what is there: up to `FRONT_BYTES`.
        unfinished: what is there until the last write; as long.
        finished: what that writes; as long.
    """
    if found == unfinished:
        return Front.UNFINISHED
    if found == finished:
        return Front.FINISHED
    is_known = False
    for at in range(0, len(found), SECTOR_BYTES):
        sector, *able = (one[at : at + SECTOR_BYTES] for one in (found, unfinished, finished))
        if sector not in able:
            return Front.STRANGE
        is_known |= any(sector)
    return Front.TORN if is_known else Front.STRANGE


def refuse_other(path: Path, found: bytes, wanted: DeviceMark, goal: bytes | None) -> None:
    """Make sure that a device is the one that was taken, and nobody wrote to its front since.

    Args:
        path: the device.
        found: its first `FRONT_BYTES`.
        wanted: the mark, if it is that device.
        goal: what the last write of finalizing puts there; None before nothing but that is missing.

    Raises:
        RestoreError: it is another one, or not as it was left.
    """
    unfinished = wanted.front()[: len(found)]
    state = front_of(found, unfinished, unfinished if goal is None else goal)
    if state is not Front.STRANGE:
        return
    mark = read_mark(found)
    if mark is None:
        raise RestoreError(
            "bears no mark of this job: it is another device, or somebody else wrote to it",
            path=str(path),
            hint=_ANEW,
        )
    if mark.claim.owner != wanted.claim.owner:
        raise RestoreError("was taken for another job", path=str(path), hint=_ANEW)
    if mark.claim != wanted.claim:
        raise RestoreError("was taken for this job before another one was", path=str(path), hint=_ANEW)
    raise RestoreError(
        "is another device than the one that was taken, or a copy of it",
        path=str(path),
        expected=f"{mark.size_bytes:,} bytes, {mark.identity or 'without an identity'}",
        actual=f"{wanted.size_bytes:,} bytes, {wanted.identity or 'without an identity'}",
        hint=_ANEW,
    )
