"""Locations, HeadStart jobs and their disks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from storage.catalog.models import UtcDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is new; what was known before stays."""
    op.create_table(
        "location",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.String(), nullable=False, unique=True),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("credentials", sa.String()),
    )
    op.create_table(
        "headstart_job",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("uid", sa.String(), nullable=False, unique=True),
        sa.Column("name", sa.String(), nullable=False, unique=True),
        sa.Column("folder_id", sa.Integer(), sa.ForeignKey("folder.id", ondelete="CASCADE"), nullable=False),
        sa.Column("location_id", sa.Integer(), sa.ForeignKey("location.id"), nullable=False),
        sa.Column("subfolder", sa.String(), nullable=False),
        sa.Column("disk_kind", sa.String(), nullable=False),
        sa.Column("wrap", sa.String(), nullable=False),
        sa.Column("lag_s", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("password", sa.String()),
        sa.Column("added_at", UtcDateTime(), nullable=False),
        sqlite_autoincrement=True,
    )
    for column in ("folder_id", "location_id"):
        op.create_index(f"ix_headstart_job_{column}", "headstart_job", [column])
    op.create_table(
        "headstart_disk",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "job_id", sa.Integer(), sa.ForeignKey("headstart_job.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("volume", sa.String(), nullable=False),
        sa.Column("base_number", sa.Integer()),
        sa.Column("chain_id", sa.Integer(), sa.ForeignKey("chain.id", ondelete="SET NULL")),
        sa.Column("file_name", sa.String(), nullable=False),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("cursor", sa.JSON(), nullable=False),
        sa.Column("target", sa.JSON(none_as_null=True)),
        sa.Column("newest", sa.JSON(none_as_null=True)),
        sa.Column("capacity_bytes", sa.BigInteger()),
        sa.Column("is_begun", sa.Boolean(), nullable=False),
        sa.Column("done_bytes", sa.BigInteger(), nullable=False),
        sa.Column("total_bytes", sa.BigInteger(), nullable=False),
        sa.Column("next_due_at", UtcDateTime(), nullable=False),
        sa.Column("due_since", UtcDateTime()),
        sa.Column("held_by", sa.String()),
        sa.Column("held_until", UtcDateTime()),
        sa.Column("tried", sa.String(), nullable=False),
        sa.UniqueConstraint("job_id", "volume"),
        sqlite_autoincrement=True,  # whoever is at a disk that was deleted must not meet another by its number
    )
    for column in ("chain_id", "next_due_at"):
        op.create_index(f"ix_headstart_disk_{column}", "headstart_disk", [column])
