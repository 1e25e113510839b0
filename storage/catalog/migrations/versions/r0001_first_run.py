"""The first layout: folders, chains, images, leases, attempts, events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from storage.catalog.models import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables as they were made before layouts were recorded."""
    op.create_table(
        "meta",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("schema_version", sa.Integer(), nullable=False),
    )
    op.create_table(
        "folder",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("path", sa.String(), nullable=False, unique=True),
        sa.Column("time_zone", sa.String(), nullable=False),
        sa.Column("added_at", UtcDateTime(), nullable=False),
        sa.Column("rescan_at", UtcDateTime(), nullable=False),
        sa.Column("problem", sa.String()),
    )
    op.create_index("ix_folder_rescan_at", "folder", ["rescan_at"])
    _make_chains_and_images()
    _make_work()
    op.create_table(
        "event",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("recorded_at", UtcDateTime(), nullable=False),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("folder_id", sa.Integer()),
        sa.Column("chain_id", sa.Integer()),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
    )
    op.create_index("ix_event_at", "event", ["at"])


def _make_chains_and_images() -> None:
    op.create_table(
        "chain",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("folder_id", sa.Integer(), sa.ForeignKey("folder.id", ondelete="CASCADE"), nullable=False),
        sa.Column("chain_uid", sa.LargeBinary(), nullable=False),
        sa.Column("volume", sa.String(), nullable=False),
        sa.Column("base_number", sa.Integer(), nullable=False),
        sa.Column("next_due_at", UtcDateTime(), nullable=False),
        sa.Column("waits_for", sa.String()),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.UniqueConstraint("folder_id", "chain_uid", "volume", "base_number"),
    )
    op.create_index("ix_chain_next_due_at", "chain", ["next_due_at"])
    op.create_table(
        "image",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("folder_id", sa.Integer(), sa.ForeignKey("folder.id", ondelete="CASCADE"), nullable=False),
        sa.Column("chain_id", sa.Integer(), sa.ForeignKey("chain.id", ondelete="SET NULL")),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("reason", sa.String()),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("still_since", UtcDateTime(), nullable=False),
        sa.Column("first_seen_at", UtcDateTime(), nullable=False),
        sa.Column("verified_at", UtcDateTime()),
        sa.Column("hinted_at", UtcDateTime()),
        sa.Column("root", sa.LargeBinary()),
        sa.Column("start", sa.JSON(none_as_null=True)),
        sa.Column("covers", sa.JSON(), nullable=False),
        sa.UniqueConstraint("folder_id", "name"),
    )
    op.create_index("ix_image_chain_id", "image", ["chain_id"])
    op.create_index("ix_image_folder_state", "image", ["folder_id", "state"])


def _make_work() -> None:
    op.create_table(
        "lease",
        sa.Column("chain_id", sa.Integer(), sa.ForeignKey("chain.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
    )
    op.create_index("ix_lease_holder", "lease", ["holder"])
    op.create_table(
        "attempt",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("engine_version", sa.String(), nullable=False),
        sa.Column("holder", sa.String()),
        sa.Column("expires_at", UtcDateTime()),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String()),
        sa.Column("retry_at", UtcDateTime()),
        sa.Column("quarantined", sa.Boolean(), nullable=False),
        sa.UniqueConstraint("kind", "subject", "engine_version"),
    )
    op.create_index("ix_attempt_holder", "attempt", ["holder"])
