"""One setting: its name, what it may be, and what it means.

Values cross the border as plain ones (true and false, whole numbers, text), as TOML and JSON have them; what a
person types is text. Either way an error names the setting, the value and what is allowed.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import time
from enum import StrEnum
from typing import Final

from policies.calendar import LAST_WEEK, MonthEnd, Weekday
from policies.errors import ConfigurationError

OFF: Final = "off"
"""What stands for a setting that is switched off, where it can be."""

SettingValue = bool | int | str
"""A setting's value as TOML and JSON have it."""

_ORDINALS: Final = {"first": 1, "second": 2, "third": 3, "fourth": 4, "last": LAST_WEEK}
_YES: Final = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
_WEEKDAYS: Final = {day.name.lower(): day for day in Weekday}


class SettingKind(StrEnum):
    """What values a setting takes."""

    SWITCH = "switch"
    NUMBER = "number"
    WEEKDAY = "weekday"
    MONTH_END = "month end"
    TIME = "time of day"


@dataclass(frozen=True, slots=True)
class SettingField:
    """A row of the table of settings.

    Attributes:
        section: the section that it stands in.
        name: its name there.
        kind: what values it takes.
        default: its value where no layer sets it; None for off.
        meaning: what it sets, in words for the administrator.
        lowest: the smallest number that it takes.
        highest: the largest.
        can_be_off: whether it takes "off".
    """

    section: str
    name: str
    kind: SettingKind
    default: object
    meaning: str
    lowest: int = 0
    highest: int = 0
    can_be_off: bool = False

    @property
    def key(self) -> str:
        """The name with its section, such as "retention.keep_daily_days"."""
        return f"{self.section}.{self.name}"

    @property
    def allowed(self) -> str:
        """What values it takes, in words."""
        words = {
            SettingKind.SWITCH: "true or false",
            SettingKind.NUMBER: f"a whole number from {self.lowest} to {self.highest}",
            SettingKind.WEEKDAY: "a weekday, such as saturday",
            SettingKind.MONTH_END: 'a day from 1 to 31, or words such as "last friday" or "fourth monday"',
            SettingKind.TIME: "a time of day from 00:00 to 23:59",
        }[self.kind]
        return f"{words}, or {OFF}" if self.can_be_off else words

    def parse(self, value: object, where: str, *, allowed: str | None = None) -> object:
        """Read a plain value.

        Args:
            value: what a layer holds.
            where: which layer, for errors.
            allowed: what may be written there, in words, if it is not what `allowed` says.

        Returns:
            What the setting becomes; None for off.

        Raises:
            ConfigurationError: it takes no such value; the message names it, the value and what is allowed.
        """
        if self.can_be_off and (value == OFF or value is False):
            return None
        if self.kind is SettingKind.SWITCH:
            found: object = value if isinstance(value, bool) else None
        elif self.kind is SettingKind.NUMBER:
            found = value if _is_whole(value) and self._holds(value) else None
        else:
            found = _READERS[self.kind](value)
        if found is None:
            raise ConfigurationError(
                f"{self.key} cannot be {value!r}: it takes {allowed or self.allowed}",
                path=where,
                hint=f"{self.key}: {self.meaning}.",
            )
        return found

    def from_text(self, text: str, where: str) -> object:
        """Read what a person typed.

        Args:
            text: the value in words.
            where: where it was typed, for errors.

        Returns:
            What the setting becomes; None for off.

        Raises:
            ConfigurationError: as of `parse`.
        """
        words = text.strip()
        if self.kind is SettingKind.SWITCH:
            return self.parse(_YES.get(words.lower(), text), where, allowed="on or off")
        if self.kind in (SettingKind.NUMBER, SettingKind.MONTH_END) and words.isascii() and words.isdecimal():
            return self.parse(int(words) if len(words) < 10 else text, where)
        return self.parse(words.lower(), where)

    def plain(self, value: object) -> SettingValue:
        """Write a value as a plain one; the inverse of `parse`.

        Args:
            value: what the setting is.
        """
        if value is None:
            return OFF
        if isinstance(value, Weekday):
            return value.name.lower()
        if isinstance(value, MonthEnd):
            return _month_end_words(value)
        if isinstance(value, time):
            return value.strftime("%H:%M")
        if isinstance(value, (bool, int, str)):
            return value
        raise TypeError(f"{self.key} is never {value!r}")

    def _holds(self, number: object) -> bool:
        return isinstance(number, int) and self.lowest <= number <= self.highest


def find_field(fields: Sequence[SettingField], key: str, where: str) -> SettingField:
    """Find a setting by its name.

    Args:
        fields: the table.
        key: the name with its section.
        where: where it was named, for errors.

    Returns:
        Its row.

    Raises:
        ConfigurationError: there is none of that name.
    """
    known = {field.key: field for field in fields}
    if key in known:
        return known[key]
    raise _unknown(key, list(known), where)


def read_layer(
    fields: Sequence[SettingField], layer: Mapping[str, object], where: str
) -> dict[str, dict[str, object]]:
    """Read all that a layer sets.

    Args:
        fields: the table.
        layer: sections of plain values.
        where: which layer, for errors.

    Returns:
        What is set, by section and name.

    Raises:
        ConfigurationError: there is no such section or setting, or a value is not allowed.
    """
    sections = sorted({field.section for field in fields})
    found: dict[str, dict[str, object]] = {}
    for section, held in layer.items():
        if section not in sections:
            raise _unknown(section, sections, where)
        if not isinstance(held, Mapping):
            raise ConfigurationError(f"{section} is a section of settings, not {held!r}", path=where)
        for name, value in held.items():
            field = find_field(fields, f"{section}.{name}", where)
            found.setdefault(section, {})[field.name] = field.parse(value, where)
    return found


def _unknown(name: str, known: Sequence[str], where: str) -> ConfigurationError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."
    return ConfigurationError(f"there is no setting {name!r}", path=where, hint=hint)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _weekday(value: object) -> Weekday | None:
    return _WEEKDAYS.get(value.lower()) if isinstance(value, str) else None


def _month_end(value: object) -> MonthEnd | None:
    if isinstance(value, int) and _is_whole(value):
        return MonthEnd(value) if 1 <= value <= 31 else None
    words = value.lower().split() if isinstance(value, str) else []
    if len(words) != 2 or words[0] not in _ORDINALS or words[1] not in _WEEKDAYS:
        return None
    return MonthEnd(weekday=_WEEKDAYS[words[1]], week=_ORDINALS[words[0]])


def _month_end_words(end: MonthEnd) -> int | str:
    if end.weekday is None:
        return end.day
    ordinal = next(word for word, week in _ORDINALS.items() if week == end.week)
    return f"{ordinal} {end.weekday.name.lower()}"


def _time_of_day(value: object) -> time | None:
    if isinstance(value, time):
        return value if value.tzinfo is None and value == value.replace(second=0, microsecond=0) else None
    if not isinstance(value, str) or len(value) != 5 or value[2] != ":":
        return None
    hour, minute = value[:2], value[3:]
    if not (hour + minute).isascii() or not (hour + minute).isdecimal():
        return None
    return time(int(hour), int(minute)) if int(hour) < 24 and int(minute) < 60 else None


_READERS: Final[Mapping[SettingKind, Callable[[object], object]]] = {
    SettingKind.WEEKDAY: _weekday,
    SettingKind.MONTH_END: _month_end,
    SettingKind.TIME: _time_of_day,
}
