"""The event log: the one history of what was done and why."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.catalog.models import Event, EventKind

Facts = dict[str, str | int | float | None]


def record_event(
    session: Session,
    kind: EventKind,
    subject: str,
    text: str,
    *,
    at: datetime,
    machine_now: datetime,
    folder_id: int | None = None,
    chain_id: int | None = None,
    facts: Facts | None = None,
) -> None:
    """Add an entry.

    Args:
        session: of a write transaction.
        kind: what kind of thing happened.
        subject: file name or path it is about.
        text: what happened, in words.
        at: when, by the calendar clock.
        machine_now: when, by the real clock.
        folder_id: folder concerned.
        chain_id: chain concerned.
        facts: further fields, JSON values.
    """
    session.add(
        Event(
            at=at,
            recorded_at=machine_now,
            kind=kind,
            folder_id=folder_id,
            chain_id=chain_id,
            subject=subject,
            text=text,
            facts=facts or {},
        )
    )


def events_after(session: Session, event_id: int, *, limit: int = 500) -> list[Event]:
    """Return the entries that follow one, oldest first.

    Args:
        session: any session.
        event_id: the last entry known; 0 for all.
        limit: at most so many.
    """
    return list(session.scalars(select(Event).where(Event.id > event_id).order_by(Event.id).limit(limit)))
