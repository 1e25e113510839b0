"""A tick over a catalogue of many folders: what is due is found by indexes, and nothing else is read."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from actors.hints import Hints, Job
from ops.lookout import Scheduler
from storage.catalog import Catalog, sqlite_url
from storage.catalog.tombstones import deletions_due, next_deletion_at, retiring_tombstones
from watcher.pacing import Pacer

NOW = datetime(2026, 11, 22, 20, tzinfo=UTC)


@dataclass(frozen=True)
class Ticked:
    """What was measured.

    Attributes:
        named: how many chains were named as due.
        tick_s: time of the tick, the best of three.
        removals_s: time to ask which removals go on, the best of three.
    """

    named: int
    tick_s: float
    removals_s: float


class _Listening(Hints):
    """Takes hints down in place of sending them."""

    def __init__(self) -> None:
        self.sent: list[int] = []

    def _send(self, job: Job, subject_id: int) -> bool:
        self.sent.append(subject_id)
        return True


def tick_over(state_dir: Path, pacer: Pacer) -> Ticked:
    """Tick over a catalogue that `standing.fill_catalogue` filled."""
    catalog = Catalog(sqlite_url(state_dir / "catalogue.sqlite"))
    tick_s = removals_s = float("inf")
    for _ in range(3):
        hints = _Listening()
        begun = time.monotonic()
        Scheduler(catalog, lambda: NOW, hints, pacer).tick(NOW)
        tick_s = min(tick_s, time.monotonic() - begun)
        for chain_id in hints.sent:
            pacer.forget(chain_id)
        begun = time.monotonic()
        with catalog.read() as session:
            assert deletions_due(session, NOW) == []
            assert retiring_tombstones(session) == []
            assert next_deletion_at(session) is None
        removals_s = min(removals_s, time.monotonic() - begun)
    catalog.close()
    return Ticked(len(hints.sent), tick_s, removals_s)
