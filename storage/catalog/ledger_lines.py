"""What waits to be written into the folders' ledgers: recorded with the change itself, written out afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from storage.catalog.memory_models import LedgerLine
from storage.ledger_entries import Entry, pack_entry, unpack_entry


def add_line(session: Session, folder_id: int, entry: Entry) -> None:
    """Have an entry written into a folder's ledger, if this transaction is committed.

    Args:
        session: of a write transaction.
        folder_id: the folder.
        entry: what is to stand there.
    """
    session.add(LedgerLine(folder_id=folder_id, entry=pack_entry(entry)))


def waiting_lines(session: Session, folder_id: int, *, limit: int = 10_000) -> list[tuple[int, Entry]]:
    """Return what waits for a folder's ledger, oldest first, each with the number to forget it by."""
    query = select(LedgerLine).where(LedgerLine.folder_id == folder_id).order_by(LedgerLine.id).limit(limit)
    return [(line.id, unpack_entry(line.entry)) for line in session.scalars(query)]


def forget_lines(session: Session, line_ids: Sequence[int]) -> None:
    """Forget what was written into a ledger, and synced."""
    for begin in range(0, len(line_ids), 500):
        session.execute(delete(LedgerLine).where(LedgerLine.id.in_(line_ids[begin : begin + 500])))


def folders_with_lines(session: Session) -> list[int]:
    """Return the folders whose ledgers something waits for."""
    return sorted(session.scalars(select(LedgerLine.folder_id).distinct()))
