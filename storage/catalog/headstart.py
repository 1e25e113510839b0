"""HeadStart jobs and their disks in the catalogue: which there are, what is due for them, what they need."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from policies.cursor import Cursor
from policies.headstart import DiskState
from policies.points import Point
from policies.restore_tests import NO_TESTING, RestoreTesting, Rhythm
from storage.catalog.chains import AT_ONCE, lock_chain
from storage.catalog.claims import release_claim
from storage.catalog.headstart_models import HeadStartDisk, HeadStartJob, JobState, Location
from storage.catalog.leases import is_alive
from storage.catalog.memory_models import StoredClaim
from storage.catalog.models import Chain, Folder, Image, ImageState
from storage.catalog.points import pack_point, unpack_point
from storage.catalog.reporters import add_reporter, remove_reporter


@dataclass(frozen=True, slots=True)
class JobTraits:
    """What is saved of a job, once for all but its password and its state.

    Attributes:
        name: what people call it.
        subfolder: below the location; empty for the location itself.
        disk_kind: as `hsr.disks.form.DiskKind` names it.
        wrap: none, mbr or gpt.
        lag_s: how long its disks stay behind, in seconds.
        password: of the chain, sealed; None for a plain one.
        uid: 32 hexadecimal digits; drawn, if empty.
        state: whether it goes on.
        testing: how its disks are tested.
    """

    name: str
    subfolder: str
    disk_kind: str
    wrap: str
    lag_s: int
    password: str | None = None
    uid: str = ""
    state: JobState = JobState.ENABLED
    testing: RestoreTesting = NO_TESTING


def add_job(
    session: Session,
    folder: Folder,
    location: Location,
    traits: JobTraits,
    volumes: Sequence[tuple[str, str]],
    *,
    now: datetime,
    added_at: datetime | None = None,
) -> HeadStartJob:
    """Keep disks of some volumes rolled forward from now on; they are due at once.

    Args:
        session: of a write transaction.
        folder: whose images are applied.
        location: where the disks lie.
        traits: what is saved of the job; no other job has its name.
        volumes: the volumes, each with the name of its disk's file.
        now: calendar time.
        added_at: since when it is there, if that was before.
    """
    job = HeadStartJob(
        uid=traits.uid or secrets.token_hex(16),
        name=traits.name,
        folder_id=folder.id,
        location_id=location.id,
        subfolder=traits.subfolder,
        disk_kind=traits.disk_kind,
        wrap=traits.wrap,
        lag_s=traits.lag_s,
        state=traits.state,
        password=traits.password,
        added_at=added_at or now,
    )
    set_testing(job, traits.testing)
    session.add(job)
    session.flush()
    for volume, file_name in volumes:
        session.add(new_disk(job, volume, file_name))
    session.flush()
    add_reporter(session, folder.id, reporter_name(job), now=now)
    return job


def new_disk(job: HeadStartJob, volume: str, file_name: str) -> HeadStartDisk:
    """Return the row of a disk of which nothing is known."""
    return HeadStartDisk(
        job_id=job.id,
        volume=volume,
        file_name=file_name,
        state=DiskState.EMPTY,
        reason="",
        cursor=[],
        is_begun=False,
        done_bytes=0,
        total_bytes=0,
        next_due_at=AT_ONCE,
        tried="",
        next_test_at=None if job.test_rhythm is Rhythm.NEVER else AT_ONCE,
    )


def set_testing(job: HeadStartJob, testing: RestoreTesting) -> None:
    """Say how the disks of a job are tested; those that are there are to be looked at (`make_job_due`)."""
    job.test_rhythm, job.test_starts = testing.rhythm, testing.starts
    job.test_marker, job.test_bus = testing.marker, testing.bus


def all_jobs(session: Session) -> list[HeadStartJob]:
    """Return the jobs, by name."""
    return list(session.scalars(select(HeadStartJob).order_by(HeadStartJob.name)))


def find_job(session: Session, name: str) -> HeadStartJob | None:
    """Return the job of a name; None if there is none."""
    return session.scalar(select(HeadStartJob).where(HeadStartJob.name == name))


def jobs_of_folder(session: Session, folder_id: int) -> list[HeadStartJob]:
    """Return the jobs that apply images of a folder, by name."""
    query = select(HeadStartJob).where(HeadStartJob.folder_id == folder_id)
    return list(session.scalars(query.order_by(HeadStartJob.name)))


def disks_of_job(session: Session, job_id: int) -> list[HeadStartDisk]:
    """Return the disks of a job, by volume."""
    query = select(HeadStartDisk).where(HeadStartDisk.job_id == job_id)
    return list(session.scalars(query.order_by(HeadStartDisk.volume)))


def disks_due(session: Session, now: datetime, *, limit: int = 5_000) -> list[int]:
    """Return which disks may have something due, the longest due first; reads no other.

    Args:
        session: any session.
        now: calendar time.
        limit: at most so many.
    """
    due = (HeadStartDisk.next_due_at <= now, HeadStartDisk.state != DiskState.FINALIZED)
    query = select(HeadStartDisk.id).where(*due)
    return list(session.scalars(query.order_by(HeadStartDisk.next_due_at, HeadStartDisk.id).limit(limit)))


def make_job_due(session: Session, job_id: int) -> None:
    """Have all disks of a job looked at, whatever the clock."""
    mine = HeadStartDisk.job_id == job_id
    session.execute(update(HeadStartDisk).where(mine).values(next_due_at=AT_ONCE, next_test_at=AT_ONCE))


def chain_of_disk(session: Session, job: HeadStartJob, disk: HeadStartDisk) -> Chain | None:
    """Return the chain of a disk: that which it stands on, or, of one that is not begun, the newest.

    Args:
        session: any session.
        job: its job.
        disk: the disk.

    Returns:
        The chain; None while none of its volume, with a base, is catalogued.
    """
    if disk.chain_id is not None:
        return session.get(Chain, disk.chain_id)
    if disk.is_begun and disk.base_number is not None:
        found = _chains_with_base(session, job.folder_id, disk.volume)
        return next((chain for chain in found if chain.base_number == disk.base_number), None)
    return newest_chain(session, job, disk)


def newest_chain(session: Session, job: HeadStartJob, disk: HeadStartDisk) -> Chain | None:
    """Return the chain that a disk is built of which is begun anew; None while no verified base is there."""
    found = _chains_with_base(session, job.folder_id, disk.volume)
    return found[-1] if found else None


def later_base(session: Session, job: HeadStartJob, disk: HeadStartDisk) -> int | None:
    """Return the number of the newest base of a volume, if it began after the chain that its disk stands on."""
    found = _chains_with_base(session, job.folder_id, disk.volume)
    newest = found[-1].base_number if found else None
    is_later = newest is not None and disk.base_number is not None and newest > disk.base_number
    return newest if is_later else None


def _chains_with_base(session: Session, folder_id: int, volume: str) -> list[Chain]:
    bases = select(Image.chain_id).where(
        Image.folder_id == folder_id, Image.state == ImageState.GOOD, Image.name.like("%.spf")
    )
    query = select(Chain).where(Chain.folder_id == folder_id, Chain.volume == volume, Chain.id.in_(bases))
    return list(session.scalars(query.order_by(Chain.base_number, Chain.id)))


def release_disk(session: Session, job: HeadStartJob, disk: HeadStartDisk, *, now: datetime) -> None:
    """Give up what a disk needs.

    Args:
        session: of a write transaction.
        job: its job.
        disk: the disk.
        now: calendar time.
    """
    keys = (claim_key(job, disk), build_key(job, disk), work_key(job, disk), key_of_test(job, disk))
    query = select(StoredClaim.chain_id, StoredClaim.key).where(StoredClaim.key.in_(keys))
    for chain_id, key in list(session.execute(query)):
        release_claim(session, chain_id, key, now=now)


def remove_job(session: Session, job: HeadStartJob, *, now: datetime) -> None:
    """Forget a job and all that its disks need; the disks' files stay.

    Args:
        session: of a write transaction.
        job: the job.
        now: calendar time.
    """
    for disk in disks_of_job(session, job.id):
        release_disk(session, job, disk, now=now)
    remove_reporter(session, job.folder_id, reporter_name(job), now=now)
    session.delete(job)
    session.flush()


def lock_disk(session: Session, disk_id: int) -> HeadStartDisk | None:
    """Lock a disk's row, after its chain's, and read it anew.

    Args:
        session: of a write transaction.
        disk_id: the disk.

    Returns:
        Its row; None if it is no longer catalogued.
    """
    chain_id = session.scalar(select(HeadStartDisk.chain_id).where(HeadStartDisk.id == disk_id))
    if chain_id is not None:
        lock_chain(session, chain_id)
    query = select(HeadStartDisk).where(HeadStartDisk.id == disk_id).with_for_update()
    return session.scalar(query.execution_options(populate_existing=True))


def cursor_of(disk: HeadStartDisk) -> Cursor:
    """Return where a disk stands, as the catalogue mirrors it."""
    return Cursor(tuple(unpack_point(packed) for packed in disk.cursor))


def set_cursor(disk: HeadStartDisk, cursor: Cursor) -> None:
    """Mirror where a disk stands."""
    packed = [pack_point(point) for point in cursor.points]
    if disk.cursor != packed:
        disk.cursor = packed


def packed_or_none(point: Point | None) -> dict[str, str | int] | None:
    """Return a point as the catalogue keeps it; None for none."""
    return None if point is None else pack_point(point)


def claim_key(job: HeadStartJob, disk: HeadStartDisk) -> str:
    """Name the lasting need of a disk."""
    return f"hsr:{job.uid}:{disk.volume}"


def work_key(job: HeadStartJob, disk: HeadStartDisk) -> str:
    """Name the need of the work that is done on a disk now."""
    return f"hsr-work:{job.uid}:{disk.volume}"


def build_key(job: HeadStartJob, disk: HeadStartDisk) -> str:
    """Name the need of a first build: that its point stays within reach."""
    return f"hsr-build:{job.uid}:{disk.volume}"


def key_of_test(job: HeadStartJob, disk: HeadStartDisk) -> str:
    """Name the need of a restore test: the images that it reads."""
    return f"hsr-test:{job.uid}:{disk.volume}"


def all_have_claimed(session: Session, job: HeadStartJob) -> bool:
    """Tell whether all is claimed that the disks of a job need: each that was begun, and is not finalized."""
    session.flush()
    begun = [
        one for one in disks_of_job(session, job.id) if one.is_begun and one.state is not DiskState.FINALIZED
    ]
    keys = {claim_key(job, disk) for disk in begun}
    return keys <= set(session.scalars(select(StoredClaim.key).where(StoredClaim.key.in_(keys))))


def reporter_name(job: HeadStartJob) -> str:
    """Name a job as the ledger of its folder does."""
    return f"headstart:{job.name}"


def needed_by(job: HeadStartJob, disk: HeadStartDisk) -> str:
    """Say whose need it is."""
    return f"the HeadStart job {job.name!r} (volume {disk.volume})"


def is_held(disk: HeadStartDisk, machine_now: datetime) -> bool:
    """Tell whether a command is at a disk."""
    return disk.held_by is not None and is_alive(disk.held_by, disk.held_until, machine_now)


def jobs_with_disks(session: Session) -> list[tuple[HeadStartJob, HeadStartDisk, Location, Folder]]:
    """Return all disks with their jobs, locations and folders, by job and volume."""
    query = (
        select(HeadStartJob, HeadStartDisk, Location, Folder)
        .join(HeadStartDisk, HeadStartDisk.job_id == HeadStartJob.id)
        .join(Location, Location.id == HeadStartJob.location_id)
        .join(Folder, Folder.id == HeadStartJob.folder_id)
        .order_by(HeadStartJob.name, HeadStartDisk.volume)
    )
    return [(job, disk, location, folder) for job, disk, location, folder in session.execute(query)]
