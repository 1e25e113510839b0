"""Saying the same thing again only after a while."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime, timedelta


class Pacer:
    """Remembers what was said when, and holds back repetitions.

    Args:
        hold_off: how long the same thing is not said again.
    """

    def __init__(self, hold_off: timedelta) -> None:
        self._hold_off = hold_off
        self._said: dict[Hashable, datetime] = {}

    def may_say(self, what: Hashable, now: datetime) -> bool:
        """Tell whether it may be said now, and if so take it as said.

        Args:
            what: what is to be said.
            now: real time; one that went backwards counts as long ago.
        """
        last = self._said.get(what)
        if last is not None and last <= now < last + self._hold_off:
            return False
        self._said[what] = now
        if len(self._said) > 10_000:
            self._said = {key: at for key, at in self._said.items() if now < at + self._hold_off}
        return True

    def forget(self, what: Hashable) -> None:
        """Allow it to be said again at once."""
        self._said.pop(what, None)
