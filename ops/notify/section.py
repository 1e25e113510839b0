"""One section of a settings file: values taken out one by one, each checked, and nothing left over."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from datetime import time
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from policies.errors import ConfigurationError


class Section:
    """A section of settings, being read.

    Args:
        name: its name.
        held: what it holds.
        where: the file, for errors.
    """

    def __init__(self, name: str, held: object, where: str) -> None:
        if not isinstance(held, Mapping):
            raise ConfigurationError(f"[{name}] is a section of settings, not {held!r}", path=where)
        self._name = name
        self._held = held
        self._where = where
        self._known: list[str] = []

    def text(self, name: str, default: str | None = None) -> str:
        """Take a line of text.

        Args:
            name: of the setting.
            default: what holds if it is missing; None if it must be there.

        Raises:
            ConfigurationError: it is missing, no text, or has control characters in it.
        """
        value = self._take(name, default)
        if not isinstance(value, str) or not value.isprintable() or (default is None and not value.strip()):
            raise self.wrong(name, value, "a line of text")
        return value

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """Take a whole number within a range.

        Raises:
            ConfigurationError: it is none, or out of range.
        """
        value = self._take(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(name, value, f"a whole number from {least} to {most}")
        return value

    def choice(self, name: str, default: str, allowed: Sequence[str]) -> str:
        """Take one of a few words.

        Raises:
            ConfigurationError: it is another one.
        """
        value = self._take(name, default)
        if value not in allowed:
            raise self.wrong(name, value, ", ".join(allowed[:-1]) + f" or {allowed[-1]}")
        return str(value)

    def texts(self, name: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        """Take a list of lines of text; it must be there, and not be empty, unless there is a default.

        Raises:
            ConfigurationError: it is no such list.
        """
        value = self._take(name, default)
        is_list = isinstance(value, (list, tuple)) and all(
            isinstance(one, str) and one.strip() and one.isprintable() for one in value
        )
        if not is_list or (default is None and not value):
            raise self.wrong(name, value, 'a list of texts such as ["one", "two"]')
        return tuple(str(one) for one in value) if isinstance(value, (list, tuple)) else ()

    def words(self, name: str, allowed: Sequence[str]) -> frozenset[str]:
        """Take a list of words out of a few; all of them by default.

        Raises:
            ConfigurationError: there is another one among them.
        """
        found = self.texts(name, allowed)
        strange = [word for word in found if word not in allowed]
        if strange:
            raise self.wrong(name, strange[0], "a list of " + ", ".join(allowed))
        return frozenset(found)

    def clock_time(self, name: str, default: str) -> time:
        """Take a time of day.

        Raises:
            ConfigurationError: it is none.
        """
        value = self._take(name, default)
        if isinstance(value, time) and value.tzinfo is None:
            return value.replace(second=0, microsecond=0)
        try:
            return time.fromisoformat(value if isinstance(value, str) and len(value) == 5 else "")
        except ValueError:
            raise self.wrong(name, value, "a time of day from 00:00 to 23:59") from None

    def zone(self, name: str, default: str) -> ZoneInfo:
        """Take a time zone.

        Raises:
            ConfigurationError: there is none of that name.
        """
        value = self._take(name, default)
        try:
            return ZoneInfo(value if isinstance(value, str) else "")
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise self.wrong(name, value, "a time zone such as Europe/Berlin or UTC") from None

    def end(self) -> None:
        """Make sure that nothing is left over.

        Raises:
            ConfigurationError: there is a setting that nobody knows.
        """
        for name in self._held:
            if name not in self._known:
                near = difflib.get_close_matches(str(name), self._known, n=1)
                hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(self._known)}."
                raise ConfigurationError(
                    f"there is no setting {self._name}.{name}", path=self._where, hint=hint
                )

    def wrong(self, name: str, value: object, allowed: str) -> ConfigurationError:
        """Return the error for a value that a setting does not take."""
        found = "is missing" if value is None else f"cannot be {value!r}"
        return ConfigurationError(f"{self._name}.{name} {found}: it takes {allowed}", path=self._where)

    def _take(self, name: str, default: object) -> object:
        self._known.append(name)
        return self._held.get(name, default)
