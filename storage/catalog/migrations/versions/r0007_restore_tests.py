"""Restore tests of HeadStart jobs, and what they have found."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from storage.catalog.models import UtcDateTime

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is new; jobs that are there are not tested."""
    job = [
        sa.Column("test_rhythm", sa.String(24), nullable=False, server_default="never"),
        sa.Column("test_starts", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("test_marker", sa.String()),
        sa.Column("test_bus", sa.String(), nullable=False, server_default="sata"),
    ]
    for column in job:
        op.add_column("headstart_job", column)
    op.add_column("headstart_disk", sa.Column("next_test_at", UtcDateTime()))
    op.add_column("headstart_disk", sa.Column("test_problem", sa.String()))
    op.create_index("ix_headstart_disk_next_test_at", "headstart_disk", ["next_test_at"])
    op.create_table(
        "point_test",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("folder_id", sa.Integer(), sa.ForeignKey("folder.id", ondelete="CASCADE"), nullable=False),
        sa.Column("job_uid", sa.String(), nullable=False),
        sa.Column("volume", sa.String(), nullable=False),
        sa.Column("base_number", sa.Integer(), nullable=False),
        sa.Column("point", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("tested_at", UtcDateTime(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("verdict", sa.String(24), nullable=False),
        sa.Column("words", sa.String(), nullable=False),
        sa.Column("screenshot", sa.String()),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.UniqueConstraint("job_uid", "volume", "point"),
    )
    op.create_index("ix_point_test_folder_point", "point_test", ["folder_id", "point"])
    op.create_index("ix_point_test_tested_at", "point_test", ["tested_at"])
