"""HeadStart jobs and their disks as they are shown, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

import click

from ops.words import VERDICT_COLOURS, age_words, moment_words, plain, size_words
from policies.headstart import DiskState, lag_text
from policies.points import Point
from storage.catalog.headstart import cursor_of, jobs_with_disks
from storage.catalog.headstart_models import HeadStartDisk, HeadStartJob, JobState, Location, PointTest
from storage.catalog.locations import disk_path
from storage.catalog.models import Folder
from storage.catalog.point_tests import last_test
from storage.catalog.points import unpack_point

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_COLOURS: Final = {
    DiskState.UP_TO_DATE: "green",
    DiskState.WAITING: "green",
    DiskState.FINALIZED: "green",
    DiskState.BUILDING: "cyan",
    DiskState.ROLLING: "cyan",
    DiskState.LENT: "cyan",
    DiskState.STOPPED: "red",
    DiskState.NEEDS_FRESH: "red",
}


@dataclass(frozen=True, slots=True)
class DiskLine:
    """A disk as it is shown.

    Attributes:
        job: its job.
        disk: its row.
        location: where it lies.
        folder: whose images are applied.
        now: calendar time.
        tested: what the last restore test has found; None if there was none.
    """

    job: HeadStartJob
    disk: HeadStartDisk
    location: Location
    folder: Folder
    now: datetime
    tested: PointTest | None = None

    @property
    def path(self) -> Path:
        """Its file."""
        return disk_path(self.location, self.job, self.disk)

    @property
    def state(self) -> DiskState:
        """How it stands; a job that was paused a moment ago counts."""
        is_paused = self.job.state is JobState.PAUSED and self.disk.state is not DiskState.FINALIZED
        return DiskState.PAUSED if is_paused else self.disk.state

    @property
    def standing(self) -> Point | None:
        """The last point whose values are on it; None before it is built."""
        return cursor_of(self.disk).hi

    @property
    def is_torn(self) -> bool:
        """Whether it stands between points: work on it is under way, or was interrupted."""
        return len(self.disk.cursor) > 1

    @property
    def newest(self) -> Point | None:
        """The newest point of its line that is known."""
        return None if self.disk.newest is None else unpack_point(self.disk.newest)

    @property
    def behind(self) -> timedelta:
        """For how long it has been behind what it should stand at."""
        since = self.disk.due_since
        return max(self.now - since, timedelta(0)) if since is not None else timedelta(0)

    @property
    def words(self) -> str:
        """Say how it stands."""
        reason = f": {self.disk.reason}" if self.disk.reason and self.state is self.disk.state else ""
        return f"{self.state.value}{reason}"


def job_views(session: Session, now: datetime, name: str | None = None) -> list[DiskLine]:
    """Gather the disks of all jobs, or of one.

    Args:
        session: any session.
        now: calendar time.
        name: of the job; None for all.
    """
    return [
        DiskLine(job, disk, location, folder, now, last_test(session, job, disk))
        for job, disk, location, folder in jobs_with_disks(session)
        if name in (None, job.name)
    ]


def disk_fields(line: DiskLine) -> dict[str, object]:
    """Return what JSON says of a disk."""
    standing, newest, disk = line.standing, line.newest, line.disk
    return {
        "path": str(line.path),
        "kind": "headstart",
        "volume": disk.volume,
        "number": None if standing is None else standing.number,
        "point": None if standing is None else standing.id.hex(),
        "time": None if standing is None else standing.time.isoformat(),
        "status": line.state.value,
        "reason": disk.reason or None,
        "job": line.job.name,
        "folder": line.folder.path,
        "location": line.location.name,
        "subfolder": line.job.subfolder,
        "format": line.job.disk_kind,
        "wrap": line.job.wrap,
        "lag": lag_text(timedelta(seconds=line.job.lag_s)),
        "enabled": line.job.state is JobState.ENABLED,
        "torn": line.is_torn,
        "newest": None if newest is None else newest.number,
        "behind_s": round(line.behind.total_seconds()),
        "next_due_at": disk.next_due_at.isoformat(),
        "done_bytes": disk.done_bytes,
        "total_bytes": disk.total_bytes,
        "password": line.job.password is not None,
        "test": line.job.test_rhythm.value,
        "test_boot": line.job.test_starts,
        "test_marker": line.job.test_marker,
        "test_bus": line.job.test_bus,
        "test_problem": disk.test_problem,
        "tested": tested_fields(line.tested),
    }


def tested_fields(test: PointTest | None) -> dict[str, object] | None:
    """Return what JSON says of a restore test; None for none."""
    if test is None:
        return None
    return {
        "number": test.number,
        "point": test.point,
        "tested_at": test.tested_at.isoformat(),
        "seconds": round(test.seconds, 3),
        "verdict": test.verdict.value,
        "words": test.words,
        "screenshot": test.screenshot,
        "found": test.facts or None,
    }


def print_jobs(lines: Sequence[DiskLine], *, as_json: bool) -> None:
    """Print disks, a line each."""
    from ops.show import print_json

    if as_json:
        for line in lines:
            print_json(disk_fields(line))
        return
    if not lines:
        click.echo("No HeadStart job is saved yet: rollforward hsr add JOB FOLDER --location NAME")
        return
    from rich.table import Table
    from rich.text import Text

    from ops.screen import screen

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("job", "volume", "lag", "stands at", "state"):
        table.add_column(heading, overflow="fold")
    for line in lines:
        state = Text(plain(line.words), _COLOURS.get(line.state, "yellow"))
        if line.behind:
            state.append(f"\n{age_words(line.behind)} behind", "dim")
        lag = lag_text(timedelta(seconds=line.job.lag_s))
        job = Text(plain(line.job.name))
        table.add_row(job, Text(plain(line.disk.volume)), lag, Text(_stands(line)), state)
    screen().print(table)


def print_job(lines: Sequence[DiskLine], *, as_json: bool) -> None:
    """Print one job, and each of its disks."""
    from ops.show import print_json

    if as_json:
        for line in lines:
            print_json(disk_fields(line))
        return
    for number, line in enumerate(lines):
        if number == 0:
            job, location = line.job, line.location
            click.echo(f"{plain(job.name)}: {plain(line.folder.path)} → {plain(location.name)}")
            click.echo(f"  location   {plain(location.path)}, subfolder {plain(job.subfolder or 'none')}")
            wrap = "" if job.wrap == "none" else f", in a partition ({job.wrap})"
            click.echo(f"  format     {job.disk_kind}{wrap}")
            click.echo(f"  lag        {lag_text(timedelta(seconds=job.lag_s))}")
            click.echo(f"  tests      {plain(job.testing.words)}")
            click.echo(f"  state      {job.state.value}")
            click.echo(f"  password   {'kept, sealed' if job.password is not None else 'none'}")
        click.echo("")
        _print_disk(line)


def _print_disk(line: DiskLine) -> None:
    zone = ZoneInfo(line.folder.time_zone)
    disk = line.disk
    click.echo(f"{plain(disk.volume)}: {plain(line.words)}")
    click.echo(f"  file       {plain(line.path)}")
    click.echo(f"  stands at  {_stands(line)}")
    newest = line.newest
    if newest is not None:
        click.echo(f"  newest     point {newest.number}, {moment_words(newest.time, zone)}")
    if line.behind:
        click.echo(f"  behind     {age_words(line.behind)}")
    if disk.state in (DiskState.BUILDING, DiskState.ROLLING) and disk.total_bytes:
        click.echo(f"  progress   {size_words(disk.done_bytes)} of {size_words(disk.total_bytes)}")
    if line.state is DiskState.WAITING:
        click.echo(f"  next       {moment_words(disk.next_due_at, zone)}")
    _print_test(line, zone)


def _print_test(line: DiskLine, zone: ZoneInfo) -> None:
    test = line.tested
    if test is not None:
        verdict = click.style(test.verdict.value, fg=VERDICT_COLOURS[test.verdict])
        when = moment_words(test.tested_at, zone)
        click.echo(f"  tested     point {test.number} is {verdict} ({when}, {test.seconds:.0f} s)")
        click.echo(f"             {plain(test.words)}")
        if test.screenshot is not None:
            click.echo(f"  screenshot {plain(test.screenshot)}")
    if line.disk.test_problem is not None:
        click.echo(f"  test       {click.style(plain(line.disk.test_problem), fg='yellow')}")


def _stands(line: DiskLine) -> str:
    standing = line.standing
    if standing is None:
        return "nothing yet"
    first = cursor_of(line.disk).points[0]
    between = f"between {first.number} and " if line.is_torn else "point "
    return f"{between}{standing.number}, {moment_words(standing.time, ZoneInfo(line.folder.time_zone))}"
