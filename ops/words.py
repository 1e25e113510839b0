"""Times and ages in words, for screens and letters."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo


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


def moment_words(moment: datetime, zone: tzinfo) -> str:
    """Say a moment in a time zone: "2026-03-02 07:00 CET".

    Args:
        moment: timezone-aware.
        zone: whose time is shown.
    """
    local = moment.astimezone(zone)
    name = local.tzname() or ""
    return f"{local:%Y-%m-%d %H:%M} {name if name.isalpha() else f'{local:%z}'}".rstrip()
