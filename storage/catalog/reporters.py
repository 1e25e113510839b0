"""Jobs and targets that need images of a folder: after a catalogue was built anew, each says first what it needs."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from policies.freezing import FreezeKind
from storage.catalog.freezes import Scope, set_freezes
from storage.catalog.ledger_lines import add_line
from storage.catalog.memory_models import Reporter, StoredFreeze
from storage.ledger_entries import ReporterEntry

REPORT_WAIT: Final = timedelta(hours=24)
"""Jobs and targets that a whole ledger does not name have so long to say what they need."""

ENDS_WITH_REPORTS: Final = "once they have"
"""How a freeze says that it ends when all that it names have reported; `policies.freezing.judge_rebuilt` says so."""


def add_reporter(session: Session, folder_id: int, name: str, *, now: datetime) -> None:
    """Record that a job or target needs images of a folder, so that the ledger names it. It has reported with that.

    Args:
        session: of a write transaction.
        folder_id: the folder.
        name: of the job or target, such as "headstart:stand-by".
        now: calendar time.
    """
    if session.get(Reporter, (folder_id, name)) is None:
        session.add(Reporter(folder_id=folder_id, name=name, since=now, reported_at=now))
        add_line(session, folder_id, ReporterEntry(name, now))
        session.flush()
    report(session, folder_id, name, now=now)


def remove_reporter(session: Session, folder_id: int, name: str, *, now: datetime) -> None:
    """Record that a job or target needs images of a folder no longer."""
    reporter = session.get(Reporter, (folder_id, name))
    if reporter is not None:
        add_line(session, folder_id, ReporterEntry(name, reporter.since, left_at=now))
        session.delete(reporter)
        session.flush()
        _end_freeze(session, folder_id, now)


def report(session: Session, folder_id: int, name: str, *, now: datetime) -> None:
    """Record that a job or target has placed its claims; once all have, deletion goes on.

    Args:
        session: of a write transaction: that in which the claims were placed, or a later one.
        folder_id: the folder.
        name: of the job or target.
        now: calendar time.
    """
    reporter = session.get(Reporter, (folder_id, name))
    if reporter is not None:
        reporter.reported_at = now
        session.flush()
        _end_freeze(session, folder_id, now)


def silent_reporters(session: Session, folder_id: int) -> list[str]:
    """Return the jobs and targets that have not said what they need since the catalogue was built, by name."""
    query = select(Reporter.name).where(Reporter.folder_id == folder_id, Reporter.reported_at.is_(None))
    return sorted(session.scalars(query))


def _end_freeze(session: Session, folder_id: int, now: datetime) -> None:
    """End the freeze of a catalogue that was built anew, unless somebody is silent, or it has a time of its own."""
    frozen = select(StoredFreeze).where(
        StoredFreeze.folder_id == folder_id,
        StoredFreeze.chain_id.is_(None),
        StoredFreeze.kind == FreezeKind.REBUILT,
    )
    waits_for_names = any(
        row.ends_at is None and row.ends == ENDS_WITH_REPORTS for row in session.scalars(frozen)
    )
    if waits_for_names and not silent_reporters(session, folder_id):
        set_freezes(session, Scope(folder_id), (), judged={FreezeKind.REBUILT}, now=now)
