"""Lending a disk that is rolled forward: for a while it is a disk that others read, under a child that is written to.

Nothing is copied. The disk's own tables and signatures are written as if it were finalized, but its map, its edges and
its cursor stay, so that it can be taken back: then they go again, and it rolls on from the point where it stood. That
holds only as long as nobody wrote to it, which its file's size and time tell, and what shows that it is a disk.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from hsr.disks.disk import VirtualDisk, open_disk
from hsr.disks.flat import content_path
from hsr.disks.form import DiskKind, Stamp
from hsr.disks.medium import LocalMedium, Medium
from hsr.disks.side_files import SidePaths
from hsr.rolling.cursor_file import Loan, Phase, Standing, read_cursor, write_cursor
from hsr.rolling.users import alone_with
from policies.errors import BusyError, ConfigurationError, RestoreError, RollforwardError

_SIGNING_TAKES_NS: Final = 60_000_000_000
"""Whoever wrote to the file later than so long after it was laid out was not we."""

CHANGED_HINT: Final = (
    "It cannot be rolled on. Move it away, if it is to be kept, or remove it; "
    "then have another built: rollforward hsr enable --fresh"
)


class Child(Protocol):
    """A disk that reads the one that is lent, and is written to in its stead."""

    @property
    def path(self) -> Path:
        """Where it is to be."""

    def make(self) -> None:
        """Make it, durably, under a name that passes. Raises RestoreError or ConfigurationError."""

    def publish(self) -> None:
        """Give it its name, durably; never over another file. Raises RestoreError or BusyError: it has not got it."""

    def discard(self) -> None:
        """Remove what was made under the name that passes."""


def lend(
    medium: Medium,
    path: Path,
    disk: VirtualDisk,
    standing: Standing,
    child: Child,
    note: Callable[[Standing], None],
) -> None:
    """Make a disk one that others read, and give it a child. The disk is closed.

    Args:
        medium: where it lies.
        path: the disk.
        disk: the same, open.
        standing: where it stands: at one point, rolling.
        child: what is to be made over it.
        note: makes durable where it stands.

    Raises:
        ConfigurationError: a name is taken, or no child can be made here.
        RestoreError: the medium refuses.

    Crash: no disk, or the whole disk, which `take_back` takes back; a child only when all else is durable.
    """
    content, stamp = content_path(path, disk.kind), stamp_of(standing)
    for name in {child.path, path} - {content}:
        if medium.exists(name):
            raise ConfigurationError("exists already", path=str(name))
    loan = Loan(str(child.path))
    try:
        note(replace(standing, phase=Phase.LENDING, loan=loan))
        disk.lay_out(stamp)
        medium.set_writable(content, is_writable=False)
        note(replace(standing, phase=Phase.LENDING, loan=_seen(medium, content, loan)))
        disk.sign(stamp)
        serial = disk.serial
        disk.close()
        medium.settle_time(content)
        child.make()
        note(replace(standing, phase=Phase.LENT, loan=_seen(medium, content, loan), serial=serial))
        child.publish()
    except RollforwardError:
        disk.close()
        with contextlib.suppress(RollforwardError):
            child.discard()
        with contextlib.suppress(RollforwardError):  # whoever comes next does it otherwise
            take_back(path, medium=medium)
        raise


def take_back(path: Path, *, medium: Medium | None = None) -> Loan:
    """Take a disk back that was lent, or was to be: it shows nothing any more, and can be rolled on.

    Args:
        path: the disk.
        medium: what does the work.

    Returns:
        To whom it was lent; what reads it is worthless from now on.

    Raises:
        BusyError: somebody has the disk or its child open.
        ConfigurationError: it is not lent.
        FormatError: its cursor or its map is damaged.
        RestoreError: the medium refuses; or it was written to since, and is not what its cursor says.

    Crash: the whole disk, or no disk; taking it back again goes on.
    """
    medium = medium or LocalMedium()
    paths = SidePaths.beside(path)
    standing = _lent_standing(medium, path, paths)
    content = content_path(path, standing.kind)
    child = standing.loan.child if standing.loan else content
    with alone_with((content, Path(os.path.realpath(child)))):  # it may have been moved, and a symlink left
        medium.set_writable(content, is_writable=True)
        try:
            with open_disk(path, serial=standing.serial, medium=medium) as disk:
                if standing != read_cursor(medium, paths):
                    raise BusyError("is being worked on", path=str(path), hint="Wait for that to end.")
                _refuse_changed(medium, path, disk, standing)
                write_cursor(medium, paths, replace(standing, phase=Phase.RETURNING))
                standing = replace(standing, phase=Phase.RETURNING)
                disk.hide(stamp_of(standing))
                back = replace(standing, phase=Phase.ROLLING, loan=None, serial=disk.serial)
                write_cursor(medium, paths, back)
        except BaseException:
            if standing.phase is Phase.LENT:
                medium.set_writable(content, is_writable=False)
            raise
    return standing.loan or Loan("")


def stamp_of(standing: Standing) -> Stamp:
    """Return what a disk that stands at one point says of itself."""
    point = standing.cursor.points[0]
    return Stamp(standing.chain_id + point.id, point.time)


def _lent_standing(medium: Medium, path: Path, paths: SidePaths) -> Standing:
    standing = read_cursor(medium, paths)
    if standing is None or not standing.phase.is_lent:
        raise ConfigurationError("is not lent", path=str(path))
    return standing


def _seen(medium: Medium, content: Path, loan: Loan) -> Loan:
    found = medium.look(content)
    if found is None:
        raise RestoreError("is gone", path=str(content))
    return replace(loan, file_bytes=found[0], time_ns=found[1])


def _refuse_changed(medium: Medium, path: Path, disk: VirtualDisk, standing: Standing) -> None:
    """Make sure that nobody but us wrote to a disk since it was laid out."""
    content, loan = content_path(path, disk.kind), standing.loan
    if loan is None or standing.phase is Phase.RETURNING or not loan.file_bytes:
        return  # nothing shows yet, or what shows is being removed
    found, stamp = medium.look(content), stamp_of(standing)
    if standing.phase is Phase.LENT:
        is_same = found == (loan.file_bytes, loan.time_ns) and disk.is_as_signed(stamp)
    else:  # interrupted on the way: nobody was told of it yet
        is_same = found is not None and found[1] <= loan.time_ns + _SIGNING_TAKES_NS
        if disk.kind is DiskKind.VMDK_FLAT and medium.exists(path):
            is_same &= disk.is_as_signed(stamp)
    if not is_same:
        raise RestoreError(
            "was written to since it was lent, so it is no longer what it was",
            path=str(path),
            hint=CHANGED_HINT,
        )
