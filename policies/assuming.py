"""Spans that only file names vouch for: where files lead whose container cannot be read.

A name tells the base, the differential and the number that a file leads to. Where it leads from is a guess: an
incremental from the number before; a differential, and the first on it, from the base; a consolidation from where the
nearest earlier one of its tier or a higher one ends. Such spans are marked `assumed`. They are shown to people, and
nothing rests on them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from policies.names import ImageName, Tier, parse_image_name
from policies.points import Point, PointId, Span

_RANKS: Final = {tier: rank for rank, tier in enumerate(Tier)}
_Place = tuple[int, int]
"""Differential and number of a point; 0 for none, so that (0, 0) is the base's own."""


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file of which nothing but the outside is known.

    Attributes:
        name: file name; of a spanned set, that of its first part.
        modified_at: when it was last written: the time that is assumed for its point.
        stored_bytes: its size, all its parts together.
    """

    name: str
    modified_at: datetime
    stored_bytes: int = 0


def assumed_chain_id(volume: str, base: int) -> bytes:
    """Return 16 bytes that stand for a chain which only names tell of: the same for the same volume and base."""
    return _identity(f"chain\0{volume}\0{base}")


def assume_spans(files: Iterable[NamedFile]) -> tuple[Span, ...]:
    """Say where files seem to lead.

    Numbers on a differential may be counted from it or on from the base: ShadowProtect begins anew, we do not. Points
    are told apart by both, and nothing is made of a number but its order.

    Args:
        files: any files of one folder; those whose name is not an image's are passed over.

    Returns:
        A span for each file, in the order of the files, all of them assumed.
    """
    named = [(file, parse_image_name(file.name)) for file in files]
    known = [(file, name) for file, name in named if name is not None]
    chains: dict[tuple[str, int], dict[_Place, list[tuple[NamedFile, ImageName]]]] = defaultdict(dict)
    for file, name in known:
        ends = chains[name.volume, name.base]
        ends.setdefault(_place(name), []).append((file, name))
    return tuple(_span(file, name, chains[name.volume, name.base]) for file, name in known)


@dataclass(frozen=True, slots=True)
class AssumedGap:
    """A point that names lead on from, and to which no name leads.

    Attributes:
        missing: the point.
        waiting: names of the files that seem to lead from it, in order.
    """

    missing: Point
    waiting: tuple[str, ...]


def assumed_gaps(spans: Iterable[Span]) -> tuple[AssumedGap, ...]:
    """Find the points of one chain that names lead on from, and to which no name leads.

    Args:
        spans: from `assume_spans`.
    """
    known = list(spans)
    reached = {span.end.id for span in known}
    starts = {span.start.id: span.start for span in known if span.start and span.start.id not in reached}
    waiting = {
        key: sorted(span.name for span in known if span.start and span.start.id == key) for key in starts
    }
    gaps = (AssumedGap(point, tuple(waiting[key])) for key, point in starts.items())
    return tuple(sorted(gaps, key=lambda gap: (gap.missing.number, gap.waiting)))


def _span(file: NamedFile, name: ImageName, ends: Mapping[_Place, list[tuple[NamedFile, ImageName]]]) -> Span:
    def point(place: _Place) -> Point:
        """The time of a point is when the first of the files that lead there was written."""
        times = [other.modified_at for other, _ in ends.get(place, ((file, name),))]
        return _point(name, place, min(times))

    place = _place(name)
    start = None if name.is_full else point(_start(name, place, ends))
    return Span(file.name, start, (point(place),), stored_bytes=file.stored_bytes, assumed=True)


def _start(
    name: ImageName, place: _Place, ends: Mapping[_Place, list[tuple[NamedFile, ImageName]]]
) -> _Place:
    differential, number = place
    if number == 0:
        return 0, 0
    if not name.tiers:
        may_be_first = number in (1, differential + 1) and (differential, number - 1) not in ends
        return (differential, 0) if may_be_first else (differential, number - 1)
    rank = _RANKS[name.tiers[-1]]
    earlier = [
        other
        for (line, other), files in ends.items()
        if line == differential
        and other < number
        and any(each.tiers and _RANKS[each.tiers[-1]] >= rank for _, each in files)
    ]
    return differential, max(earlier, default=0)


def _place(name: ImageName) -> _Place:
    """Say which point a name leads to; d000 and i000, which ShadowProtect may write, say "none"."""
    return name.differential or 0, name.number or 0


def _point(name: ImageName, place: _Place, time: datetime) -> Point:
    identity = _identity(f"point\0{name.volume}\0{name.base}\0{place[0]}\0{place[1]}")
    return Point(PointId(identity), sum(place), time, 0)


def _identity(text: str) -> bytes:
    return hashlib.blake2b(f"assumed\0{text}".encode(), digest_size=16).digest()
