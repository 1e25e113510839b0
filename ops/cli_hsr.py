"""`rollforward hsr`: jobs that keep disks almost ready, rolled forward image by image, some time behind."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.catalogue_access import Desk, json_option, opened_desk, person, state_option
from ops.disk_options import disk_options
from ops.passwords import PasswordSource, password_option
from ops.path_type import FolderType
from ops.testing_options import testing_options
from ops.time_type import TimeType

if TYPE_CHECKING:
    from ops.disk_options import DiskWords
    from ops.headstart_keeping import JobWishes
    from policies.restore_tests import RestoreTesting
    from storage.catalog.headstart_models import JobState

_JOB = click.argument("job")
_CHANGES = json_option("Print one JSON object a change.")


@click.group()
def hsr() -> None:
    """Keep disks rolled forward, so that a restore is minutes away (HeadStart Restore).

    A job builds a disk of each of its volumes, and applies each image that lands once its lag has passed. Until it is
    finalized no hypervisor takes such a disk for one. Nothing that a job needs is ever removed from its folder.
    """


@hsr.command(
    epilog="""\b
Examples:
  rollforward location add standby /srv/disks
  rollforward hsr add mail /srv/images --location standby --lag 4h
  rollforward hsr add web /srv/images --location nas --format vhdx --wrap gpt --volume C_VOL --volume D_VOL
  rollforward hsr add vault /srv/secret --location nas --lag 7d --password-file /root/vault.password
  rollforward hsr add erp /srv/images --location nas --volume ERP --test weekly --test-boot --test-marker "login:"
  rollforward hsr add spare /srv/images --location standby --volume D_VOL --device /dev/disk/by-id/wwn-0x5000c500a1b2c3
  rollforward hsr add spare /srv/images --location standby --volume D_VOL --device /dev/sdc --overwrite
"""
)
@_JOB
@click.argument("folder", type=FolderType())
@disk_options
@testing_options("test-", "--test", required=False)
@password_option
@state_option
@json_option("Print one JSON object a disk.")
def add(
    job: str,
    folder: Path,
    disks: DiskWords,
    testing: RestoreTesting,
    password_file: Path | None,
    state: str | None,
    as_json: bool,
) -> None:
    """Save JOB: disks of the volumes of FOLDER, kept at LOCATION.

    After that only its password can be changed, whether it is paused, and how its disks are tested: file systems are
    checked, with the disk left as it is, and what is found stands on the point (`rollforward chain`).

    With --device, a block device becomes the disk: one that nobody uses, with nothing on it unless --overwrite is said.
    It is taken at once, and shows nothing until it is finalized.
    """
    from ops.headstart_errands import Errand, chosen_disks
    from ops.headstart_keeping import HeadStartKeeping
    from ops.headstart_screen import job_views, print_jobs

    wishes = disks.wishes(job, folder, testing)
    with opened_desk(state) as desk:
        wishes = _with_subfolder(desk, wishes, as_json=as_json)
        with desk.catalog.write() as session:
            HeadStartKeeping(desk, session, person()).add(wishes, PasswordSource(password_file))
        if disks.device is not None:
            for disk in chosen_disks(desk, job, ()):
                Errand(desk, quiet=as_json).take_device(disk, overwrite=disks.overwrite)
        with desk.catalog.read() as session:
            found = job_views(session, desk.clock(), job)
    print_jobs(found, as_json=as_json)


def _with_subfolder(desk: Desk, wishes: JobWishes, *, as_json: bool) -> JobWishes:
    """Offer the folder's name as the subfolder, where a person sits at a terminal."""
    from dataclasses import replace

    from ops.headstart_keeping import offered_subfolder
    from ops.keeping import find_managed

    if wishes.subfolder is not None or as_json or not (sys.stdin and sys.stdin.isatty()):
        return wishes
    with desk.catalog.read() as session:
        offered = offered_subfolder(find_managed(session, wishes.folder))
    return replace(wishes, subfolder=click.prompt("Subfolder of the location", default=offered, err=True))


@hsr.command(
    name="list",
    epilog="""\b
Examples:
  rollforward hsr list
  rollforward hsr list --json
""",
)
@state_option
@json_option("Print one JSON object a disk.")
def list_(state: str | None, as_json: bool) -> None:
    """List the jobs, and how each of their disks stands."""
    from ops.headstart_screen import job_views, print_jobs

    with opened_desk(state) as desk, desk.catalog.read() as session:
        found = job_views(session, desk.clock())
    print_jobs(found, as_json=as_json)


@hsr.command(
    epilog="""\b
Examples:
  rollforward hsr show mail
  rollforward hsr show mail --json
"""
)
@_JOB
@state_option
@json_option("Print one JSON object a disk.")
def show(job: str, state: str | None, as_json: bool) -> None:
    """Show JOB: what it was saved as, and how each of its disks stands."""
    from ops.headstart_keeping import named_job
    from ops.headstart_screen import job_views, print_job

    with opened_desk(state) as desk, desk.catalog.read() as session:
        named_job(session, job)
        found = job_views(session, desk.clock(), job)
    print_job(found, as_json=as_json)


@hsr.command(
    epilog="""\b
Examples:
  rollforward hsr pause mail
"""
)
@_JOB
@state_option
@_CHANGES
def pause(job: str, state: str | None, as_json: bool) -> None:
    """Have JOB rest: nothing is applied until it is enabled. What its disks need stays."""
    from storage.catalog.headstart_models import JobState

    _set_state(job, JobState.PAUSED, state, as_json)


@hsr.command(
    epilog="""\b
Examples:
  rollforward hsr enable mail
  rollforward hsr enable mail --fresh --volume D_VOL
  rollforward hsr enable spare --fresh --overwrite
"""
)
@_JOB
@click.option("--fresh", is_flag=True, help="Give the disks up, and build them anew from the newest base.")
@click.option("--volume", "volumes", multiple=True, metavar="NAME", help="Which of its disks; repeatable.")
@click.option("--overwrite", is_flag=True, help="Whatever lies on the job's device may go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@state_option
@_CHANGES
def enable(
    job: str,
    fresh: bool,
    volumes: tuple[str, ...],
    overwrite: bool,
    yes: bool,
    state: str | None,
    as_json: bool,
) -> None:
    """Have JOB go on; with --fresh, with disks that are built anew.

    A disk that was finalized stays where it is: move it away first. A device that is no unfinished disk of the job is
    taken again if nothing is on it, or with --overwrite.
    """
    from ops.headstart_errands import Errand, chosen_disks
    from storage.catalog.headstart_models import JobState

    if (volumes or overwrite) and not fresh:
        raise click.UsageError("--volume and --overwrite need --fresh: a job is enabled whole.")
    if fresh:
        with opened_desk(state) as desk:
            disks = chosen_disks(desk, job, volumes)
            named = ", ".join(disk.volume for disk in disks)
            if not yes:
                click.confirm(f"Give up the disks of {named}, and build them anew?", abort=True, err=True)
            if overwrite and not all(disk.is_device for disk in disks):
                raise click.UsageError("--overwrite is for devices: files are never overwritten.")
            for disk in disks:
                errand = Errand(desk, quiet=as_json)
                if disk.is_device:
                    errand.take_device(disk, overwrite=overwrite)
                else:
                    errand.begin_anew(disk)
    _set_state(job, JobState.ENABLED, state, as_json)


@hsr.command(
    epilog="""\b
Examples:
  rollforward hsr delete mail
  rollforward hsr delete mail --with-disk --yes
"""
)
@_JOB
@click.option("--with-disk", is_flag=True, help="Remove its disks, too, as far as they are not finalized.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@state_option
@_CHANGES
def delete(job: str, with_disk: bool, yes: bool, state: str | None, as_json: bool) -> None:
    """Forget JOB. The files of its disks stay, unless --with-disk is said; finalized disks stay in any case."""
    from ops.cli_settings import tell
    from ops.headstart_errands import Errand, chosen_disks
    from ops.headstart_keeping import HeadStartKeeping, named_job
    from storage.catalog.headstart_models import JobState

    with opened_desk(state) as desk:
        disks = chosen_disks(desk, job, (), may_be_finalized=True)
        if with_disk and not yes:
            named = ", ".join(
                f"what tells of {disk.path}" if disk.is_device else str(disk.path) for disk in disks
            )
            click.confirm(f"Remove {named} for good?", abort=True, err=True)
        with desk.catalog.write() as session:
            HeadStartKeeping(desk, session, person()).set_state(named_job(session, job), JobState.PAUSED)
        if with_disk:
            for disk in disks:
                Errand(desk, quiet=as_json).discard(disk)
        with desk.catalog.write() as session:
            changes = HeadStartKeeping(desk, session, person()).delete(named_job(session, job))
    tell(changes, as_json)


@hsr.command(
    epilog="""\b
Examples:
  rollforward hsr password vault --password-file /root/vault.password
"""
)
@_JOB
@password_option
@state_option
@_CHANGES
def password(job: str, password_file: Path | None, state: str | None, as_json: bool) -> None:
    """Give JOB the password of its encrypted volumes anew. It is kept sealed."""
    from ops.cli_settings import tell
    from ops.headstart_keeping import HeadStartKeeping, named_job

    with opened_desk(state) as desk, desk.catalog.write() as session:
        keeping = HeadStartKeeping(desk, session, person())
        changes = keeping.set_password(named_job(session, job), PasswordSource(password_file))
    tell(changes, as_json)


@hsr.command(
    name="test",
    epilog="""\b
Examples:
  rollforward hsr test mail --every weekly
  rollforward hsr test mail --every daily --boot --marker "login:"
  rollforward hsr test mail --every never
""",
)
@_JOB
@testing_options("", "--every", required=True)
@state_option
@_CHANGES
def set_test(job: str, testing: RestoreTesting, state: str | None, as_json: bool) -> None:
    """Say how often a restore of the points is tested where the disks of JOB stand.

    `rollforward test-restore` tests one at once.
    """
    from ops.cli_settings import tell
    from ops.headstart_keeping import HeadStartKeeping, named_job

    with opened_desk(state) as desk, desk.catalog.write() as session:
        changes = HeadStartKeeping(desk, session, person()).set_testing(named_job(session, job), testing)
    tell(changes, as_json)


@hsr.command(
    epilog="""\b
Examples:
  rollforward hsr finalize mail --volume D_VOL
  rollforward hsr finalize mail --volume D_VOL --point 42
  rollforward hsr finalize mail --at "2026-11-20 08:00"
  rollforward hsr finalize mail --volume D_VOL --copy /srv/tests/D_VOL.vhd
  rollforward hsr finalize mail --volume D_VOL --child /srv/tests/D_VOL.qcow2
  rollforward hsr finalize mail --volume D_VOL --point 17 --fresh --copy /srv/tests/D_17.vhd
"""
)
@_JOB
@click.option(
    "--volume", "volumes", multiple=True, metavar="NAME", help="Which of its disks; repeatable. Default: all."
)
@click.option(
    "--point", type=click.IntRange(min=0), help="Number of the point; where the disk stands if not given."
)
@click.option(
    "--at", type=TimeType(), help="The newest point at or before this time (ISO 8601, local if no zone)."
)
@click.option(
    "--copy",
    "target",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Finalize a copy; the disk is rolled on.",
)
@click.option(
    "--child",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Lend the disk under a qcow2 file that is written to; hsr resume takes it back.",
)
@click.option("--fresh", is_flag=True, help="Build it from the base: needed for a point before the disk's.")
@state_option
@json_option("Print one JSON object a disk.")
def finalize(
    job: str,
    volumes: tuple[str, ...],
    point: int | None,
    at: datetime | None,
    target: Path | None,
    child: Path | None,
    fresh: bool,
    state: str | None,
    as_json: bool,
) -> None:
    """Make disks of JOB ready to be used, each at a point at or after the one where it stands, whatever the lag.

    A finalized disk opens in any hypervisor, and takes no more points. With --copy that is a copy, and the disk itself
    is rolled on. With --child nothing is copied: the disk itself is read, and takes no points until it is taken back.
    A point before the one where a disk stands takes a disk that is built from the base: say --fresh.
    """
    from ops.headstart_errands import Errand, chosen_disks

    _refuse_mixtures(point, at, target, child, fresh=fresh)
    with opened_desk(state) as desk:
        disks = chosen_disks(desk, job, volumes)
        if len(disks) > 1 and (target or child or point is not None):
            raise click.UsageError("The job has several volumes: say which with --volume.")
        errand = Errand(desk, quiet=as_json)
        for disk in disks:
            if child is not None:
                errand.lend(disk, point, at, child.absolute())
            else:
                errand.finalize(disk, point, at, None if target is None else target.absolute(), fresh=fresh)


def _refuse_mixtures(
    point: int | None, at: datetime | None, target: Path | None, child: Path | None, *, fresh: bool
) -> None:
    if point is not None and at is not None:
        raise click.UsageError("Give --point or --at, not both.")
    if child is not None and (target is not None or fresh):
        raise click.UsageError(
            "--child lends the disk where it stands: it goes with neither --copy nor --fresh."
        )


@hsr.command(
    epilog="""\b
Examples:
  rollforward hsr resume mail --volume D_VOL
  rollforward hsr resume mail --remove-child
"""
)
@_JOB
@click.option(
    "--volume",
    "volumes",
    multiple=True,
    metavar="NAME",
    help="Which of its disks; repeatable. Default: all lent.",
)
@click.option("--remove-child", is_flag=True, help="Remove the file that it was lent to.")
@state_option
@json_option("Print one JSON object a disk.")
def resume(job: str, volumes: tuple[str, ...], remove_child: bool, state: str | None, as_json: bool) -> None:
    """Take back disks of JOB that were lent by `finalize --child`, and roll them on.

    What they were lent to is worthless from then on. Refused while somebody has one of them open, and if somebody
    wrote to the disk itself.
    """
    from ops.headstart_errands import Errand, lent_disks

    with opened_desk(state) as desk:
        for disk in lent_disks(desk, job, volumes):
            Errand(desk, quiet=as_json).take_back(disk, removes_child=remove_child)


def _set_state(job: str, wanted: JobState, state: str | None, as_json: bool) -> None:
    from ops.cli_settings import tell
    from ops.headstart_keeping import HeadStartKeeping, named_job

    with opened_desk(state) as desk, desk.catalog.write() as session:
        changes = HeadStartKeeping(desk, session, person()).set_state(named_job(session, job), wanted)
    tell(changes, as_json)
