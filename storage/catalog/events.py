"""The event log: the one history of what was done and why."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from storage.catalog.models import DaySummary, Event, EventKind

Facts = dict[str, str | int | float | None]

EVENTS_KEPT_FOR: Final = timedelta(days=400)
"""An event is forgotten after so long; how many there were of its kind on its day stays known."""

EVENTS_MAX: Final = 1_000_000
"""So many events are kept at most: some hundreds of megabytes."""

PRUNED_AT_ONCE: Final = 500
"""So many events are forgotten in one transaction at most."""


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


def events_of(session: Session, folder_id: int, subject: str, *, limit: int = 500) -> list[Event]:
    """Return what happened to one file, newest first.

    Args:
        session: any session.
        folder_id: its folder.
        subject: its name.
        limit: at most so many.
    """
    query = select(Event).where(Event.folder_id == folder_id, Event.subject == subject)
    return list(session.scalars(query.order_by(Event.id.desc()).limit(limit)))


def events_between(session: Session, begin: datetime, end: datetime) -> list[Event]:
    """Return what happened from a moment on and before another (calendar), oldest first."""
    return list(session.scalars(select(Event).where(Event.at >= begin, Event.at < end).order_by(Event.id)))


def prune_events(
    session: Session, *, before: datetime, kept_max: int = EVENTS_MAX, limit: int = PRUNED_AT_ONCE
) -> int:
    """Forget old events, and keep how often each kind of thing happened on each day.

    Args:
        session: of a write transaction.
        before: what happened earlier is forgotten (calendar).
        kept_max: how many events are kept at most; older ones are forgotten, whenever they happened.
        limit: so many at once at most, so that the transaction stays short.

    Returns:
        How many were forgotten; call again until that is none.

    Crash: nothing happened, or each event is either there or counted.
    """
    events = _to_forget(session, before, kept_max, limit)
    counts: dict[tuple[date, int, EventKind], tuple[int, int]] = {}
    for event in events:
        key = (event.at.date(), event.folder_id or 0, event.kind)
        stored_bytes = event.facts.get("stored_bytes")
        size = stored_bytes if isinstance(stored_bytes, int) else 0
        known = counts.get(key, (0, 0))
        counts[key] = (known[0] + 1, known[1] + size)
    for (day, folder_id, kind), (number, size) in counts.items():
        row = session.get(DaySummary, (day, folder_id, kind), with_for_update=True)
        if row is None:
            row = DaySummary(day=day, folder_id=folder_id, kind=kind, events=0, stored_bytes=0)
            session.add(row)
        row.events += number
        row.stored_bytes += size
    ids = [event.id for event in events]
    session.flush()
    for begin in range(0, len(ids), 500):
        session.execute(delete(Event).where(Event.id.in_(ids[begin : begin + 500])))
    return len(ids)


def _to_forget(session: Session, before: datetime, kept_max: int, limit: int) -> list[Event]:
    """Find what is to be forgotten by two indexes, so that nothing is read where nothing is old; lock it."""
    newest = session.scalar(select(func.max(Event.id))) or 0
    by_age = select(Event).where(Event.at < before).order_by(Event.at)
    by_count = select(Event).where(Event.id <= newest - kept_max).order_by(Event.id)
    found: dict[int, Event] = {}
    for query in (by_age, by_count):
        free = query.limit(limit).with_for_update(
            skip_locked=True
        )  # what another one forgets is counted once
        found |= {event.id: event for event in session.scalars(free)}
    return list(found.values())[:limit]


def day_summaries(session: Session, first: date, last: date) -> list[DaySummary]:
    """Return what is left of the events of some days that were pruned, by day."""
    query = select(DaySummary).where(DaySummary.day >= first, DaySummary.day <= last)
    return list(session.scalars(query.order_by(DaySummary.day, DaySummary.folder_id, DaySummary.kind)))
