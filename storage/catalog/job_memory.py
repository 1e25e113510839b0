"""HeadStart jobs between the catalogue and the notes in their folders: written there, taken in again from there."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from policies.restore_tests import RestoreTesting, Rhythm
from storage.catalog.database import Catalog
from storage.catalog.headstart import disks_of_job, find_job, new_disk, reporter_name, set_testing
from storage.catalog.headstart_models import HeadStartJob, JobState, Location, LocationKind
from storage.catalog.ledger_lines import add_line
from storage.catalog.locations import find_location
from storage.catalog.memory_models import Reporter
from storage.catalog.models import Folder
from storage.job_notes import JobNote, LocationNote, read_job_notes
from storage.ledger_entries import ReporterEntry


def note_of(session: Session, job: HeadStartJob) -> JobNote:
    """Say all that was saved of a job."""
    location = session.get_one(Location, job.location_id)
    return JobNote(
        uid=job.uid,
        name=job.name,
        subfolder=job.subfolder,
        disk_kind=job.disk_kind,
        wrap=job.wrap,
        lag_s=job.lag_s,
        state=job.state.value,
        password=job.password,
        added_at=job.added_at.isoformat(),
        location=LocationNote(
            location.name, location.kind.value, location.path, location.address, location.credentials
        ),
        disks=tuple((disk.volume, disk.file_name) for disk in disks_of_job(session, job.id)),
        test_rhythm=job.test_rhythm.value,
        test_starts=job.test_starts,
        test_marker=job.test_marker,
        test_bus=job.test_bus,
    )


def take_in_jobs(catalog: Catalog, folder_id: int, *, now: datetime) -> list[str]:
    """Take in the jobs that a folder remembers and the catalogue does not know.

    A job that is taken in has not reported what it needs: it does once its cursor files were read.

    Args:
        catalog: the catalogue.
        folder_id: the folder; one that is no longer managed is passed over.
        now: calendar time.

    Returns:
        Their names.

    Raises:
        StorageError: the folder refuses.
        CatalogError: the catalogue cannot be used.

    Crash: some are taken in; the others the next time.
    """
    with catalog.read() as session:
        folder = session.get(Folder, folder_id)
    if folder is None:
        return []
    notes, _ = read_job_notes(Path(folder.path))
    taken: list[str] = []
    for note in notes:
        with catalog.write() as session:
            if session.get(Folder, folder_id) is None:
                return taken
            known = select(HeadStartJob.id).where(HeadStartJob.uid == note.uid)
            if session.scalar(known) is None and _take_in(session, folder_id, note, now):
                taken.append(note.name)
    return taken


def _take_in(session: Session, folder_id: int, note: JobNote, now: datetime) -> bool:
    try:
        added_at = datetime.fromisoformat(note.added_at)
        state, kind = JobState(note.state), LocationKind(note.location.kind)
        testing = RestoreTesting(Rhythm(note.test_rhythm), note.test_starts, note.test_marker, note.test_bus)
    except ValueError:
        return False
    name = _free_name(session, note)
    job = HeadStartJob(
        uid=note.uid,
        name=name,
        folder_id=folder_id,
        location_id=_location(session, note.location, kind).id,
        subfolder=note.subfolder,
        disk_kind=note.disk_kind,
        wrap=note.wrap,
        lag_s=note.lag_s,
        state=state,
        password=note.password,
        added_at=added_at if added_at.tzinfo is not None else now,
    )
    set_testing(job, testing)
    session.add(job)
    session.flush()
    for volume, file_name in note.disks:
        disk = new_disk(job, volume, file_name)
        disk.is_begun = True  # perhaps; one that is not there is not made without being asked
        session.add(disk)
    if session.get(Reporter, (folder_id, reporter_name(job))) is None:
        session.add(Reporter(folder_id=folder_id, name=reporter_name(job), since=now, reported_at=None))
        add_line(session, folder_id, ReporterEntry(reporter_name(job), now))
    session.flush()
    return True


def _free_name(session: Session, note: JobNote) -> str:
    return note.name if find_job(session, note.name) is None else f"{note.name} {note.uid[:8]}"


def _location(session: Session, note: LocationNote, kind: LocationKind) -> Location:
    """Find the location of a job that is taken in; another one of its name stays, and this one gets another."""
    name, number = note.name, 1
    while (known := find_location(session, name)) is not None:
        if (known.path, known.address) == (note.path, note.address):
            return known
        number += 1
        name = f"{note.name} {number}"
    made = Location(name=name, kind=kind, path=note.path, address=note.address, credentials=note.credentials)
    session.add(made)
    session.flush()
    return made
