"""The clocks: the real one, one that runs fast, and one that is moved by hand.

Policies are asked with *calendar* time, which in a trial may be any of these. Leases, settling and rescans
always follow the real clock. A clock is written as text, so that every process of the agent reads the same
time:

    system                                 the real time
    2026-03-02T06:00:00+01:00@720          begins there when the agent starts, one real second being 720
    file:/path/to/now                      whatever time the file holds at the moment (ISO 8601)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from policies.errors import ConfigurationError

_HINT: Final = "Write system, START@RATE such as 2026-03-02T06:00:00+01:00@720, or file:PATH."
_RATE_MAX: Final = 1_000_000.0


class Clock(Protocol):
    """Gives the present moment."""

    def __call__(self) -> datetime:
        """Return the present moment, timezone-aware, UTC."""
        ...

    def __str__(self) -> str:
        """Write the clock so that another process can read the same time with `parse_clock`."""
        ...


def machine_now() -> datetime:
    """Return the real time."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The real time."""

    def __call__(self) -> datetime:
        """Return the real time."""
        return machine_now()

    def __str__(self) -> str:
        """Write it as text."""
        return "system"


@dataclass(frozen=True, slots=True)
class AcceleratedClock:
    """Time that runs fast from a chosen moment.

    Attributes:
        start: the moment it shows at the anchor.
        rate: how many of its seconds pass in a real one.
        anchor: real time at which it showed `start`.
    """

    start: datetime
    rate: float
    anchor: datetime

    def __call__(self) -> datetime:
        """Return the accelerated time."""
        return self.start + (machine_now() - self.anchor) * self.rate

    def __str__(self) -> str:
        """Write it as text, with its anchor."""
        return f"{self.start.isoformat()}@{self.rate:g}@{self.anchor.isoformat()}"


@dataclass(frozen=True, slots=True)
class FileClock:
    """Time that is whatever a file says, moved by hand.

    Attributes:
        path: the file; it holds one ISO 8601 time with its offset.
    """

    path: Path

    def __call__(self) -> datetime:
        """Return the time in the file.

        Raises:
            ConfigurationError: there is none.
        """
        try:
            return _parse_time(self.path.read_text())
        except OSError as error:
            raise ConfigurationError(
                f"the clock's file cannot be read: {error.strerror}", path=str(self.path)
            ) from error

    def __str__(self) -> str:
        """Write it as text."""
        return f"file:{self.path}"

    def set(self, now: datetime) -> None:
        """Move the clock.

        Args:
            now: the time it shows from now on.

        Crash: it shows the old or the new time.
        """
        new = self.path.with_name(self.path.name + ".new")
        new.write_text(now.astimezone(UTC).isoformat())
        new.replace(self.path)


def parse_clock(text: str) -> Clock:
    """Read a clock from text.

    Args:
        text: as described above; an accelerated clock without an anchor begins now.

    Raises:
        ConfigurationError: it says no clock.
    """
    if text == "system":
        return SystemClock()
    if text.startswith("file:"):
        return FileClock(Path(text.removeprefix("file:")))
    start, *rest = text.split("@")
    if len(rest) not in (1, 2):
        raise ConfigurationError("not a clock", actual=text, hint=_HINT)
    anchor = _parse_time(rest[1]) if len(rest) == 2 else machine_now()
    return AcceleratedClock(_parse_time(start), _parse_rate(rest[0]), anchor)


def _parse_rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 < rate <= _RATE_MAX:
        raise ConfigurationError(
            "the rate of a clock is out of range", expected=f"0 to {_RATE_MAX:,.0f}", actual=text, hint=_HINT
        )
    return rate


def _parse_time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ConfigurationError("not a time", actual=text.strip(), hint=_HINT) from None
    if time.tzinfo is None:
        raise ConfigurationError("a time without its offset from UTC", actual=text.strip(), hint=_HINT)
    return time.astimezone(UTC)
