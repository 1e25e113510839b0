"""Sizes, times, ages and what others wrote, in words for screens and letters."""

from __future__ import annotations

import unicodedata
from datetime import datetime, timedelta, tzinfo

VERDICT_COLOURS = {"good": "green", "unclear": "yellow", "bad": "red"}
"""How verdicts of restore tests are shown."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def age_words(age: timedelta) -> str:
    """Say an age in its largest unit: "45 s", "12 min", "3 h", "5 days".

    Args:
        age: how long ago; below zero counts as zero.
    """
    seconds = max(int(age.total_seconds()), 0)
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 2 * 3_600:
        return f"{seconds // 60} min"
    if seconds < 2 * 86_400:
        return f"{seconds // 3_600} h"
    return f"{seconds // 86_400:,} days"


def count_words(count: int, one: str) -> str:
    """Say how many: "1 folder", "2,000 folders".

    Args:
        count: how many.
        one: the word for one of them; more take an s.
    """
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def moment_words(moment: datetime, zone: tzinfo) -> str:
    """Say a moment in a time zone: "2026-03-02 07:00 CET".

    Args:
        moment: timezone-aware.
        zone: whose time is shown.
    """
    local = moment.astimezone(zone)
    name = local.tzname() or ""
    return f"{local:%Y-%m-%d %H:%M} {name if name.isalpha() else f'{local:%z}'}".rstrip()


def plain(words: object) -> str:
    """Say what others wrote (a path, a name, a reason) so that no terminal takes any of it for a command.

    Args:
        words: anything; control characters, changes of direction and the like are shown as escapes.
    """
    return "".join(
        letter
        if letter.isprintable() or unicodedata.category(letter) == "Zs"
        else letter.encode("unicode_escape").decode()
        for letter in str(words)
    )


def size_words(size_bytes: float) -> str:
    """Say a size: 1536 -> "1.5 KiB"."""
    unit = 0
    while size_bytes >= 1024 and unit < len(_UNITS) - 1:
        size_bytes /= 1024
        unit += 1
    return f"{size_bytes:.0f} B" if unit == 0 else f"{size_bytes:.1f} {_UNITS[unit]}"
