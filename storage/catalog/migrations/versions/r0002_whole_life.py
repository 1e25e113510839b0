"""The layout for the whole life of chains: settings, needs, removals, freezes, notices, counts, ledgers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from storage.catalog.models import UtcDateTime
from storage.catalog.tally_triggers import TALLY_TRIGGERS

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SUFFIXES = {"daily": "-cd", "weekly": "-cw", "monthly": "-cm", "rolling": "-cr"}


def upgrade() -> None:
    """Add what is new; what was known before stays."""
    _widen_folder()
    op.add_column("chain", sa.Column("started_at", UtcDateTime()))
    _widen_image()
    _widen_attempt()
    op.create_index("ix_event_folder_subject", "event", ["folder_id", "subject"])
    _make_memory()
    _make_needs()
    _make_tombstones()
    _make_freezes()
    _make_tallies()
    op.execute("DELETE FROM meta")
    op.execute("INSERT INTO meta (id, schema_version) VALUES (1, 2)")


def _widen_folder() -> None:
    op.add_column("folder", sa.Column("problem_since", UtcDateTime()))
    op.add_column("folder", sa.Column("ledger_problem", sa.String()))
    op.add_column("folder", sa.Column("ledger_read_at", UtcDateTime()))
    op.add_column("folder", sa.Column("description", sa.String(), nullable=False, server_default=""))
    op.add_column("folder", sa.Column("sort_priority", sa.Integer()))
    op.add_column("folder", sa.Column("credentials", sa.String()))
    op.add_column("folder", sa.Column("settings", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("folder", sa.Column("newest_image_at", UtcDateTime()))
    op.add_column("folder", sa.Column("settings_revision", sa.Integer(), nullable=False, server_default="0"))
    op.execute(
        "UPDATE folder SET newest_image_at ="
        " (SELECT max(first_seen_at) FROM image WHERE image.folder_id = folder.id)"
    )


def _widen_image() -> None:
    op.add_column("image", sa.Column("checked_at", UtcDateTime()))
    op.add_column("image", sa.Column("next_check_at", UtcDateTime()))
    op.add_column("image", sa.Column("gone_since", UtcDateTime()))
    op.add_column("image", sa.Column("tier", sa.String(24), nullable=False, server_default="incremental"))
    op.add_column("image", sa.Column("assumed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("image", sa.Column("plain_bytes", sa.BigInteger()))
    op.execute("UPDATE image SET checked_at = verified_at")
    image = sa.table("image", sa.column("name", sa.String()), sa.column("tier", sa.String()))
    for tier, suffix in _SUFFIXES.items():
        op.execute(image.update().where(image.c.name.like(f"%{suffix}.spi")).values(tier=tier))


def _widen_attempt() -> None:
    op.add_column("attempt", sa.Column("dropped_by", sa.String()))
    op.add_column("attempt", sa.Column("folder_id", sa.Integer()))
    op.add_column("attempt", sa.Column("title", sa.String(), nullable=False, server_default=""))


def _folder_key(*, is_key: bool = False) -> sa.Column[int]:
    """Make the column that says which folder a row belongs to; it goes with the folder."""
    owner = sa.ForeignKey("folder.id", ondelete="CASCADE")
    return sa.Column("folder_id", sa.Integer(), owner, primary_key=is_key, nullable=False)


def _make_memory() -> None:
    op.create_table(
        "agent",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("made_at", UtcDateTime(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("credentials", sa.String()),
        sa.Column("settings_revision", sa.Integer(), nullable=False),
        sa.Column("clock_watch", sa.JSON(none_as_null=True)),
        sa.Column("summary_day", sa.Date()),
    )
    op.create_table(
        "day_summary",
        sa.Column("day", sa.Date(), primary_key=True),
        sa.Column("folder_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(24), primary_key=True),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "ledger_line",
        sa.Column("id", sa.Integer(), primary_key=True),
        _folder_key(),
        sa.Column("entry", sa.JSON(), nullable=False),
    )
    op.create_index("ix_ledger_line_folder_id", "ledger_line", ["folder_id"])
    op.create_table(
        "notice",
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("place", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("hint", sa.String(), nullable=False),
        sa.Column("began_at", UtcDateTime(), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("told_at", UtcDateTime()),
        sa.Column("absent_since", UtcDateTime()),
        sa.Column("returns", sa.Integer(), nullable=False),
    )


def _make_needs() -> None:
    op.create_table(
        "hold",
        sa.Column("id", sa.Integer(), primary_key=True),
        _folder_key(),
        sa.Column("uid", sa.String(), nullable=False, unique=True),
        sa.Column("name", sa.String()),
        sa.Column("point", sa.String()),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("placed_by", sa.String(), nullable=False),
        sa.Column("placed_at", UtcDateTime(), nullable=False),
        sa.Column("until", UtcDateTime()),
    )
    op.create_index("ix_hold_folder_id", "hold", ["folder_id"])
    op.create_table(
        "claim",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("chain_id", sa.Integer(), sa.ForeignKey("chain.id", ondelete="CASCADE"), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("needed_by", sa.String(), nullable=False),
        sa.Column("claimed_at", UtcDateTime(), nullable=False),
        sa.Column("holder", sa.String()),
        sa.Column("expires_at", UtcDateTime()),
        sa.Column("names", sa.JSON(), nullable=False),
        sa.Column("target", sa.JSON(none_as_null=True)),
        sa.Column("standing", sa.JSON(none_as_null=True)),
        sa.UniqueConstraint("chain_id", "key"),
    )
    op.create_index("ix_claim_holder", "claim", ["holder"])
    op.create_table(
        "reporter",
        _folder_key(is_key=True),
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.Column("reported_at", UtcDateTime()),
    )
    op.create_table(
        "seen_before",
        _folder_key(is_key=True),
        sa.Column("root", sa.String(), primary_key=True),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "sight",
        _folder_key(is_key=True),
        sa.Column("point", sa.String(), primary_key=True),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
    )


def _make_tombstones() -> None:
    op.create_table(
        "tombstone",
        sa.Column("id", sa.Integer(), primary_key=True),
        _folder_key(),
        sa.Column("chain_id", sa.Integer(), sa.ForeignKey("chain.id", ondelete="SET NULL")),
        sa.Column("token", sa.String(), nullable=False, unique=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("tier", sa.String(24), nullable=False),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("to_incrementals", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("covered_by", sa.String(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("first_seen_at", UtcDateTime(), nullable=False),
        sa.Column("retiring_at", UtcDateTime(), nullable=False),
        sa.Column("retired_at", UtcDateTime()),
        sa.Column("deleted_at", UtcDateTime()),
        sa.Column("lifted", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_tombstone_chain_id", "tombstone", ["chain_id"])
    op.create_index("ix_tombstone_folder_root", "tombstone", ["folder_id", "root"])
    op.create_index("ix_tombstone_folder_name", "tombstone", ["folder_id", "name"])
    op.create_index("ix_tombstone_state", "tombstone", ["state", "retired_at"])


def _make_freezes() -> None:
    op.create_table(
        "freeze",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("folder_id", sa.Integer(), sa.ForeignKey("folder.id", ondelete="CASCADE")),
        sa.Column("chain_id", sa.Integer(), sa.ForeignKey("chain.id", ondelete="CASCADE")),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("ends", sa.String(), nullable=False),
        sa.Column("ends_at", UtcDateTime()),
    )
    for column in ("folder_id", "chain_id", "key"):
        op.create_index(f"ix_freeze_{column}", "freeze", [column])
    op.create_table(
        "waiver",
        sa.Column("folder_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("waived_by", sa.String(), nullable=False),
        sa.Column("waived_at", UtcDateTime(), nullable=False),
    )


def _make_tallies() -> None:
    op.create_table(
        "folder_tally",
        _folder_key(is_key=True),
        sa.Column("state", sa.String(24), primary_key=True),
        sa.Column("tier", sa.String(24), primary_key=True),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
    )
    op.execute(
        "INSERT INTO folder_tally (folder_id, state, tier, images, stored_bytes)"
        " SELECT folder_id, state, tier, count(*), sum(stored_bytes) FROM image GROUP BY folder_id, state, tier"
    )
    for statement in TALLY_TRIGGERS[op.get_bind().dialect.name]:
        op.execute(statement)
