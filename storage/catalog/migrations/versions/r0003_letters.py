"""Letters, and by which ways they are sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from storage.catalog.models import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is new; what was known before stays."""
    op.create_table(
        "letter",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("made_at", UtcDateTime(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
    )
    op.create_index("ix_letter_made_at", "letter", ["made_at"])
    op.create_table(
        "delivery",
        sa.Column(
            "letter_id", sa.Integer(), sa.ForeignKey("letter.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("channel", sa.String(), primary_key=True),
        sa.Column("sent_at", UtcDateTime()),
    )
    op.create_index("ix_delivery_sent_at", "delivery", ["sent_at"])
