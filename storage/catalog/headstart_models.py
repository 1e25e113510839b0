"""Tables of HeadStart: where disks may lie, which jobs there are, how each of their disks stands, what was tested.

    Location 1──* HeadStartJob *──1 Folder
                       1──* HeadStartDisk *──1 Chain
    Folder 1──* PointTest

What stands here of a disk mirrors its cursor file, which lies beside it and is the truth. What stands of a job is kept
in its folder, too, so that a catalogue that is built anew knows it.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import JSON

from policies.headstart import DiskState
from policies.restore_tests import SATA, RestoreTesting, Rhythm, Verdict
from storage.catalog.memory_models import PackedPoint
from storage.catalog.models import Model, word_column


class LocationKind(StrEnum):
    """What a location is: a folder of this machine, or a share of another that is mounted here."""

    LOCAL = "local"
    SMB = "smb"


class JobState(StrEnum):
    """What a person said of a job: it goes on, or it rests."""

    ENABLED = "enabled"
    PAUSED = "paused"


class Location(Model):
    """A place for disks, defined once and used by jobs.

    Attributes:
        name: what people call it.
        kind: see `LocationKind`.
        path: absolute path of the folder, or of where the share is mounted.
        address: of a share, such as `//nas/disks`; empty for a local folder.
        credentials: what the share is opened with, as `Folder.credentials`; None for nothing.
    """

    __tablename__ = "location"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[LocationKind] = mapped_column(word_column(LocationKind))
    path: Mapped[str]
    address: Mapped[str] = mapped_column(default="")
    credentials: Mapped[str | None]


class HeadStartJob(Model):
    """A job that keeps disks rolled forward. After it was saved only its password, its state and its tests change.

    Attributes:
        uid: 32 hexadecimal digits, the same in its folder and in the cursor files of its disks.
        name: what people call it.
        folder_id: the folder whose images it applies.
        location_id: where its disks lie.
        subfolder: below the location; empty for the location itself.
        disk_kind: what its disks are, as `hsr.disks.form.DiskKind` names it.
        wrap: the partition table around a volume: none, mbr or gpt.
        lag_s: how long its disks stay behind, in seconds.
        state: see `JobState`.
        password: of the chain, sealed as `Folder.credentials`; None for a plain one.
        added_at: since when it is there (calendar).
        test_rhythm: how often its disks are tested.
        test_starts: whether the point is started, too.
        test_marker: words that say that it is up; None to wait for its screen to settle.
        test_bus: what its disk hangs on.
    """

    __tablename__ = "headstart_job"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - as SQLAlchemy wants it

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str] = mapped_column(unique=True)
    folder_id: Mapped[int] = mapped_column(ForeignKey("folder.id", ondelete="CASCADE"), index=True)
    location_id: Mapped[int] = mapped_column(ForeignKey("location.id"), index=True)
    subfolder: Mapped[str]
    disk_kind: Mapped[str]
    wrap: Mapped[str]
    lag_s: Mapped[int]
    state: Mapped[JobState] = mapped_column(word_column(JobState))
    password: Mapped[str | None]
    added_at: Mapped[datetime]
    test_rhythm: Mapped[Rhythm] = mapped_column(word_column(Rhythm), default=Rhythm.NEVER)
    test_starts: Mapped[bool] = mapped_column(default=False)
    test_marker: Mapped[str | None]
    test_bus: Mapped[str] = mapped_column(default=SATA)

    @property
    def testing(self) -> RestoreTesting:
        """How its disks are tested."""
        return RestoreTesting(self.test_rhythm, self.test_starts, self.test_marker, self.test_bus)


class HeadStartDisk(Model):
    """The disk of one volume of a job.

    Attributes:
        volume: name of the volume.
        base_number: number of the base that its chain begins with; None before an image of it was seen.
        chain_id: its chain; None while it is not catalogued.
        file_name: name of the disk's file; of a device, its lasting name, whole.
        state: how it stands.
        reason: why, in words; empty where the state says it all.
        cursor: the points that it may stand at, as `points.pack_point` writes them, oldest first; empty for none.
        target: the newest point that it can be brought to, likewise; what is claimed for it.
        newest: the newest point of its line, likewise.
        capacity_bytes: the largest volume that fits on it; None before it is begun.
        is_begun: whether it was begun: then it is never made anew because it is not there.
        done_bytes: how much of what is being applied is done.
        total_bytes: of how much.
        next_due_at: when something may be due for it (calendar).
        due_since: since when it should have stood at a later point (calendar); None if it stands where it should.
        held_by: who is at it by a command, as `holders.Holder` writes itself; the agent leaves it alone meanwhile.
        held_until: until when, unless that is renewed (machine).
        tried: what the last attempt was about, so that a way that changed is tried afresh.
        next_test_at: when a restore test may be due for it (calendar); None for never.
        test_problem: why what is due could not be tested; None if it could.
    """

    __tablename__ = "headstart_disk"
    __table_args__ = (UniqueConstraint("job_id", "volume"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("headstart_job.id", ondelete="CASCADE"))
    volume: Mapped[str]
    base_number: Mapped[int | None]
    chain_id: Mapped[int | None] = mapped_column(ForeignKey("chain.id", ondelete="SET NULL"), index=True)
    file_name: Mapped[str]
    state: Mapped[DiskState] = mapped_column(word_column(DiskState))
    reason: Mapped[str] = mapped_column(default="")
    cursor: Mapped[list[PackedPoint]] = mapped_column(JSON, default=list)
    target: Mapped[PackedPoint | None] = mapped_column(JSON(none_as_null=True))
    newest: Mapped[PackedPoint | None] = mapped_column(JSON(none_as_null=True))
    capacity_bytes: Mapped[int | None] = mapped_column(BigInteger)
    is_begun: Mapped[bool] = mapped_column(default=False)
    done_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    total_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    next_due_at: Mapped[datetime] = mapped_column(index=True)
    due_since: Mapped[datetime | None]
    held_by: Mapped[str | None]
    held_until: Mapped[datetime | None]
    tried: Mapped[str] = mapped_column(default="")
    next_test_at: Mapped[datetime | None] = mapped_column(index=True)
    test_problem: Mapped[str | None]


class PointTest(Model):
    """What the last restore test of a point, for a disk, has found.

    Attributes:
        job_uid: of the job that wanted it.
        volume: name of the volume.
        base_number: number of the base of its chain.
        point: identity of the point, hexadecimal.
        number: of the point.
        tested_at: when the test began (calendar).
        seconds: how long it took.
        verdict: what is thought of it.
        words: what was found, in words.
        screenshot: where the last screen lies; None if there is none.
        facts: all that was found, JSON values as `hsr.testing_restore.record` tells them; empty where only the ledger
            remembers the test.
    """

    __tablename__ = "point_test"
    __table_args__ = (
        UniqueConstraint("job_uid", "volume", "point"),
        Index("ix_point_test_folder_point", "folder_id", "point"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    folder_id: Mapped[int] = mapped_column(ForeignKey("folder.id", ondelete="CASCADE"))
    job_uid: Mapped[str]
    volume: Mapped[str]
    base_number: Mapped[int]
    point: Mapped[str]
    number: Mapped[int]
    tested_at: Mapped[datetime] = mapped_column(index=True)
    seconds: Mapped[float]
    verdict: Mapped[Verdict] = mapped_column(word_column(Verdict))
    words: Mapped[str]
    screenshot: Mapped[str | None]
    facts: Mapped[dict[str, object]] = mapped_column(JSON, default=dict)
