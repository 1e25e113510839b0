"""A household with HeadStart jobs: disks in memory or on a medium, compared byte for byte with what was captured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select

from hsr.rolling.disk import RollingDisk, read_standing
from ops.job_notes import forget_notes, keep_notes
from policies.cursor import Cursor
from policies.points import Point
from policies.restore_tests import NO_TESTING, RestoreTesting
from storage.capture import capture
from storage.catalog.folders import all_folders
from storage.catalog.headstart import JobTraits, add_job, all_jobs, jobs_with_disks, make_job_due, remove_job
from storage.catalog.headstart_models import HeadStartDisk, HeadStartJob, JobState, Location, LocationKind
from tests.household import VOLUME, Household, Source
from tests.unit.tiny import Password

SMALL_BYTES = 1 << 20


@dataclass
class StandBy:
    """A household, a volume that is captured into its folder, and a job that rolls a disk of it forward."""

    place: Path
    home: Household
    volume_bytes: int = SMALL_BYTES
    truth: dict[int, bytes] = field(default_factory=dict)
    passwords: Password | None = None

    def __post_init__(self) -> None:
        self.source = Source(self.place / "volume.raw", self.volume_bytes)
        self.disks = self.place / "disks"
        self.disks.mkdir()

    def capture(self) -> Path:
        """Capture the volume as it is after some change; remember what it held."""
        self.source.change()
        made = capture(
            self.source.path,
            self.home.folder,
            VOLUME,
            now=self.home.now,
            encrypt=self.passwords is not None,
            passwords=self.passwords,
        ).path
        self.truth[len(self.truth)] = self.source.path.read_bytes()
        return made

    def add_job(
        self,
        lag: timedelta = timedelta(0),
        *,
        kind: str = "vhd",
        name: str = "stand-by",
        testing: RestoreTesting = NO_TESTING,
    ) -> None:
        with self.home.catalog.write() as session:
            location = session.scalar(select(Location))
            if location is None:
                location = Location(name="here", kind=LocationKind.LOCAL, path=str(self.disks), address="")
                session.add(location)
                session.flush()
            folder = all_folders(session)[0]
            traits = JobTraits(name, "", kind, "none", round(lag.total_seconds()), testing=testing)
            job = add_job(session, folder, location, traits, [(VOLUME, f"{name}.{kind}")], now=self.home.now)
            keep_notes(session, job)

    def set_state(self, state: JobState) -> None:
        with self.home.catalog.write() as session:
            for job in session.scalars(select(HeadStartJob)):
                job.state = state
                make_job_due(session, job.id)

    def forget_job(self) -> None:
        """Delete its job, as `rollforward hsr delete` does; the disk's file is moved away."""
        path = self.path()
        path.rename(path.with_name(f"used-{path.name}"))
        with self.home.catalog.write() as session:
            for job in all_jobs(session):
                forget_notes(session, job)
                remove_job(session, job, now=self.home.now)

    def row(self) -> HeadStartDisk:
        with self.home.catalog.read() as session:
            return jobs_with_disks(session)[0][1]

    def path(self) -> Path:
        return self.disks / self.row().file_name

    def cursor(self) -> Cursor:
        standing = read_standing(self.path())
        return Cursor.blank() if standing is None else standing.cursor

    def stands_at(self) -> Point:
        """Give the point at which the disk stands, which has to be one."""
        cursor = self.cursor()
        assert cursor.is_closed
        return cursor.points[0]

    def content(self) -> bytes:
        with RollingDisk.open(self.path()) as disk:
            return disk.read(0, self.volume_bytes)

    def source_name(self, number: int) -> str:
        return f"{VOLUME}-b001-i{number:03d}.spi"

    def is_exact(self) -> bool:
        """Tell whether the disk holds what the volume held at the point where the disk stands."""
        point = self.stands_at()
        return _digest(self.content()) == _digest(self.truth[point.number])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
