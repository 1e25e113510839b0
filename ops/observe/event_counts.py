"""How often each kind of thing has happened since the catalogue began: counted once, then only what is new."""

from __future__ import annotations

import threading
from collections import Counter

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from storage.catalog.models import DaySummary, Event, EventKind


class EventCounter:
    """Counts events by kind, those that were pruned too. Numbers never fall while a process lives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[EventKind] = Counter()
        self._last_id: int | None = None

    def counts(self, session: Session) -> dict[EventKind, int]:
        """Return how often each kind of thing has happened.

        Args:
            session: any session.
        """
        with self._lock:
            newest = session.scalar(select(func.max(Event.id))) or 0
            if self._last_id is None or newest < self._last_id:  # another catalogue: begin anew
                pruned = select(DaySummary.kind, func.sum(DaySummary.events)).group_by(DaySummary.kind)
                self._counts = Counter({kind: int(number) for kind, number in session.execute(pruned)})
                self._last_id = 0
            new = select(Event.kind, func.count()).where(Event.id > self._last_id, Event.id <= newest)
            for kind, number in session.execute(new.group_by(Event.kind)):
                self._counts[kind] += int(number)
            self._last_id = newest
            return {kind: self._counts[kind] for kind in EventKind}
