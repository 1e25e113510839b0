"""Whether a chain still keeps what it promised.

A point is lost when an image that stays ends there and no images lead to it that may turn out to be good, or when a
hold or a claim names it and no verified images do. Whatever the cause, nothing is removed until it is repaired or a
person says that it is well: what could still help is not to go as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from policies.freezing import Freeze, FreezeKind
from policies.holdings import Holding
from policies.points import Point, PointId
from policies.retention import Fate
from policies.retiring import BrokenPromise


@dataclass(frozen=True, slots=True)
class LostPoint:
    """Where a way breaks off.

    Attributes:
        point: the first point that is out of reach.
        reason: why, in words for the administrator.
    """

    point: Point
    reason: str


def lost_points(fates: Iterable[Fate], within_reach: Collection[PointId]) -> tuple[LostPoint, ...]:
    """Tell where ways break off that lead to images that stay.

    Args:
        fates: what becomes of the images by tier and age.
        within_reach: the points that images lead to which may turn out to be good.

    Returns:
        One for each cause, by number: what only follows behind adds none.
    """
    out_of_reach = [
        fate.holding
        for fate in fates
        if fate.stays and not fate.holding.span.assumed and fate.holding.span.end.id not in within_reach
    ]
    ends = {holding.span.end.id for holding in out_of_reach}
    found: dict[PointId, LostPoint] = {}
    for holding in out_of_reach:
        cause = _cause(holding, ends, within_reach)
        if cause is not None:
            found.setdefault(cause.point.id, cause)
    return tuple(sorted(found.values(), key=lambda lost: (lost.point.number, lost.point.id)))


def freeze_of_broken(
    lost: Sequence[LostPoint], failing: Sequence[BrokenPromise], known: Iterable[Freeze], now: datetime
) -> Freeze | None:
    """Give the freeze of a chain that does not keep what it promised.

    Args:
        lost: where ways break off.
        failing: promises of holds and claims that do not hold now.
        known: freezes that were found before, for their beginning.
        now: the present moment.

    Returns:
        The freeze; None if all is well.
    """
    reasons = [*(one.reason for one in lost), *(one.reason for one in failing)]
    if not reasons:
        return None
    points = [one.point.id for one in lost]
    promises = [f"{one.promise.needed_by}".encode() + one.promise.point.id for one in failing]
    evidence = hashlib.blake2b(b"".join(sorted([*points, *promises])), digest_size=8).hexdigest()
    key = f"{FreezeKind.BROKEN.value} {evidence}"
    since = next((freeze.since for freeze in known if freeze.key == key), now)
    more = "" if len(reasons) == 1 else f", and {len(reasons) - 1} more"
    return Freeze(
        kind=FreezeKind.BROKEN,
        key=key,
        since=since,
        reason=f"{reasons[0]}{more}",
        ends="once good images lead there again",
    )


def _cause(
    holding: Holding, lost_ends: Collection[PointId], within_reach: Collection[PointId]
) -> LostPoint | None:
    start, end = holding.span.start, holding.span.end
    if holding.fault is not None and (start is None or start.id in within_reach):
        return LostPoint(end, f"point {end.number} is out of reach: {holding.name} is bad ({holding.fault})")
    if start is None or start.id in lost_ends:
        return None
    reason = f"no good image leads to point {start.number}, from which {holding.name} leads on"
    return LostPoint(start, reason)
