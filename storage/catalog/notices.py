"""What is known of troubles, so that people are told of each once, and once more when it has cleared."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from policies.notices import Trouble, TroubleRecord
from storage.catalog.memory_models import Notice


def trouble_records(session: Session) -> tuple[TroubleRecord, ...]:
    """Return all that is known of troubles, by key."""
    return tuple(
        TroubleRecord(
            trouble=Trouble(row.kind, row.key, row.place, row.subject, row.reason, row.hint),
            began_at=row.began_at,
            is_open=row.is_open,
            told_at=row.told_at,
            absent_since=row.absent_since,
            returns=row.returns,
        )
        for row in session.scalars(select(Notice).order_by(Notice.key))
    )


def set_trouble_records(session: Session, records: Iterable[TroubleRecord]) -> None:
    """Replace what is known of troubles: `policies.notices.judge_notices` gives it.

    Commit it before anything is sent, with what was decided still open: then what a crash leaves untold is told again,
    or after it: then it may be told twice. The choice is the caller's.

    Args:
        session: of a write transaction.
        records: all that is known from now on.
    """
    stored = {row.key: row for row in session.scalars(select(Notice))}
    for record in records:
        row = stored.pop(record.trouble.key, None)
        if row is None:
            row = Notice(key=record.trouble.key)
            session.add(row)
        row.kind = record.trouble.kind
        row.place = record.trouble.place
        row.subject = record.trouble.subject
        row.reason = record.trouble.reason
        row.hint = record.trouble.hint
        row.began_at = record.began_at
        row.is_open = record.is_open
        row.told_at = record.told_at
        row.absent_since = record.absent_since
        row.returns = record.returns
    for row in stored.values():
        session.delete(row)
