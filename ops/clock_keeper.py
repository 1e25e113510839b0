"""Keeping an eye on the clocks: a jump is noted, freezes deletion, and leaves nothing waiting for what never comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from ops.clock import Clock, machine_now
from policies.clock_watch import ClockReading, ClockWatch
from policies.freezing import FreezeKind
from storage.catalog.agents import clock_watch, set_clock_watch
from storage.catalog.clock_changes import pull_back
from storage.catalog.database import Catalog
from storage.catalog.events import record_event
from storage.catalog.freezes import Scope, set_freezes
from storage.catalog.models import EventKind

_log = structlog.get_logger("clock")

RECORD_EVERY: Final = timedelta(minutes=5)
"""The last reading is written down so often, so that a jump while the agent was off is seen, too."""

_BACK: Final = timedelta(seconds=5)
"""A clock that goes back by less is being corrected; nothing waits for long because of it."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def read_clocks() -> ClockReading:
    """Read the clock that people set, and the one that only counts since the machine was started."""
    try:
        boot = _BOOT_ID.read_text().strip()
    except OSError:
        boot = ""
    running = timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME))
    return ClockReading(machine_now(), running, boot)


class ClockKeeper:
    """Looks at the clocks once a tick.

    Args:
        catalog: where what is known of them is kept.
        clock: calendar time; it is the real one, except in trials.
        lease_time: how long a holder counts as alive without renewing.
        read: reads the real clocks.
    """

    def __init__(
        self,
        catalog: Catalog,
        clock: Clock,
        *,
        lease_time: timedelta,
        read: Callable[[], ClockReading] = read_clocks,
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._lease_time = lease_time
        self._read = read
        self._watch: ClockWatch | None = None
        self._recorded_at: timedelta | None = None
        self._last_calendar: datetime | None = None

    def tick(self) -> None:
        """Look at both clocks, and deal with a jump.

        Raises:
            CatalogError: the catalogue cannot be used; the jump is dealt with by the next tick.

        Crash: the jump is found again when the agent is next started.
        """
        reading, calendar = self._read(), self._clock()
        before = self._watch
        if before is None:
            with self._catalog.read() as session:
                before = clock_watch(session)
        after = before.advanced(reading)
        is_first = self._watch is None
        jumped = (before.jumped_at, before.off_by) != (after.jumped_at, after.off_by)
        went_back = self._last_calendar is not None and calendar < self._last_calendar - _BACK
        if is_first or jumped or went_back or self._is_time_to_record(reading):
            self._record(after, reading, calendar, is_far_off=is_first or jumped or went_back)
        self._watch, self._last_calendar = after, calendar

    def _is_time_to_record(self, reading: ClockReading) -> bool:
        return self._recorded_at is None or reading.running - self._recorded_at >= RECORD_EVERY

    def _record(
        self, watch: ClockWatch, reading: ClockReading, calendar: datetime, *, is_far_off: bool
    ) -> None:
        freeze = watch.freeze()
        found = [] if freeze is None else [freeze]
        with self._catalog.write() as session:
            set_clock_watch(session, watch, now=calendar)
            changes = set_freezes(session, Scope(), found, judged={FreezeKind.CLOCK}, now=calendar)
            if is_far_off:
                pull_back(session, now=calendar, machine_now=reading.wall, lease_time=self._lease_time)
            for kind, freezes in ((EventKind.FROZEN, changes.begun), (EventKind.UNFROZEN, changes.ended)):
                for one in freezes:
                    text = f"{one.reason}; nothing is removed until {one.ends.removeprefix('once ')}"
                    if kind is EventKind.UNFROZEN:
                        text = "the system clock is trusted again"
                    record_event(session, kind, "system clock", text, at=calendar, machine_now=reading.wall)
                    _log.warning(kind.value, subject="system clock", text=text)
        self._recorded_at = reading.running
