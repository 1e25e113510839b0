"""What `rollforward hsr` does with disks itself: finalizing, copying, giving up, removing."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from actors.context import AgentContext
from actors.headstart_device import take_device
from actors.headstart_elsewhere import build_elsewhere, refuse_kept, way_from_nothing
from actors.headstart_errand import (
    Waiting,
    begin_anew,
    bring_to,
    copy_disk,
    discard_files,
    finalize_disk,
    finish_lending,
    held_disk,
    is_ending,
    lend_disk,
    look_at_disk,
    refuse_child,
    remove_child,
    start_over,
    take_disk_back,
)
from actors.headstart_view import DiskView, facts_of
from hsr.disks.form import DiskKind
from hsr.rolling.cursor_file import Phase
from hsr.rolling.disk import read_standing
from ops.clock import machine_now
from ops.headstart_keeping import named_job
from ops.interruption import Interruption
from ops.show import plain, print_json, progress_bar
from policies.ancestry import trace_ancestry
from policies.errors import ConfigurationError, ForkError, MissingPointError
from policies.headstart import DiskState, is_due
from policies.points import Point
from storage.catalog.headstart import cursor_of, jobs_with_disks
from storage.catalog.headstart_models import HeadStartDisk, HeadStartJob, Location
from storage.catalog.locations import disk_path

if TYPE_CHECKING:
    from ops.catalogue_access import Desk


@dataclass(frozen=True, slots=True)
class ChosenDisk:
    """A disk that something is to be done with.

    Attributes:
        disk_id: its row.
        job: its job's name.
        volume: its volume.
        path: its file, or device.
        is_device: which of these it is.
    """

    disk_id: int
    job: str
    volume: str
    path: Path
    is_device: bool


def chosen_disks(
    desk: Desk, job: str, volumes: Sequence[str], *, may_be_finalized: bool = False
) -> list[ChosenDisk]:
    """Find the disks of a job that are meant.

    Args:
        desk: the catalogue.
        job: its name.
        volumes: the volumes; all that are not finalized, if none is named.
        may_be_finalized: whether finalized ones are meant, too.

    Raises:
        ConfigurationError: there is no such job, or it has no such volume.
    """
    with desk.catalog.read() as session:
        named_job(session, job)
        rows = [row for row in jobs_with_disks(session) if row[0].name == job]
    known = {disk.volume: (found, disk, location) for found, disk, location, _ in rows}
    for volume in volumes:
        if volume not in known:
            raise ConfigurationError(
                f"--volume {volume!r} is none of job {job!r}",
                path="the command line",
                expected=f"one of {', '.join(sorted(known))}",
            )
    wanted = volumes or [
        volume
        for volume, (_, disk, _) in known.items()
        if may_be_finalized or disk.state is not DiskState.FINALIZED
    ]
    if not wanted:
        raise ConfigurationError(f"all disks of job {job!r} are finalized")
    return [_chosen(*known[one]) for one in dict.fromkeys(wanted)]


def _chosen(job: HeadStartJob, disk: HeadStartDisk, location: Location) -> ChosenDisk:
    is_device = job.disk_kind == DiskKind.DEVICE
    return ChosenDisk(disk.id, job.name, disk.volume, disk_path(location, job, disk), is_device)


def lent_disks(desk: Desk, job: str, volumes: Sequence[str]) -> list[ChosenDisk]:
    """Find the disks of a job that are lent.

    Args:
        desk: the catalogue.
        job: its name.
        volumes: the volumes; all whose disks are lent, if none is named.

    Raises:
        ConfigurationError: there is no such job, or it has no such volume, or no disk of it is lent.
        RollforwardError: where a disk stands cannot be read.
    """
    found = chosen_disks(desk, job, volumes)
    files = [disk for disk in found if not disk.is_device]
    lent = [disk for disk in files if (standing := read_standing(disk.path)) is not None and standing.loan]
    if volumes and len(lent) < len(found):
        raise ConfigurationError(
            "is not lent", path=str(next(disk.path for disk in found if disk not in lent))
        )
    if not lent:
        raise ConfigurationError(f"no disk of job {job!r} is lent")
    return lent


class Errand:
    """Does things with disks, one after the other, while a person waits.

    Args:
        desk: catalogue, clock and keys.
        quiet: print JSON, and no progress.
    """

    def __init__(self, desk: Desk, *, quiet: bool) -> None:
        self._quiet = quiet
        self._context = AgentContext(
            desk.catalog, desk.clock, machine_now, version("rollforward"), seal=desk.seal, is_quiet=True
        )

    def begin_anew(self, chosen: ChosenDisk) -> None:
        """Give up what a disk holds; the agent builds it anew."""
        with held_disk(self._context, chosen.disk_id, self._waiting(chosen)):
            self._tell_aside(begin_anew(self._context, look_at_disk(self._context, chosen.disk_id)))

    def take_device(self, chosen: ChosenDisk, *, overwrite: bool) -> None:
        """Have a job take its device; the agent builds its disk on it."""
        with held_disk(self._context, chosen.disk_id, self._waiting(chosen)):
            self._tell_aside(take_device(self._context, chosen.disk_id, overwrite=overwrite))

    def discard(self, chosen: ChosenDisk) -> None:
        """Remove the files of a disk that is not finalized."""
        with held_disk(self._context, chosen.disk_id, self._waiting(chosen)):
            self._tell_aside(discard_files(look_at_disk(self._context, chosen.disk_id)))

    def _tell_aside(self, folder: Path | None) -> None:
        if folder is not None and not self._quiet:
            told = f"The cursor was damaged: what was there lies in {folder} now. Remove that once nobody needs it."
            click.secho(plain(told), fg="yellow", err=True)

    def finalize(
        self,
        chosen: ChosenDisk,
        number: int | None,
        at: datetime | None,
        target: Path | None,
        *,
        fresh: bool,
    ) -> None:
        """Make a disk, or a copy of it, ready to be used.

        Args:
            chosen: the disk.
            number: of the point; None if it is not named by its number.
            at: the newest point at or before this time is meant; None if none is named.
            target: where a copy is to be; None for the disk itself.
            fresh: whether it is to be built from the base.

        Raises:
            RollforwardError: it cannot be done; the disk is as its cursor says.
        """
        context = self._context
        with held_disk(context, chosen.disk_id, self._waiting(chosen)), Interruption() as interruption:
            view = look_at_disk(context, chosen.disk_id)
            _refuse_finalized(view)
            if target is not None:
                refuse_kept(context, target)
            if fresh and target is not None:
                point = self._point(view, number, at)
            else:
                _refuse_lent(view)
                _refuse_unknown(view)
                point = self._end_of(view, number, at, only_ends=not fresh and target is None)
            words = f"Rolling {chosen.volume} to point {point.number}"
            with progress_bar(words, quiet=self._quiet) as progress:
                checked = interruption.checking(progress)
                if fresh and target is not None:
                    build_elsewhere(context, view, point, target, checked)
                    return self._tell(chosen, point, target)
                if fresh:
                    way_from_nothing(view, point)
                    start_over(view)
                elif not is_ending(view):
                    _refuse_earlier(view, point)
                    if target is not None:
                        _refuse_before_lag(view, point)
                if not is_ending(view):
                    view = bring_to(context, chosen.disk_id, point, checked)
                if target is not None:
                    copy_disk(context, view, point, target, checked, self._say_copying)
                    return self._tell(chosen, point, target)
            finalize_disk(context, view, point)
            return self._tell(chosen, point, view.path)

    def _say_copying(self) -> None:
        if not self._quiet:
            told = (
                "This file system shares no blocks, so that all of it is copied. "
                "Lending the disk instead takes seconds: --child FILE.qcow2"
            )
            click.secho(told, fg="yellow", err=True)

    def lend(self, chosen: ChosenDisk, number: int | None, at: datetime | None, child: Path) -> None:
        """Lend a disk, under a child that is written to in its stead.

        Args:
            chosen: the disk.
            number: of the point; None if it is not named by its number.
            at: the newest point at or before this time is meant; None if none is named.
            child: where the child is to be.

        Raises:
            RollforwardError: it cannot be done; the disk is as its cursor says.
        """
        context = self._context
        with held_disk(context, chosen.disk_id, self._waiting(chosen)), Interruption() as interruption:
            view = look_at_disk(context, chosen.disk_id)
            _refuse_finalized(view)
            if finish_lending(view, child) and view.standing is not None:
                return self._tell_lent(chosen, view.standing.cursor.points[0], child)
            if view.standing is not None and view.standing.phase in (Phase.LENDING, Phase.RETURNING):
                take_disk_back(context, view)
                view = look_at_disk(context, chosen.disk_id)
            _refuse_lent(view)
            _refuse_unknown(view)
            point = self._end_of(view, number, at, only_ends=False)
            refuse_kept(context, child)
            refuse_child(view, child)
            _refuse_earlier(view, point)
            _refuse_before_lag(view, point)
            words = f"Rolling {chosen.volume} to point {point.number}"
            with progress_bar(words, quiet=self._quiet) as progress:
                view = bring_to(context, chosen.disk_id, point, interruption.checking(progress))
            lend_disk(context, view, point, child)
            return self._tell_lent(chosen, point, child)

    def take_back(self, chosen: ChosenDisk, *, removes_child: bool) -> None:
        """Take back a disk that is lent.

        Args:
            chosen: the disk.
            removes_child: whether its child is removed.

        Raises:
            RollforwardError: it cannot be done; the disk is as its cursor says.
        """
        context = self._context
        with held_disk(context, chosen.disk_id, self._waiting(chosen)):
            view = look_at_disk(context, chosen.disk_id)
            child = take_disk_back(context, view)
            is_removed = removes_child and remove_child(view, child)
        if self._quiet:
            print_json(
                {
                    "path": str(chosen.path),
                    "kind": "resume",
                    "volume": chosen.volume,
                    "number": None if view.cursor.hi is None else view.cursor.hi.number,
                    "status": "taken back",
                    "job": chosen.job,
                    "child": str(child),
                    "child_removed": is_removed,
                }
            )
            return
        click.echo(f"{plain(chosen.path)}: taken back, and rolled on")
        if not is_removed and os.path.lexists(child):
            click.secho(
                f"{plain(child)} is worthless from now on, and nothing tells whoever opens it: remove it.",
                fg="yellow",
                err=True,
            )

    def _end_of(self, view: DiskView, number: int | None, at: datetime | None, *, only_ends: bool) -> Point:
        """Find the point that is meant for the disk itself; of one whose end was begun, only that can be had."""
        standing = view.standing
        if standing is None or not is_ending(view):
            return self._point(view, number, at)
        end = standing.cursor.points[0]
        is_meant = number in (None, end.number) and (at is None or self._point(view, None, at).id == end.id)
        if only_ends and is_meant:
            return end
        raise ConfigurationError(
            f"finalizing it at point {end.number} was begun, and only that can be had of it",
            path=str(view.path),
            hint=f"To end that: rollforward hsr finalize {view.job.name} --volume {view.disk.volume}. "
            "Another point takes a copy that is built from the base: --fresh --copy FILE.",
        )

    def _point(self, view: DiskView, number: int | None, at: datetime | None) -> Point:
        """Find the point that is meant."""
        standing = view.standing
        hi = view.cursor.hi or (cursor_of(view.disk).hi if standing is None else None)
        if number is None and at is None:
            if hi is None:
                raise MissingPointError(
                    "is not built yet", path=str(view.path), hint="Name a point with --point or --at."
                )
            return hi
        points = [] if hi is None else [hi]
        proven = [one.span for one in view.holdings if one.is_proven]
        ends = {span.end.id for span in proven}
        tree = trace_ancestry(proven)
        points += [point for point in tree.points.values() if point.id in ends and point not in points]
        if number is not None:
            return _numbered(view, [point for point in points if point.number == number], number)
        older = [point for point in points if at is not None and point.time <= at]
        if not older:
            raise MissingPointError("no point is that old", path=view.folder.path)
        return max(older, key=lambda point: (point.time, point.number))

    def _waiting(self, chosen: ChosenDisk) -> Waiting:
        def say() -> None:
            if not self._quiet:
                click.echo(
                    f"Waiting for the agent to let go of the disk of {plain(chosen.volume)} …", err=True
                )
                sys.stderr.flush()

        return say

    def _tell_lent(self, chosen: ChosenDisk, point: Point, child: Path) -> None:
        self._tell(chosen, point, child, status="lent")
        if not self._quiet:
            back = f"rollforward hsr resume {chosen.job} --volume {chosen.volume} --remove-child"
            click.echo(f"{plain(chosen.path)} is lent to it, and takes no points until: {plain(back)}")

    def _tell(self, chosen: ChosenDisk, point: Point, path: Path, *, status: str = "finalized") -> None:
        if self._quiet:
            print_json(
                {
                    "path": str(path),
                    "kind": "finalize",
                    "volume": chosen.volume,
                    "number": point.number,
                    "point": point.id.hex(),
                    "time": point.time.isoformat(),
                    "volume_bytes": point.volume_bytes,
                    "status": status,
                    "job": chosen.job,
                }
            )
            return
        when = point.time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        click.echo(
            f"{plain(path)}: point {point.number} of {plain(chosen.volume)} ({when}), ready to be used"
        )


def _numbered(view: DiskView, found: Sequence[Point], number: int) -> Point:
    if not found:
        raise MissingPointError(
            f"no verified image ends at point {number}",
            path=view.folder.path,
            hint="`rollforward chain` shows the points of a folder.",
        )
    if len(found) > 1:
        raise ForkError(
            f"the chain has {len(found)} points {number}", path=view.folder.path, hint="Say which with --at."
        )
    return found[0]


def _refuse_finalized(view: DiskView) -> None:
    if view.disk.state is DiskState.FINALIZED:
        raise ConfigurationError("is finalized already", path=str(view.path))


def _refuse_lent(view: DiskView) -> None:
    standing = view.standing
    if standing is not None and standing.loan is not None:
        raise ConfigurationError(
            f"is lent to {standing.loan.child}",
            path=str(view.path),
            hint=f"Take it back first: rollforward hsr resume {view.job.name} --volume {view.disk.volume}",
        )


def _refuse_unknown(view: DiskView) -> None:
    """Of a disk that was begun, and has no cursor that can be read, nobody knows where it stands."""
    if view.standing is None and view.disk.is_begun:
        raise ConfigurationError(view.plan.reason or "is not there", path=str(view.path))


def _refuse_earlier(view: DiskView, point: Point) -> None:
    hi = view.cursor.hi
    if hi is not None and point.number < hi.number:
        raise MissingPointError(
            f"point {point.number} lies before point {hi.number}, where the disk stands",
            path=str(view.path),
            hint="A disk does not go back. Say --fresh to have it built anew from the base; "
            "with --copy the disk itself is left as it is.",
        )


def _refuse_before_lag(view: DiskView, point: Point) -> None:
    """A stand-by that is to be rolled on later is not taken past its lag for the sake of a copy."""
    hi = view.cursor.hi
    if (hi is None or point.number > hi.number) and not is_due(facts_of(view), point, view.now):
        raise ConfigurationError(
            f"the lag of point {point.number} has not passed, and the disk would have to go there for the copy",
            path=str(view.path),
            hint="Copy the point where it stands, or say --fresh to have the copy built from the base.",
        )
