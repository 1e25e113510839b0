"""Whether the system clock can be trusted.

The clock that people set is held against the one that only counts since the machine was started. When they part, one
jump is noted; it is forgotten when the clock has been put right again, or has run on steadily for so long that the new
time is taken for the true one. Across a restart only a clock that went back can be told.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from policies.freezing import Freeze, FreezeKind

CLOCK_TOLERANCE: Final = timedelta(hours=1)
"""What a clock may be put forward or back without anybody being asked; no image ages much by it."""

CLOCK_PROBATION: Final = timedelta(days=3)
"""After running on steadily for so long, a clock that jumped is believed."""

_NONE = timedelta(0)


@dataclass(frozen=True, slots=True)
class ClockReading:
    """Both clocks at one moment.

    Attributes:
        wall: what the system clock says.
        running: how long the machine has been running, sleep included.
        boot: something that is another after each start of the machine.
    """

    wall: datetime
    running: timedelta
    boot: str


@dataclass(frozen=True, slots=True)
class ClockWatch:
    """What is known of the system clock.

    Attributes:
        last: the last reading; None before the first.
        off_by: by how much the clock stands from where it would without jumps; zero while it is trusted.
        jumped_at: what the clock said after it last jumped; None while it is trusted.
        steady_for: how long it has run on since.
    """

    last: ClockReading | None = None
    off_by: timedelta = _NONE
    jumped_at: datetime | None = None
    steady_for: timedelta = _NONE

    @property
    def is_trusted(self) -> bool:
        """Whether times may be taken from the clock."""
        return self.jumped_at is None

    def advanced(self, reading: ClockReading) -> ClockWatch:
        """Take another look at both clocks.

        Args:
            reading: what they say.

        Returns:
            What is known then.
        """
        if self.last is None:
            return ClockWatch(reading)
        passed, jump = self._between(self.last, reading)
        if abs(jump) >= CLOCK_TOLERANCE:
            off_by = self.off_by + jump
            if self.last.boot != reading.boot and self.off_by > _NONE and off_by > -CLOCK_TOLERANCE:
                off_by = _NONE  # it went back across a restart by no more than it was ahead: it was put right
            moved = ClockWatch(reading, off_by, reading.wall)
        else:
            moved = replace(self, last=reading, steady_for=self.steady_for + passed)
        if abs(moved.off_by) < CLOCK_TOLERANCE or moved.steady_for >= CLOCK_PROBATION:
            return ClockWatch(reading)
        return moved

    def freeze(self) -> Freeze | None:
        """Give the freeze while the clock is not trusted; None while it is."""
        if self.jumped_at is None:
            return None
        way = "forward" if self.off_by > _NONE else "back"
        hours = abs(self.off_by) / timedelta(hours=1)
        size = f"{hours / 24:,.0f} days" if hours >= 48 else f"{hours:,.0f} hours"
        return Freeze(
            kind=FreezeKind.CLOCK,
            key=f"{FreezeKind.CLOCK.value} {self.jumped_at.isoformat(timespec='minutes')}",
            since=self.jumped_at,
            reason=f"the system clock was set {way} by {size}",
            ends=f"once it is right again, or has run steadily for {CLOCK_PROBATION.days} days",
        )

    @staticmethod
    def _between(before: ClockReading, after: ClockReading) -> tuple[timedelta, timedelta]:
        """Tell how much time has truly passed between two readings, and by how much the clock jumped."""
        shown = after.wall - before.wall
        if before.boot == after.boot:
            passed = max(after.running - before.running, _NONE)
            return passed, shown - passed
        return (shown, _NONE) if shown >= _NONE else (_NONE, shown)
