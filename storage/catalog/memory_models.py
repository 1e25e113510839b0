"""Tables of what the agent remembers: who it is, what people and work need, what was removed, what went wrong.

    Agent: one row                        Folder 1──* StoredHold, Tombstone, Sight, Reporter, LedgerLine
    Notice: a trouble, told once          Chain 1──* StoredClaim
    StoredFreeze, Waiver: of a folder, of a chain, or of all

What files cannot tell stands in each folder's ledger too: every change of it leaves a `LedgerLine`, in the same
transaction, that waits to be written there.
"""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import JSON

from policies.freezing import FreezeKind
from policies.names import Tier
from policies.notices import TroubleKind
from storage.catalog.models import Layer, Model, word_column

PackedPoint = dict[str, str | int]
"""A point as `points.pack_point` writes it."""


class Agent(Model):
    """One row: whose catalogue this is, and what the agent is told to do.

    Attributes:
        uid: 32 hexadecimal digits, drawn once; the ledgers of its folders name it as their owner.
        made_at: when it was drawn (calendar).
        settings: what is set for the agent, and for all its folders.
        credentials: what opens folders that have none of their own, as `Folder.credentials`; None for nothing.
        settings_revision: counts changes of the settings.
        clock_watch: what is known of the system clock, as `agents` packs it; None before the first look.
        summary_day: the local day of the last daily summary; None if there was none.
    """

    __tablename__ = "agent"

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str]
    made_at: Mapped[datetime]
    settings: Mapped[Layer] = mapped_column(JSON, default=dict)
    credentials: Mapped[str | None]
    settings_revision: Mapped[int] = mapped_column(default=0)
    clock_watch: Mapped[dict[str, str | float | None] | None] = mapped_column(JSON(none_as_null=True))
    summary_day: Mapped[date | None]


class StoredHold(Model):
    """A person's wish that an image, or a point, stays. A hold that is released leaves no row.

    Attributes:
        uid: 32 hexadecimal digits, the same in the ledger.
        name: the file that stays; None if the hold is on a point.
        point: identity of the point that stays restorable, hexadecimal; None if the hold is on a file.
        reason: why, in the person's words.
        placed_by: who wished it.
        placed_at: when (calendar).
        until: when it ends by itself (calendar); None if it lasts until it is released.
    """

    __tablename__ = "hold"

    id: Mapped[int] = mapped_column(primary_key=True)
    folder_id: Mapped[int] = mapped_column(ForeignKey("folder.id", ondelete="CASCADE"), index=True)
    uid: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str | None]
    point: Mapped[str | None]
    reason: Mapped[str]
    placed_by: Mapped[str]
    placed_at: Mapped[datetime]
    until: Mapped[datetime | None]


class StoredClaim(Model):
    """A need of work that runs, or of a disk that stands at a point.

    Attributes:
        key: names the need, so that claiming again is claiming once, such as "headstart:stand-by".
        needed_by: whose need it is, in words.
        claimed_at: since when (calendar).
        holder: the process that renews it, as `holders.Holder` writes itself; None for a need that lasts.
        expires_at: when it ends unless it is renewed (machine); None for a need that lasts until it is given up.
        names: files that must stay as they are.
        target: the point that must stay within reach; None if the files alone matter.
        standing: the points that a disk may stand at, which is to be rolled on to the target; None where it is to be
            restored from nothing.
    """

    __tablename__ = "claim"
    __table_args__ = (UniqueConstraint("chain_id", "key"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    chain_id: Mapped[int] = mapped_column(ForeignKey("chain.id", ondelete="CASCADE"))
    key: Mapped[str]
    needed_by: Mapped[str]
    claimed_at: Mapped[datetime]
    holder: Mapped[str | None] = mapped_column(index=True)
    expires_at: Mapped[datetime | None]
    names: Mapped[list[str]] = mapped_column(JSON)
    target: Mapped[PackedPoint | None] = mapped_column(JSON(none_as_null=True))
    standing: Mapped[list[PackedPoint] | None] = mapped_column(JSON(none_as_null=True))


class TombstoneState(StrEnum):
    """How far the removal of an image has come.

    RETIRING: it is to be moved away. RETIRED: it lies in `.rollforward/retired/` until its grace ends. MOVED: it lies
    in `Incrementals/`, where it stays. DELETED: it is gone. BROUGHT_BACK: it lies in its folder again, and is an image
    like any other.
    """

    RETIRING = "retiring"
    RETIRED = "retired"
    MOVED = "moved"
    DELETED = "deleted"
    BROUGHT_BACK = "brought_back"


class Tombstone(Model):
    """The mark of an image that was, or is being, removed.

    Attributes:
        token: names this removal; of what is deleted later, also its folder in `.rollforward/retired/`.
        name: file name.
        root: 32 bytes, identity of the image.
        tier: what it was rolled up as.
        state: see `TombstoneState`.
        to_incrementals: whether it is moved into `Incrementals/` in place of being deleted.
        reason: why it was removed, in words.
        covered_by: file name of an image that stayed and holds all that it did.
        stored_bytes: its size, all parts together.
        files: its files as `retired.FileMark` writes them.
        first_seen_at: when it was first noticed (calendar).
        retiring_at: when its removal was decided (calendar).
        retired_at: when it was moved away (calendar); None before.
        deleted_at: when it was deleted (calendar); None before.
        lifted: whether an image of this root may lie in the folder again, because it was made anew.
    """

    __tablename__ = "tombstone"
    __table_args__ = (
        Index("ix_tombstone_folder_root", "folder_id", "root"),
        Index("ix_tombstone_folder_name", "folder_id", "name"),
        Index("ix_tombstone_state", "state", "retired_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    folder_id: Mapped[int] = mapped_column(ForeignKey("folder.id", ondelete="CASCADE"))
    chain_id: Mapped[int | None] = mapped_column(ForeignKey("chain.id", ondelete="SET NULL"), index=True)
    token: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    root: Mapped[bytes]
    tier: Mapped[Tier] = mapped_column(word_column(Tier))
    state: Mapped[TombstoneState] = mapped_column(word_column(TombstoneState))
    to_incrementals: Mapped[bool]
    reason: Mapped[str]
    covered_by: Mapped[str]
    stored_bytes: Mapped[int] = mapped_column(BigInteger)
    files: Mapped[list[dict[str, str | int]]] = mapped_column(JSON)
    first_seen_at: Mapped[datetime]
    retiring_at: Mapped[datetime]
    retired_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    lifted: Mapped[bool] = mapped_column(default=False)


class Sight(Model):
    """When a point was first seen whose stamp cannot be right: kept longer than the files that showed it.

    Attributes:
        point: identity of the point, hexadecimal.
        seen_at: when it was first seen (calendar).
    """

    __tablename__ = "sight"

    folder_id: Mapped[int] = mapped_column(ForeignKey("folder.id", ondelete="CASCADE"), primary_key=True)
    point: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime]


class SeenBefore(Model):
    """When an image was first noticed that an earlier catalogue knew, until it is taken into this one.

    Attributes:
        root: identity of the image, hexadecimal.
        seen_at: when it was first noticed (calendar).
    """

    __tablename__ = "seen_before"

    folder_id: Mapped[int] = mapped_column(ForeignKey("folder.id", ondelete="CASCADE"), primary_key=True)
    root: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime]


class StoredFreeze(Model):
    """A reason not to remove anything.

    Attributes:
        folder_id: the folder that it is about; None if it is about all.
        chain_id: the chain that it is about; None if it is about the whole folder.
        kind: what looks wrong.
        key: the kind and its evidence, in one line: what a person's waiver names.
        since: since when (calendar).
        reason: what was seen, in words.
        ends: how it ends, in words.
        ends_at: when it ends by itself (calendar); None if something has to change first.
    """

    __tablename__ = "freeze"

    id: Mapped[int] = mapped_column(primary_key=True)
    folder_id: Mapped[int | None] = mapped_column(ForeignKey("folder.id", ondelete="CASCADE"), index=True)
    chain_id: Mapped[int | None] = mapped_column(ForeignKey("chain.id", ondelete="CASCADE"), index=True)
    kind: Mapped[FreezeKind] = mapped_column(word_column(FreezeKind))
    key: Mapped[str] = mapped_column(index=True)
    since: Mapped[datetime]
    reason: Mapped[str]
    ends: Mapped[str]
    ends_at: Mapped[datetime | None]


class Waiver(Model):
    """What a person said is well: a freeze of this key does not count.

    Attributes:
        folder_id: the folder that it is about; 0 if it is about all.
        key: of the freeze.
        waived_by: who said so.
        waived_at: when (calendar).
    """

    __tablename__ = "waiver"

    folder_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(primary_key=True)
    waived_by: Mapped[str]
    waived_at: Mapped[datetime]


class Reporter(Model):
    """A job or target that needs images of a folder, and says so after the catalogue was built anew.

    Attributes:
        name: of the job or target, such as "headstart:stand-by".
        since: when it was first known (calendar).
        reported_at: when it last said what it needs (calendar); None if it has not since.
    """

    __tablename__ = "reporter"

    folder_id: Mapped[int] = mapped_column(ForeignKey("folder.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    since: Mapped[datetime]
    reported_at: Mapped[datetime | None]


class LedgerLine(Model):
    """A line that waits to be written into a folder's ledger.

    Two processes may write the same lines at once, and each forgets them by their numbers: none is used twice.

    Attributes:
        entry: the line as `ledger` reads it.
    """

    __tablename__ = "ledger_line"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - as SQLAlchemy wants it

    id: Mapped[int] = mapped_column(primary_key=True)
    folder_id: Mapped[int] = mapped_column(ForeignKey("folder.id", ondelete="CASCADE"), index=True)
    entry: Mapped[dict[str, object]] = mapped_column(JSON)


class Notice(Model):
    """What is known of a trouble, so that people are told of it once, and once more when it has cleared.

    Attributes:
        key: tells this trouble from every other.
        kind: what kind of trouble.
        place: the folder or device that it is about.
        subject: the file, volume or work that it is about; empty for the place itself.
        reason: what is wrong, in words.
        hint: what to do about it.
        began_at: since when it has been there (calendar).
        is_open: whether it was told, and not that it cleared.
        told_at: when anything was last told of it (calendar); None for never.
        absent_since: since when it has not been seen (calendar); None while it is.
        returns: how often it came back.
    """

    __tablename__ = "notice"

    key: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[TroubleKind] = mapped_column(word_column(TroubleKind))
    place: Mapped[str]
    subject: Mapped[str]
    reason: Mapped[str]
    hint: Mapped[str]
    began_at: Mapped[datetime]
    is_open: Mapped[bool]
    told_at: Mapped[datetime | None]
    absent_since: Mapped[datetime | None]
    returns: Mapped[int]
