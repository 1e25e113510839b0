"""Forgetting what nobody asks for any more, so that the catalogue of an agent that runs for years stays as it is.

Once an hour: events older than 400 days, or beyond the millionth, become counts; tombstones of what was deleted that
long ago go, and what restore tests found then; so do claims of work whose process is gone. Little by little, so that
nobody waits for the catalogue. While the system clock is not trusted nothing is forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from ops.clock import Clock, machine_now
from ops.clock_keeper import read_clocks
from policies.clock_watch import ClockReading
from policies.errors import CatalogError
from storage.catalog.agents import clock_watch
from storage.catalog.claims import drop_dead_claims
from storage.catalog.database import Catalog
from storage.catalog.events import EVENTS_KEPT_FOR, prune_events
from storage.catalog.point_tests import prune_restore_tests, restore_tests_over
from storage.catalog.tombstones import prune_tombstones, tombstones_over

_log = structlog.get_logger("forgetting")

EVERY_S: Final = 3600.0
"""So long after nothing was left to forget it is looked again."""


class Forgetting:
    """Forgets a little at each call, until nothing is left for an hour.

    Args:
        catalog: the catalogue.
        clock: calendar time.
        read: reads the real clocks.
        every_s: pause between two looks, in seconds.
    """

    def __init__(
        self,
        catalog: Catalog,
        clock: Clock,
        *,
        read: Callable[[], ClockReading] = read_clocks,
        every_s: float = EVERY_S,
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._read = read
        self._every_s = every_s
        self._look_after_s = 0.0

    def tick(self) -> int:
        """Forget a little, if it is time to; a catalogue that cannot be used now is used the next hour.

        Returns:
            How many entries were forgotten.

        Crash: some are forgotten and some are not; the next look finds the rest.
        """
        if time.monotonic() < self._look_after_s:
            return 0
        try:
            number = self._forget() if self._is_clock_right() else 0
        except CatalogError as error:
            _log.warning("the catalogue cannot be used", reason=str(error))
            number = 0
        if number == 0:
            self._look_after_s = time.monotonic() + self._every_s
        return number

    def _is_clock_right(self) -> bool:
        """Hold both clocks against what is known of them: a jump counts before anybody has noted it."""
        with self._catalog.read() as session:
            return clock_watch(session).advanced(self._read()).is_trusted

    def _forget(self) -> int:
        now = self._clock()
        with self._catalog.read() as session:
            stones = tombstones_over(session, now)
            tests = restore_tests_over(session, now)
        if stones:
            with self._catalog.write() as session:
                prune_tombstones(session, stones)
        with self._catalog.write() as session:
            events = prune_events(session, before=now - EVENTS_KEPT_FOR)
            claims = drop_dead_claims(session, now=now, machine_now=machine_now())
            prune_restore_tests(session, tests)
        if stones or tests or events or claims:
            _log.info("forgotten", tombstones=len(stones), tests=len(tests), events=events, claims=claims)
        return len(stones) + len(tests) + events + claims
