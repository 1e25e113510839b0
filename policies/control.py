"""As of which moment the daily work is judged.

The daily work (verifying again, rolling up, retiring) begins at the control time of each local day, and looks at the
world as of that moment: what ended before is due, what ends later today waits for tomorrow. When a person starts it,
it looks at the world as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo

from policies.calendar import day_of, moment_of
from policies.folder_policy import ControlPolicy

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Control:
    """The moment as of which the daily work is judged, and those that follow.

    Attributes:
        policy: when the daily work is done.
        zone: the folder's time zone.
        as_of: the moment; None if the daily work is suspended.
        day: the local day on which it last began, or would have.
    """

    policy: ControlPolicy
    zone: tzinfo
    as_of: datetime | None
    day: date

    @property
    def runs(self) -> bool:
        """Whether the daily work is done by itself."""
        return self.policy.enabled

    def moment_on(self, day: date) -> datetime:
        """Tell when the daily work begins on a local day."""
        return moment_of(day, self.policy.at, self.zone)

    def first_from(self, moment: datetime) -> datetime:
        """Tell when the daily work begins next.

        Args:
            moment: the earliest moment that will do.
        """
        day = day_of(moment, self.zone)
        while (begins := self.moment_on(day)) < moment and day < date.max:
            day += _DAY
        return begins


def control_at(now: datetime, policy: ControlPolicy, zone: tzinfo, *, started: bool = False) -> Control:
    """Tell as of when the daily work is judged.

    Args:
        now: the present moment.
        policy: when the daily work is done.
        zone: the folder's time zone.
        started: whether a person has started it just now.

    Returns:
        The last control time; the present moment if a person started it.
    """
    day = day_of(now, zone)
    while moment_of(day, policy.at, zone) > now and day > date.min:
        day -= _DAY
    if started:
        return Control(policy, zone, now, day)
    return Control(policy, zone, moment_of(day, policy.at, zone) if policy.enabled else None, day)
