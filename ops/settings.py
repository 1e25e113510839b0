"""Settings of the agent: from the environment, checked, and handed to its processes the same way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from policies.errors import ConfigurationError


class Number(NamedTuple):
    """A numeric setting: its variable, default and range, and what it is."""

    variable: str
    default: float
    least: float
    most: float
    meaning: str


NUMBERS: Final[Mapping[str, Number]] = {
    "settle_s": Number(
        "ROLLFORWARD_SETTLE_S", 30, 0.1, 86_400, "an incomplete file must stand still so long to be judged"
    ),
    "rescan_s": Number(
        "ROLLFORWARD_RESCAN_S", 900, 0.5, 86_400, "folders are scanned so often without an event"
    ),
    "poll_s": Number(
        "ROLLFORWARD_POLL_S", 5, 0.05, 3_600, "folders on network file systems are looked at so often"
    ),
    "silence_s": Number(
        "ROLLFORWARD_SILENCE_S", 60, 0.2, 3_600, "a folder that does not answer for so long counts as lost"
    ),
    "tick_s": Number("ROLLFORWARD_TICK_S", 1, 0.05, 3_600, "what is due is looked for so often"),
    "hint_again_s": Number(
        "ROLLFORWARD_HINT_AGAIN_S", 10, 0.2, 3_600, "work that was not begun is named again after so long"
    ),
    "lease_s": Number(
        "ROLLFORWARD_LEASE_S", 60, 1, 3_600, "a worker that is silent for so long counts as gone"
    ),
    "stop_s": Number(
        "ROLLFORWARD_STOP_S", 20, 0.5, 3_600, "workers have so long to stop before they are killed"
    ),
    "herald_s": Number(
        "ROLLFORWARD_HERALD_S", 10, 0.05, 3_600, "trouble is looked for, and letters are sent, so often"
    ),
    "workers": Number(
        "ROLLFORWARD_WORKERS", 1, 1, 64, "worker processes, each doing one job of a kind at a time"
    ),
}
"""Numeric settings by field name."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one agent.

    Attributes:
        state_dir: private directory of the agent: catalogue, lock, socket.
        catalogue_url: where the catalogue is kept.
        redis_url: a Redis server to use; None for an embedded one.
        time_zone: IANA name; days of newly added folders follow it.
        clock: calendar time, as `clock.parse_clock` reads it.
        log_format: "console" or "json".
        settle_s: see `NUMBERS`, as for all that follow.
        rescan_s: seconds.
        poll_s: seconds.
        silence_s: seconds.
        tick_s: seconds.
        hint_again_s: seconds.
        lease_s: seconds.
        stop_s: seconds.
        herald_s: seconds.
        workers: number of processes.
    """

    state_dir: Path
    catalogue_url: str
    redis_url: str | None
    time_zone: str
    clock: str
    log_format: str
    settle_s: float
    rescan_s: float
    poll_s: float
    silence_s: float
    tick_s: float
    hint_again_s: float
    lease_s: float
    stop_s: float
    herald_s: float
    workers: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], **chosen: str | None) -> Settings:
        """Take settings from the environment, and from what was chosen on the command line before it.

        Args:
            environment: variables, such as `os.environ`.
            chosen: values by field name; None where nothing was chosen.

        Raises:
            ConfigurationError: a value is out of range or says nothing; the message names it.
        """

        def value(field: str, variable: str, default: str) -> str:
            return chosen.get(field) or environment.get(variable) or default

        state_dir = Path(
            value("state_dir", "ROLLFORWARD_STATE", str(default_state_dir(environment)))
        ).absolute()
        numbers = {name: _number(name, environment) for name in NUMBERS}
        return cls(
            state_dir=state_dir,
            catalogue_url=value(
                "catalogue_url", "ROLLFORWARD_CATALOGUE", f"sqlite:///{state_dir / 'catalogue.sqlite'}"
            ),
            redis_url=chosen.get("redis_url") or environment.get("REDIS_URL") or None,
            time_zone=checked_zone(value("time_zone", "ROLLFORWARD_TIME_ZONE", _local_zone(environment))),
            clock=value("clock", "ROLLFORWARD_CLOCK", "system"),
            log_format=value("log_format", "ROLLFORWARD_LOG", "console"),
            settle_s=numbers["settle_s"],
            rescan_s=numbers["rescan_s"],
            poll_s=numbers["poll_s"],
            silence_s=numbers["silence_s"],
            tick_s=numbers["tick_s"],
            hint_again_s=numbers["hint_again_s"],
            lease_s=numbers["lease_s"],
            stop_s=numbers["stop_s"],
            herald_s=numbers["herald_s"],
            workers=int(numbers["workers"]),
        )

    def to_environment(self) -> dict[str, str]:
        """Write the settings as variables, for a child process."""
        texts = {
            "ROLLFORWARD_STATE": str(self.state_dir),
            "ROLLFORWARD_CATALOGUE": self.catalogue_url,
            "REDIS_URL": self.redis_url or "",
            "ROLLFORWARD_TIME_ZONE": self.time_zone,
            "ROLLFORWARD_CLOCK": self.clock,
            "ROLLFORWARD_LOG": self.log_format,
        }
        return texts | {
            NUMBERS[field.name].variable: f"{getattr(self, field.name):g}"
            for field in fields(self)
            if field.name in NUMBERS
        }

    @property
    def namespace(self) -> str:
        """Prefix of our keys in Redis: agents of one catalogue share it, all others have another."""
        return f"rollforward-{hashlib.sha256(self.catalogue_url.encode()).hexdigest()[:12]}"

    def seconds(self, name: str) -> timedelta:
        """Return a numeric setting as a duration."""
        return timedelta(seconds=float(getattr(self, name)))


def default_state_dir(environment: Mapping[str, str]) -> Path:
    """Return where an agent keeps its state: /var/lib for root, else as the XDG specification says."""
    if os.geteuid() == 0:
        return Path("/var/lib/rollforward")
    base = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "rollforward"


def _number(name: str, environment: Mapping[str, str]) -> float:
    number = NUMBERS[name]
    text = environment.get(number.variable) or f"{number.default:g}"
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not number.least <= value <= number.most or (name == "workers" and value != int(value)):
        raise ConfigurationError(
            f"{number.variable} is out of range",
            expected=f"{number.least:g} to {number.most:g}",
            actual=text,
            hint=f"Meaning: {number.meaning}.",
        )
    return value


def checked_zone(name: str) -> str:
    """Return the name of a time zone.

    Args:
        name: as a person wrote it.

    Raises:
        ConfigurationError: there is no such zone.
    """
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigurationError(
            "no such time zone", actual=name, hint="Use an IANA name such as Europe/Berlin or UTC."
        ) from None
    return name


def _local_zone(environment: Mapping[str, str]) -> str:
    """Find the name of the machine's time zone; UTC if it has none."""
    name = environment.get("TZ", "").removeprefix(":")
    if not name:
        parts = str(Path("/etc/localtime").resolve()).partition("zoneinfo/")
        name = parts[2]
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return "UTC"
    return name
