"""A time on the command line."""

from __future__ import annotations

from datetime import datetime

import click


class TimeType(click.ParamType[datetime]):
    """An ISO 8601 time; local time where it names no zone."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Turn words into a time, or say how to write one."""
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(str(value)).astimezone()
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is no time; write one like 2026-11-20T08:00 or 2026-11-20T08:00+01:00", param, ctx
            )
