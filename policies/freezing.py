"""When nothing is removed because something looks wrong.

A freeze keeps a chain from losing images; all else goes on. It says what was seen and how it ends: by itself once
what was seen is no longer so, or by a person who says that it is well. What was said to be well once does not freeze
again; the same trouble with other evidence does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from statistics import median
from typing import Final

from policies.holdings import Holding
from policies.names import Tier

VANISHED_COUNT: Final = 3
"""So many images must be gone at least before it looks wrong."""

VANISHED_SHARE: Final = 0.1
"""And this share of those that should be there."""

SUSPICION: Final = timedelta(days=14)
"""How long an incremental that looked wrong keeps images from being removed."""

HISTORY_COUNT: Final = 12
"""So many incrementals must have gone before one that is held against them."""

GROWTH_FACTOR: Final = 5
"""An incremental looks wrong that is so many times as large as the largest before it."""

GROWTH_SHARE: Final = 0.05
"""And that holds this share of the volume."""

PACKED_RATIO: Final = 0.95
"""Stored bytes to plain ones, from which on contents count as incompressible: encrypted, or packed already."""

LOOSE_RATIO: Final = 0.75
"""Below this ratio a volume's incrementals count as compressible."""

PACKED_RUN: Final = 3
"""So many incrementals in a row must be incompressible, each of at least `PACKED_BYTES`."""

PACKED_BYTES: Final = 64 << 20
"""Smaller incrementals say nothing about how a volume's contents compress, in plain bytes."""


class FreezeKind(StrEnum):
    """What looks wrong.

    VANISHED: many images are gone at once. GREW: incrementals are much larger than they were. INCOMPRESSIBLE: they
    compress much worse than they did. CLOCK: the system clock jumped. BROKEN: a point that should be restorable is
    not. REBUILT: the catalogue is new, and not everybody has said what is needed. PERSON: somebody wants it so.
    """

    VANISHED = "vanished"
    GREW = "grew"
    INCOMPRESSIBLE = "incompressible"
    CLOCK = "clock"
    BROKEN = "broken"
    REBUILT = "rebuilt"
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class Freeze:
    """A reason not to remove anything.

    Attributes:
        kind: what looks wrong.
        key: the kind and its evidence, in one line: what a person's waiver names.
        since: since when.
        reason: what was seen, in words for the administrator.
        ends: how it ends, in words.
        ends_at: when it ends by itself, whatever happens; None if only a change of things, or a person, ends it.
    """

    kind: FreezeKind
    key: str
    since: datetime
    reason: str
    ends: str
    ends_at: datetime | None = None


def judge_vanished(expected: int, gone: Mapping[str, datetime]) -> Freeze | None:
    """Tell whether many images are gone at once.

    Args:
        expected: how many images should be there, those that are gone among them.
        gone: since when each image has been gone that nobody of ours took away, by name.

    Returns:
        The freeze; None if it looks right.
    """
    if len(gone) < VANISHED_COUNT or len(gone) < VANISHED_SHARE * expected:
        return None
    evidence = _evidence(gone)
    return Freeze(
        kind=FreezeKind.VANISHED,
        key=f"{FreezeKind.VANISHED.value} {evidence}",
        since=min(gone.values()),
        reason=f"{len(gone)} of {expected} images are gone, {min(gone)} among them",
        ends="once they are back",
    )


def judge_sizes(holdings: Iterable[Holding], now: datetime) -> tuple[Freeze, ...]:
    """Tell whether the incrementals of a chain look as if somebody were rewriting the volume.

    Args:
        holdings: the images of a chain, in any order.
        now: the present moment.

    Returns:
        A freeze for each way in which they look wrong.
    """
    plain = [one for one in holdings if one.tier is Tier.INCREMENTAL and one.span.start is not None]
    ordered = sorted((one for one in plain if one.is_usable), key=lambda one: (one.span.end.number, one.name))
    found = (_judge_growth(ordered), _judge_packing(ordered))
    return tuple(freeze for freeze in found if freeze is not None and (freeze.ends_at or now) > now)


def judge_rebuilt(rebuilt_at: datetime, silent: Collection[str]) -> Freeze | None:
    """Tell whether a new catalogue knows yet what is needed.

    Args:
        rebuilt_at: when the catalogue was built anew.
        silent: the jobs and targets that have not said yet what they need, in words.

    Returns:
        The freeze; None once everybody has.
    """
    if not silent:
        return None
    return Freeze(
        kind=FreezeKind.REBUILT,
        key=f"{FreezeKind.REBUILT.value} {rebuilt_at.isoformat(timespec='seconds')}",
        since=rebuilt_at,
        reason=f"the catalogue is new, and {', '.join(sorted(silent))} have not said yet what they need",
        ends="once they have",
    )


def _judge_growth(ordered: Sequence[Holding]) -> Freeze | None:
    """Find incrementals that are far larger than all before them."""
    wrong: list[Holding] = []
    largest = 0
    for count, one in enumerate(ordered):
        size = one.span.stored_bytes
        is_large = size >= GROWTH_SHARE * one.span.end.volume_bytes
        if count >= HISTORY_COUNT and is_large and size >= GROWTH_FACTOR * max(largest, 1):
            wrong.append(one)
        else:
            largest = max(largest, size)
    if not wrong:
        return None
    words = f"{wrong[0].name} is more than {GROWTH_FACTOR} times as large as all incrementals before it"
    return _suspicion(FreezeKind.GREW, wrong, words)


def _judge_packing(ordered: Sequence[Holding]) -> Freeze | None:
    """Find incrementals, several in a row, that compress no more, on a volume whose contents did."""
    ratios = [
        (one, one.span.stored_bytes / one.plain_bytes)
        for one in ordered
        if one.plain_bytes is not None and one.plain_bytes >= PACKED_BYTES
    ]
    loose: list[float] = []
    run: list[Holding] = []
    wrong: list[Holding] = []
    for one, ratio in ratios:
        if len(loose) >= HISTORY_COUNT and ratio >= PACKED_RATIO and median(loose) <= LOOSE_RATIO:
            run.append(one)
            if len(run) >= PACKED_RUN:
                wrong.extend(run if len(run) == PACKED_RUN else run[-1:])
        else:
            run.clear()
            loose.append(ratio)
    if not wrong:
        return None
    words = f"incrementals do not compress any more since {wrong[0].name}, as if contents were encrypted"
    return _suspicion(FreezeKind.INCOMPRESSIBLE, wrong, words)


def _suspicion(kind: FreezeKind, wrong: Sequence[Holding], reason: str) -> Freeze:
    ends_at = max(one.first_seen_at for one in wrong) + SUSPICION
    return Freeze(
        kind=kind,
        key=f"{kind.value} {_evidence([wrong[-1].name])}",
        since=min(one.first_seen_at for one in wrong),
        reason=reason,
        ends=f"on {ends_at:%Y-%m-%d}, if no more such images come",
        ends_at=ends_at,
    )


def _evidence(names: Iterable[str]) -> str:
    text = "\n".join(sorted(names)).encode(errors="surrogateescape")
    return hashlib.blake2b(text, digest_size=8).hexdigest()
