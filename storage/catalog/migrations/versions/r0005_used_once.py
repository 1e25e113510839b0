"""Numbers of attempts and of lines that wait for a ledger are used once."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """SQLite gives the number of a deleted row away again, unless it is told not to; PostgreSQL never does.

    Whoever still knew a row by its number would meet another. Nothing refers to these tables, so they can be remade.
    """
    if op.get_bind().dialect.name != "sqlite":
        return
    for table in ("attempt", "ledger_line"):
        with op.batch_alter_table(table, recreate="always", table_kwargs={"sqlite_autoincrement": True}):
            pass
