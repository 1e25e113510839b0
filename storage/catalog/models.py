"""Tables of the catalogue: what lies in folders, and the work on it; `memory_models` declares the others.

    Folder 1──* Chain 1──* Image          Event: what was done and why, in order
       └────────────────* Image           DaySummary: what is left of old events
                 Chain 1──1 Lease         Attempt: work under way or in trouble
    Folder 1──* FolderTally

Two kinds of time are kept apart. *Calendar* columns follow the clock that policies are asked with; in a
trial it may run fast or be moved by hand. *Machine* columns follow the real clock and say only whether
something is alive, stands still or should be looked at again. All are UTC.

All of it is found again in the folders: images by scanning them, the rest in their ledgers. What a folder is told to
do, and which folders there are, stands here alone, or in the file that settings are exported to.

Layouts follow each other as `migrations` says, forward only.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import BigInteger, DateTime, Enum, ForeignKey, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import JSON, TypeDecorator

from policies.names import Tier
from policies.setting_field import SettingValue

Layer = dict[str, dict[str, SettingValue]]
"""Settings of one layer as `policies.folder_policy` reads and writes them: sections of plain values."""

SCHEMA_REVISION: Final = "0007"
"""The layout that these tables have: the last of `migrations`."""


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware datetime, stored in UTC (without its offset where the database has no such type)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn an aware datetime into the database's form; a naive one is a mistake."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("the catalogue takes timezone-aware datetimes only")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back an aware datetime in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class ImageState(StrEnum):
    """What is known of an image file.

    SETTLING: it may still be written to. LANDED: complete, or standing still; not verified yet. VERIFYING:
    being read. GOOD: read back whole and found good. BAD: judged, with a reason. UNPROVEN: foreign, and no side
    file speaks of all of it. MISSING: catalogued, but gone. ASIDE: retired, or about to be: a tombstone says more,
    and nothing may rest on it.
    """

    SETTLING = "settling"
    LANDED = "landed"
    VERIFYING = "verifying"
    GOOD = "good"
    BAD = "bad"
    UNPROVEN = "unproven"
    MISSING = "missing"
    ASIDE = "aside"


class WorkKind(StrEnum):
    """Kinds of work that are recorded before they start."""

    VERIFY = "verify"
    CONSOLIDATE = "consolidate"
    RETIRE = "retire"
    DELETE = "delete"
    NOTIFY = "notify"
    HEADSTART = "headstart"
    RESTORE_TEST = "restore_test"


def word_column(kind: type[StrEnum]) -> Enum:
    """Return the column type of a word out of a few, stored as that word."""
    return Enum(
        kind, native_enum=False, length=24, values_callable=lambda words: [word.value for word in words]
    )


class Model(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {datetime: UtcDateTime, bytes: LargeBinary}  # noqa: RUF012 - SQLAlchemy's own form


class Meta(Model):
    """One row that keeps software of the first layout away; `alembic_version` says which layout it is."""

    __tablename__ = "meta"

    id: Mapped[int] = mapped_column(primary_key=True)
    schema_version: Mapped[int]


class Folder(Model):
    """A managed folder.

    Attributes:
        path: absolute path.
        time_zone: IANA name; days, weeks and months follow it.
        added_at: since when it is managed (calendar).
        rescan_at: when it is to be scanned again without an event (machine).
        problem: why it cannot be read at present; None when it can.
        problem_since: since when (calendar); None when it can.
        ledger_problem: why its ledger cannot be read or written; None when it can. Nothing is removed meanwhile.
        ledger_read_at: when its ledger was taken into this catalogue (calendar); None before: nothing is done then.
        description: a person's words on it.
        sort_priority: folders with a smaller number, 0 to 255, are shown, and worked on, first; None comes last.
        credentials: user, and sealed password, as `credentials.CredentialSeal` writes them; None for the agent's.
        settings: what is set for it, over what is set for the agent.
        newest_image_at: when an image last landed in it (calendar); None if none ever did.
        settings_revision: counts changes of its settings.
    """

    __tablename__ = "folder"

    id: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str] = mapped_column(String, unique=True)
    time_zone: Mapped[str]
    added_at: Mapped[datetime]
    rescan_at: Mapped[datetime] = mapped_column(index=True)
    problem: Mapped[str | None]
    problem_since: Mapped[datetime | None]
    ledger_problem: Mapped[str | None]
    ledger_read_at: Mapped[datetime | None]
    description: Mapped[str] = mapped_column(default="")
    sort_priority: Mapped[int | None]
    credentials: Mapped[str | None]
    settings: Mapped[Layer] = mapped_column(JSON, default=dict)
    newest_image_at: Mapped[datetime | None]
    settings_revision: Mapped[int] = mapped_column(default=0)


class Chain(Model):
    """A chain of images in a folder: a base, or what is left of one, and what goes on from it.

    Attributes:
        chain_uid: 16 bytes from the images' headers.
        volume: volume name, from file names.
        base_number: number of the base in file names.
        next_due_at: when something may be due for the chain (calendar).
        waits_for: in words, why what is due cannot be done yet; None if nothing holds it up.
        revision: counts what happened to the chain, so that a plan knows whether it is out of date.
        fence: counts its leases; work begun under an older one cannot be recorded.
        started_at: when a person had the daily work started, which is not done yet (calendar); None otherwise.
    """

    __tablename__ = "chain"
    __table_args__ = (UniqueConstraint("folder_id", "chain_uid", "volume", "base_number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    folder_id: Mapped[int] = mapped_column(ForeignKey("folder.id", ondelete="CASCADE"))
    chain_uid: Mapped[bytes]
    volume: Mapped[str]
    base_number: Mapped[int]
    next_due_at: Mapped[datetime] = mapped_column(index=True)
    waits_for: Mapped[str | None]
    revision: Mapped[int] = mapped_column(default=0)
    fence: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime | None]


class Image(Model):
    """An image file in a managed folder.

    Attributes:
        chain_id: its chain; None while its header cannot be read.
        name: file name, unique in the folder.
        state: see `ImageState`.
        reason: why it is bad, or what is waited for; None if nothing is to be said.
        stored_bytes: size when last seen.
        mtime_ns: modification time when last seen, nanoseconds since 1970; of a spanned set, a number made of all.
        still_since: since when size and modification time have been seen unchanged (machine).
        first_seen_at: when it was first noticed (calendar).
        verified_at: when it was first read back and found good since it landed (calendar).
        checked_at: when it last was (calendar).
        asked_at: when a plan asked for it to be read back (calendar); None if nobody asks.
        gone_since: since when it has been missing (calendar); None while it is there.
        hinted_at: when a worker was last told to verify it (machine).
        root: 32 bytes, identity of the image; None while unknown.
        start: the from point as `points.pack_point` writes it; None for a base or an unread header.
        covers: covered points likewise, oldest first; empty for an unread header.
        tier: what it was rolled up as, by its name.
        assumed: whether only its name says where it leads, because its container cannot be read.
        plain_bytes: how many bytes of the volume it holds, before compression; None if unknown.
    """

    __tablename__ = "image"
    __table_args__ = (
        UniqueConstraint("folder_id", "name"),
        Index("ix_image_folder_state", "folder_id", "state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    folder_id: Mapped[int] = mapped_column(ForeignKey("folder.id", ondelete="CASCADE"))
    chain_id: Mapped[int | None] = mapped_column(ForeignKey("chain.id", ondelete="SET NULL"), index=True)
    name: Mapped[str]
    state: Mapped[ImageState] = mapped_column(word_column(ImageState))
    reason: Mapped[str | None]
    stored_bytes: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    still_since: Mapped[datetime]
    first_seen_at: Mapped[datetime]
    verified_at: Mapped[datetime | None]
    checked_at: Mapped[datetime | None]
    asked_at: Mapped[datetime | None]
    gone_since: Mapped[datetime | None]
    hinted_at: Mapped[datetime | None]
    root: Mapped[bytes | None]
    start: Mapped[dict[str, str | int] | None] = mapped_column(JSON(none_as_null=True))
    covers: Mapped[list[dict[str, str | int]]] = mapped_column(JSON)
    tier: Mapped[Tier] = mapped_column(word_column(Tier), default=Tier.INCREMENTAL)
    assumed: Mapped[bool] = mapped_column(default=False)
    plain_bytes: Mapped[int | None] = mapped_column(BigInteger)


class FolderTally(Model):
    """How many images of a kind a folder has; the database itself keeps it in step with them.

    Attributes:
        state: of the images.
        tier: of the images.
        images: how many there are.
        stored_bytes: their sizes together.
    """

    __tablename__ = "folder_tally"

    folder_id: Mapped[int] = mapped_column(ForeignKey("folder.id", ondelete="CASCADE"), primary_key=True)
    state: Mapped[ImageState] = mapped_column(word_column(ImageState), primary_key=True)
    tier: Mapped[Tier] = mapped_column(word_column(Tier), primary_key=True)
    images: Mapped[int] = mapped_column(BigInteger)
    stored_bytes: Mapped[int] = mapped_column(BigInteger)


class Lease(Model):
    """The right to change a chain, held by one worker at a time.

    Attributes:
        holder: who holds it, as `holders.Holder` writes itself.
        fence: the chain's fence at the time it was taken.
        expires_at: when it ends unless it is renewed (machine).
    """

    __tablename__ = "lease"

    chain_id: Mapped[int] = mapped_column(ForeignKey("chain.id", ondelete="CASCADE"), primary_key=True)
    holder: Mapped[str] = mapped_column(index=True)
    fence: Mapped[int]
    expires_at: Mapped[datetime]


class Attempt(Model):
    """Work that is under way, or that went wrong. Work that went well leaves no row.

    Attributes:
        kind: kind of work.
        subject: what is worked on, so that a changed file is new work.
        engine_version: a later version may succeed where this one failed.
        holder: who works on it now; None when nobody does.
        expires_at: when the holder counts as gone unless it renews (machine).
        failures: attempts that ended with an error.
        crashes: attempts whose holder was gone before they ended.
        reason: how the last one went wrong.
        retry_at: not before then (calendar).
        quarantined: not tried again by itself.
        dropped_by: who said that it is not to be done; None if nobody did. It stays so, whatever the version.
        folder_id: the folder that it is about; None if it is about none.
        title: the subject in words, for people.
    """

    __tablename__ = "attempt"
    __table_args__ = (UniqueConstraint("kind", "subject", "engine_version"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[WorkKind] = mapped_column(word_column(WorkKind))
    subject: Mapped[str]
    engine_version: Mapped[str]
    holder: Mapped[str | None] = mapped_column(index=True)
    expires_at: Mapped[datetime | None]
    started_at: Mapped[datetime]
    failures: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str | None]
    retry_at: Mapped[datetime | None]
    quarantined: Mapped[bool] = mapped_column(default=False)
    dropped_by: Mapped[str | None]
    folder_id: Mapped[int | None]
    title: Mapped[str] = mapped_column(default="")


class EventKind(StrEnum):
    """Kinds of entries in the event log."""

    FOLDER_ADDED = "folder_added"
    FOLDER_LOST = "folder_lost"
    FOLDER_BACK = "folder_back"
    LANDED = "landed"
    CHANGED = "changed"
    MISSING = "missing"
    VERIFIED = "verified"
    VERIFIED_AGAIN = "verified_again"
    FOUND_BAD = "found_bad"
    UNPROVEN = "unproven"
    CONSOLIDATED = "consolidated"
    WAITING = "waiting"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    RETIRING = "retiring"
    RETIRED = "retired"
    DELETED = "deleted"
    BROUGHT_BACK = "brought_back"
    CAME_BACK = "came_back"
    HELD = "held"
    RELEASED = "released"
    FROZEN = "frozen"
    UNFROZEN = "unfrozen"
    SETTINGS_CHANGED = "settings_changed"
    FOLDER_REMOVED = "folder_removed"
    RETRIED = "retried"
    DROPPED = "dropped"
    OWNERSHIP = "ownership"
    REBUILT = "rebuilt"
    NOTICE = "notice"
    STARTED = "started"
    ROLLED_ON = "rolled_on"
    FINALIZED = "finalized"
    LENT = "lent"
    TAKEN_BACK = "taken_back"
    DISK_STOPPED = "disk_stopped"
    RESTORE_TESTED = "restore_tested"
    RESTORE_TEST_BAD = "restore_test_bad"


class Event(Model):
    """One thing that happened: the one history of what was done and why.

    Attributes:
        at: when (calendar).
        recorded_at: when it was written (machine).
        subject: file name or path that it is about.
        text: what happened, in words.
        facts: further fields, JSON values.
    """

    __tablename__ = "event"
    __table_args__ = (Index("ix_event_folder_subject", "folder_id", "subject"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(index=True)
    recorded_at: Mapped[datetime]
    kind: Mapped[EventKind] = mapped_column(word_column(EventKind))
    folder_id: Mapped[int | None]
    chain_id: Mapped[int | None]
    subject: Mapped[str]
    text: Mapped[str]
    facts: Mapped[dict[str, str | int | float | None]] = mapped_column(JSON)


class DaySummary(Model):
    """How often a kind of thing happened on a day: what is left of events that were pruned.

    Attributes:
        day: the day, in UTC.
        folder_id: the folder; 0 for none.
        kind: what happened.
        events: how often.
        stored_bytes: sizes of the images that it happened to, together.
    """

    __tablename__ = "day_summary"

    day: Mapped[date] = mapped_column(primary_key=True)
    folder_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[EventKind] = mapped_column(word_column(EventKind), primary_key=True)
    events: Mapped[int]
    stored_bytes: Mapped[int] = mapped_column(BigInteger)
