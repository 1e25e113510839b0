"""When images are read back: at once when they are new, and then each on its own day of the period.

Each image has its day among the days of the period, given by what it is, never by when it came: so the work spreads
evenly, however many files were copied in at once, and no two checks of one image lie further apart than the period.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from policies.control import Control
from policies.folder_policy import VerificationPolicy
from policies.holdings import Holding


class VerificationCause(StrEnum):
    """Why an image is to be read back, most urgent first."""

    NEW = "new"
    NEEDED = "needed"
    PERIODIC = "periodic"


@dataclass(frozen=True, slots=True)
class PlannedVerification:
    """An image to be read back.

    Attributes:
        name: its file name.
        cause: why, in a word.
        reason: why, in words for the administrator.
    """

    name: str
    cause: VerificationCause
    reason: str


def plan_verifications(
    holdings: Iterable[Holding],
    policy: VerificationPolicy,
    control: Control,
    now: datetime,
    needed: Collection[str] = (),
) -> tuple[PlannedVerification, ...]:
    """Tell which images are to be read back now.

    Args:
        holdings: the images of a chain; those that are bad, gone or set aside are left alone.
        policy: what the folder is told to do.
        control: as of when the daily work is judged.
        now: the present moment.
        needed: names of images that something due waits for.

    Returns:
        New ones first, then those that are needed, then those whose day it is, longest unchecked first.
    """
    days = _latest_days(policy, control)
    planned: list[tuple[int, datetime, PlannedVerification]] = []
    for holding in holdings:
        if not holding.is_present or holding.fault is not None:
            continue
        found = _cause(holding, policy, days, now, needed)
        if found is not None:
            cause, reason = found
            since = holding.last_checked_at or holding.first_seen_at
            order = tuple(VerificationCause).index(cause)
            planned.append((order, since, PlannedVerification(holding.name, cause, reason)))
    planned.sort(key=lambda entry: (entry[0], entry[1], entry[2].name))
    return tuple(verification for _, _, verification in planned)


def next_verification_at(
    holdings: Iterable[Holding], policy: VerificationPolicy, control: Control
) -> datetime | None:
    """Tell when the next image's day comes.

    Args:
        holdings: the images of a chain.
        policy: what the folder is told to do.
        control: as of when the daily work is judged.

    Returns:
        The moment, after the one as of which it is judged; None for never.
    """
    if not policy.reverify or not control.runs:
        return None
    found: datetime | None = None
    days = _next_days(policy, control)
    for slot in {slot_of(holding, policy.reverify_days) for holding in holdings if holding.is_present}:
        found = days[slot] if found is None else min(found, days[slot])
    return found


def slot_of(holding: Holding, period_days: int) -> int:
    """Tell an image's day among the days of the period.

    Args:
        holding: the image.
        period_days: length of the period, in days.

    Returns:
        0 to `period_days` - 1; the same for the same image wherever it is asked.
    """
    return holding.seed % period_days


def next_check_of(holding: Holding, policy: VerificationPolicy, control: Control) -> datetime | None:
    """Tell when an image's next day comes.

    Args:
        holding: the image.
        policy: what the folder is told to do.
        control: as of when the daily work is judged.

    Returns:
        The moment, after the one as of which it is judged; None for never.
    """
    if not policy.reverify or not control.runs:
        return None
    ahead = 1 + (slot_of(holding, policy.reverify_days) - control.day.toordinal() - 1) % policy.reverify_days
    return control.moment_on(control.day + timedelta(days=ahead))


def _cause(
    holding: Holding,
    policy: VerificationPolicy,
    days: dict[int, datetime],
    now: datetime,
    needed: Collection[str],
) -> tuple[VerificationCause, str] | None:
    checked = holding.last_checked_at if holding.span.verified else None
    if checked is None and policy.verify_new:
        return VerificationCause.NEW, "it is new"
    if not holding.span.verified and holding.name in needed:
        return VerificationCause.NEEDED, "what is due rests on it"
    if not days:
        return None
    since = holding.first_seen_at if checked is None else checked
    if since > now:
        return (
            VerificationCause.PERIODIC,
            f"it was last looked at at a time that has not come yet, {since:%F %R}",
        )
    if since < days[slot_of(holding, policy.reverify_days)]:
        words = "has never been verified" if checked is None else f"was last verified on {checked:%F %R} UTC"
        return VerificationCause.PERIODIC, f"it {words}, and is verified every {policy.reverify_days} days"
    return None


def _latest_days(policy: VerificationPolicy, control: Control) -> dict[int, datetime]:
    """Give the last moment at which each slot's day came; none if nothing is verified again."""
    if not policy.reverify or control.as_of is None:
        return {}
    today, period = control.day, policy.reverify_days
    days = (today - timedelta(days=back) for back in range(period))
    return {_slot(day, period): control.moment_on(day) for day in days}


def _next_days(policy: VerificationPolicy, control: Control) -> dict[int, datetime]:
    """Give the next moment at which each slot's day comes."""
    period = policy.reverify_days
    days = (control.day + timedelta(days=ahead) for ahead in range(1, period + 1))
    return {_slot(day, period): control.moment_on(day) for day in days}


def _slot(day: date, period_days: int) -> int:
    return day.toordinal() % period_days
