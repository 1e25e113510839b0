"""The cursor file: beside a disk that is rolled forward, and the truth about where it stands.

    .rollforward-hsr/NAME.cursor

It is replaced as a whole each time, durably, and never changed in place. What is read back is believed only when its
digest fits and everything in it makes sense. A share may take the old one away and then not give its name to the new
one: this counts then under the name that it was written by. See docs/disks.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from blake3 import blake3

from hsr.disks.form import DiskKind
from hsr.disks.medium import Medium
from hsr.disks.side_files import SidePaths
from hsr.rolling import layout_cursor as layout
from policies.cursor import Cursor
from policies.errors import DigestMismatchError, FormatError, UnsupportedVersionError
from policies.points import Point, PointId

NO_WRAP: Final = "none"
"""The wrap of a disk that is its volume, and nothing around it."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_END: Final = datetime(9000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_BYTES_MAX: Final = (
    layout.CURSOR.itemsize
    + layout.POINTS_MAX * layout.POINT.itemsize
    + layout.CHILD_BYTES_MAX
    + layout.DIGEST_BYTES
)


class Phase(IntEnum):
    """What is being done with a disk."""

    NEW = layout.PHASE_NEW
    BUILDING = layout.PHASE_BUILDING
    ROLLING = layout.PHASE_ROLLING
    FINALIZING = layout.PHASE_FINALIZING
    FINALIZED = layout.PHASE_FINALIZED
    LENDING = layout.PHASE_LENDING
    LENT = layout.PHASE_LENT
    RETURNING = layout.PHASE_RETURNING

    @property
    def is_lent(self) -> bool:
        """Whether the disk is lent, or on its way to that or back."""
        return self in (Phase.LENDING, Phase.LENT, Phase.RETURNING)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a volume lies on its disk.

    Attributes:
        disk_bytes: size of the disk.
        offset_bytes: where the volume begins on it.
        room_bytes: how large the volume may become.
        wrap: what is around it: `none`, or a name of up to 8 letters that the wrapping knows.
    """

    disk_bytes: int
    offset_bytes: int
    room_bytes: int
    wrap: str = NO_WRAP

    @classmethod
    def whole(cls, volume_bytes: int) -> Place:
        """Return the place of a volume that is its disk."""
        return cls(volume_bytes, 0, volume_bytes)

    @property
    def is_sound(self) -> bool:
        """Whether the volume lies within the disk."""
        fits = self.offset_bytes >= 0 and self.room_bytes > 0
        return fits and self.offset_bytes + self.room_bytes <= self.disk_bytes


@dataclass(frozen=True, slots=True)
class Loan:
    """To whom a disk is lent, and as what.

    Attributes:
        child: absolute path of the disk that reads it and is written to in its stead.
        file_bytes: size of the disk's file when it was lent; 0 before that.
        time_ns: when that file was last written to, in nanoseconds since 1970-01-01 UTC; 0 before it is known.
    """

    child: str
    file_bytes: int = 0
    time_ns: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a disk stands, as its cursor file says.

    Attributes:
        kind: what the disk is to be.
        place: where its volume lies on it.
        job_uid: 16 bytes: the job that it belongs to.
        chain_id: 16 bytes: the chain whose points it holds.
        phase: what is being done with it.
        cursor: the points whose values may be on it.
        goal: the point that is being built from nothing; None when none is.
        done_bytes: so much of the volume, from its beginning, equals the goal for good.
        serial: the number of the disk's map when this was written.
        loan: to whom it is lent; None if it is not.
    """

    kind: DiskKind
    place: Place
    job_uid: bytes
    chain_id: bytes
    phase: Phase = Phase.NEW
    cursor: Cursor = field(default_factory=Cursor.blank)
    goal: Point | None = None
    done_bytes: int = 0
    serial: int = 0
    loan: Loan | None = None


def cursor_path(paths: SidePaths) -> Path:
    """Return where the cursor of a disk lies."""
    return paths.folder / f"{paths.name}.cursor"


def write_cursor(medium: Medium, paths: SidePaths, standing: Standing) -> None:
    """Replace the cursor of a disk, durably.

    Args:
        medium: where it lies; the folder is there.
        paths: the disk's side files.
        standing: what it is to say.

    Raises:
        RestoreError: the medium refuses.

    Crash: the cursor as it was, or as it is to be; maybe a `.cursor.new`, which counts where there is no other.
    """
    path, fresh = cursor_path(paths), fresh_cursor_path(paths)
    if not medium.exists(path) and _load_fresh(medium, paths) is not None:
        medium.rename(fresh, path)
        medium.sync_folder(path.parent)
    medium.remove(fresh)
    file = medium.open(fresh, create=True)
    try:
        file.write(encode_cursor(standing), 0)
        file.sync()
    finally:
        file.close()
    medium.rename(fresh, path)
    medium.sync_folder(path.parent)


def read_cursor(medium: Medium, paths: SidePaths) -> Standing | None:
    """Read the cursor of a disk; None if there is none.

    Raises:
        FormatError: it is damaged, or of a later version.
        RestoreError: the medium refuses.
    """
    path = cursor_path(paths)
    packed = medium.load(path, _BYTES_MAX + 1)
    if packed is None:
        fresh = _load_fresh(medium, paths)
        if fresh is not None:
            return fresh
        packed = medium.load(path, _BYTES_MAX + 1)  # it may just have been given its name
    return None if packed is None else decode_cursor(packed, str(path))


def settle_cursor(medium: Medium, paths: SidePaths) -> None:
    """Make durable what is there of a cursor, unchanged: a killed process may have left it in the cache alone.

    Raises:
        RestoreError: the medium refuses.
    """
    found = [path for path in (cursor_path(paths), fresh_cursor_path(paths)) if medium.exists(path)]
    for path in found[:1]:
        file = medium.open(path)
        try:
            file.sync()
        finally:
            file.close()
    medium.sync_folder(paths.folder)


def fresh_cursor_path(paths: SidePaths) -> Path:
    """Return where a cursor lies that has not got its name yet."""
    path = cursor_path(paths)
    return path.with_name(f"{path.name}.new")


def _load_fresh(medium: Medium, paths: SidePaths) -> Standing | None:
    """Read a cursor that has not got its name yet; None if there is none, or not all of it was written."""
    path = fresh_cursor_path(paths)
    packed = medium.load(path, _BYTES_MAX + 1)
    try:
        return None if packed is None else decode_cursor(packed, str(path))
    except UnsupportedVersionError:
        raise
    except FormatError:
        return None


def remove_cursor(medium: Medium, paths: SidePaths) -> None:
    """Remove the cursor of a disk, and what was to become one.

    Raises:
        RestoreError: the medium refuses.

    Crash: removed, or not.
    """
    path = cursor_path(paths)
    medium.remove(fresh_cursor_path(paths))
    medium.remove(path)
    medium.sync_folder(path.parent)


def encode_cursor(standing: Standing) -> bytes:
    """Lay out a cursor file."""
    head = np.zeros((), layout.CURSOR)
    head["magic"], head["version"], head["phase"] = layout.MAGIC, layout.VERSION, standing.phase
    head["kind"], head["wrap"] = standing.kind.value.encode(), standing.place.wrap.encode()
    head["job_uid"] = np.frombuffer(standing.job_uid, np.uint8)
    head["chain_id"] = np.frombuffer(standing.chain_id, np.uint8)
    for name in ("disk_bytes", "offset_bytes", "room_bytes"):
        head[name] = getattr(standing.place, name)
    head["serial"], head["done_bytes"] = standing.serial, standing.done_bytes
    goal = () if standing.goal is None else (standing.goal,)
    head["point_count"], head["goal_count"] = len(standing.cursor.points), len(goal)
    child = b""
    if standing.loan is not None:
        child = os.fsencode(standing.loan.child)
        head["lent_bytes"], head["lent_time_ns"] = standing.loan.file_bytes, standing.loan.time_ns
    head["child_bytes"] = len(child)
    packed = head.tobytes() + b"".join(map(_encode_point, (*standing.cursor.points, *goal))) + child
    return packed + blake3(packed).digest()


def _encode_point(point: Point) -> bytes:
    row = np.zeros((), layout.POINT)
    row["id"] = np.frombuffer(point.id, np.uint8)
    row["time_us"] = (point.time - _EPOCH) // _MICROSECOND
    row["volume_bytes"], row["number"] = point.volume_bytes, point.number
    return row.tobytes()


def decode_cursor(packed: bytes, path: str) -> Standing:
    """Read a cursor file, trusting nothing in it.

    Args:
        packed: the whole file.
        path: its path, for errors.

    Raises:
        FormatError: it is none, or is damaged, or of a later version.
    """
    if len(packed) < layout.CURSOR.itemsize + layout.DIGEST_BYTES or not packed.startswith(layout.MAGIC):
        raise FormatError("is no cursor of a disk", path=path)
    body = packed[: -layout.DIGEST_BYTES]
    if blake3(body).digest() != packed[len(body) :]:
        raise DigestMismatchError(
            "the cursor is damaged",
            path=path,
            hint="Nobody knows where this disk stands; have it built anew.",
        )
    head: np.void = np.frombuffer(body, layout.CURSOR, count=1)[0]
    _refuse_unknown(head, path)
    count, goal_count = int(head["point_count"]), int(head["goal_count"])
    points_end = layout.CURSOR.itemsize + (count + goal_count) * layout.POINT.itemsize
    if len(body) != points_end + int(head["child_bytes"]) or goal_count > 1:
        raise FormatError("the cursor has another length than it says", path=path)
    rows = np.frombuffer(body[:points_end], layout.POINT, offset=layout.CURSOR.itemsize)
    points = [_decode_point(row, path) for row in rows]
    number = {name: int(head[name]) for name in ("disk_bytes", "offset_bytes", "room_bytes")}
    standing = Standing(
        DiskKind(head["kind"].decode()),
        Place(wrap=head["wrap"].decode(), **number),
        head["job_uid"].tobytes(),
        head["chain_id"].tobytes(),
        Phase(int(head["phase"])),
        Cursor(tuple(points[:count])),
        points[count] if goal_count else None,
        int(head["done_bytes"]),
        int(head["serial"]),
        _decode_loan(head, body[points_end:]),
    )
    _refuse_nonsense(standing, path)
    return standing


def _refuse_unknown(head: np.void, path: str) -> None:
    """Refuse what only a later version could have written."""
    known = head["version"] == layout.VERSION and not head["reserved"].any()
    words = head["kind"].decode(errors="replace"), head["wrap"].decode(errors="replace")
    if not known or words[0] not in set(DiskKind) or int(head["phase"]) not in set(Phase):
        raise UnsupportedVersionError("is of a later version", path=path, actual=int(head["version"]))
    if not words[1].isascii() or not words[1].isalnum():
        raise FormatError("the cursor names no wrap", path=path)


def _decode_point(row: np.void, path: str) -> Point:
    time_us = int(row["time_us"])
    if row["reserved"] or not 0 <= time_us < (_TIME_END - _EPOCH) // _MICROSECOND:
        raise FormatError("the cursor names a point that is none", path=path)
    time = _EPOCH + timedelta(microseconds=time_us)
    return Point(PointId(row["id"].tobytes()), int(row["number"]), time, int(row["volume_bytes"]))


def _decode_loan(head: np.void, child: bytes) -> Loan | None:
    if not child and not head["lent_bytes"] and not head["lent_time_ns"]:
        return None
    return Loan(os.fsdecode(child), int(head["lent_bytes"]), int(head["lent_time_ns"]))


def _refuse_nonsense(standing: Standing, path: str) -> None:
    """Refuse what no version writes, whatever its digest says."""
    points, goal = standing.cursor.points, standing.goal
    is_exact = len(points) == 1 and goal is None and not standing.done_bytes
    fits = {
        Phase.NEW: not points and goal is None and not standing.done_bytes,
        Phase.BUILDING: not points and (goal is not None or not standing.done_bytes),
        Phase.ROLLING: bool(points) and goal is None and not standing.done_bytes,
        Phase.FINALIZING: is_exact,
        Phase.FINALIZED: is_exact,
        Phase.LENDING: is_exact,
        Phase.LENT: is_exact,
        Phase.RETURNING: is_exact,
    }[standing.phase]
    loan = standing.loan
    fits &= standing.phase.is_lent == (loan is not None)
    fits &= loan is None or (loan.child.startswith("/") and loan.file_bytes >= 0)
    if not fits or not standing.place.is_sound or not _ascend(points):
        raise FormatError("the cursor makes no sense", path=path)
    if goal is not None and standing.done_bytes > goal.volume_bytes:
        raise FormatError("the cursor says that more is built than there is", path=path)


def _ascend(points: Sequence[Point]) -> bool:
    return all(older.number < newer.number for older, newer in pairwise(points))
