"""An image says whether a plan asks for it to be read back."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Name the column by what it says now; what stood in it was an asking already."""
    op.alter_column("image", "next_check_at", new_column_name="asked_at")
