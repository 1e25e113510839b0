"""Tables of the catalogue.

    Folder 1──* Chain 1──* Image          Event: what was done and why, in order
       └────────────────* Image           Attempt: work under way or in trouble
                 Chain 1──1 Lease         Meta: version of this layout

Two kinds of time are kept apart. *Calendar* columns follow the clock that policies are asked with; in a
trial it may run fast or be moved by hand. *Machine* columns follow the real clock and say only whether
something is alive, stands still or should be looked at again. All are UTC.

Everything here is found again by scanning the folders; the folders' paths themselves come from the settings.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import BigInteger, DateTime, Enum, ForeignKey, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import JSON, TypeDecorator

SCHEMA_VERSION: Final = 1
"""Version of this layout; a catalogue of another version is thrown away and rebuilt."""


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
    being read. GOOD: read back whole and found good. BAD: judged, with a reason. MISSING: catalogued, but
    gone.
    """

    SETTLING = "settling"
    LANDED = "landed"
    VERIFYING = "verifying"
    GOOD = "good"
    BAD = "bad"
    MISSING = "missing"


class WorkKind(StrEnum):
    """Kinds of work that are recorded before they start."""

    VERIFY = "verify"
    CONSOLIDATE = "consolidate"


def _word(kind: type[StrEnum]) -> Enum:
    """Return the column type of a word out of a few, stored as that word."""
    return Enum(
        kind, native_enum=False, length=24, values_callable=lambda words: [word.value for word in words]
    )


class Model(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {datetime: UtcDateTime, bytes: LargeBinary}  # noqa: RUF012 - SQLAlchemy's own form


class Meta(Model):
    """One row: the version of the layout."""

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
    """

    __tablename__ = "folder"

    id: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str] = mapped_column(String, unique=True)
    time_zone: Mapped[str]
    added_at: Mapped[datetime]
    rescan_at: Mapped[datetime] = mapped_column(index=True)
    problem: Mapped[str | None]


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
        verified_at: when it was last read back and found good (calendar).
        hinted_at: when a worker was last told to verify it (machine).
        root: 32 bytes, identity of the image; None while unknown.
        start: the from point as `points.pack_point` writes it; None for a base or an unread header.
        covers: covered points likewise, oldest first; empty for an unread header.
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
    state: Mapped[ImageState] = mapped_column(_word(ImageState))
    reason: Mapped[str | None]
    stored_bytes: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    still_since: Mapped[datetime]
    first_seen_at: Mapped[datetime]
    verified_at: Mapped[datetime | None]
    hinted_at: Mapped[datetime | None]
    root: Mapped[bytes | None]
    start: Mapped[dict[str, str | int] | None] = mapped_column(JSON(none_as_null=True))
    covers: Mapped[list[dict[str, str | int]]] = mapped_column(JSON)


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
    """

    __tablename__ = "attempt"
    __table_args__ = (UniqueConstraint("kind", "subject", "engine_version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[WorkKind] = mapped_column(_word(WorkKind))
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


class EventKind(StrEnum):
    """Kinds of entries in the event log."""

    FOLDER_ADDED = "folder_added"
    FOLDER_LOST = "folder_lost"
    FOLDER_BACK = "folder_back"
    LANDED = "landed"
    CHANGED = "changed"
    MISSING = "missing"
    VERIFIED = "verified"
    FOUND_BAD = "found_bad"
    CONSOLIDATED = "consolidated"
    WAITING = "waiting"
    FAILED = "failed"
    QUARANTINED = "quarantined"


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

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(index=True)
    recorded_at: Mapped[datetime]
    kind: Mapped[EventKind] = mapped_column(_word(EventKind))
    folder_id: Mapped[int | None]
    chain_id: Mapped[int | None]
    subject: Mapped[str]
    text: Mapped[str]
    facts: Mapped[dict[str, str | int | float | None]] = mapped_column(JSON)
