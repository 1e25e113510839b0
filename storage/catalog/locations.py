"""Locations in the catalogue: defined once, used by jobs."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from policies.errors import ConfigurationError
from storage.catalog.chains import AT_ONCE
from storage.catalog.headstart_models import HeadStartDisk, HeadStartJob, Location


def all_locations(session: Session) -> list[Location]:
    """Return the locations, by name."""
    return list(session.scalars(select(Location).order_by(Location.name)))


def find_location(session: Session, name: str) -> Location | None:
    """Return the location of a name; None if there is none."""
    return session.scalar(select(Location).where(Location.name == name))


def jobs_at(session: Session, location_id: int) -> list[HeadStartJob]:
    """Return the jobs whose disks lie at a location, by name."""
    query = select(HeadStartJob).where(HeadStartJob.location_id == location_id)
    return list(session.scalars(query.order_by(HeadStartJob.name)))


def location_changed(session: Session, location_id: int) -> None:
    """Have all disks of a location looked at, because it was changed."""
    for job in jobs_at(session, location_id):
        for disk in session.scalars(select(HeadStartDisk).where(HeadStartDisk.job_id == job.id)):
            disk.next_due_at = AT_ONCE


def remove_location(session: Session, location: Location) -> None:
    """Forget a location; what lies there stays.

    Args:
        session: of a write transaction.
        location: the location.

    Raises:
        ConfigurationError: jobs use it; the message names them.
    """
    users = jobs_at(session, location.id)
    if users:
        named = ", ".join(repr(job.name) for job in users)
        raise ConfigurationError(
            f"location {location.name!r} is used by {'job' if len(users) == 1 else 'jobs'} {named}",
            hint="Delete these first: rollforward hsr delete.",
        )
    session.delete(location)


def disk_path(location: Location, job: HeadStartJob, disk: HeadStartDisk) -> Path:
    """Return where the file of a disk is, or is to be; of a device, which has a whole path for a name, the device."""
    return Path(location.path) / job.subfolder / disk.file_name
