"""Points in time and the spans that lead from one to another.

A volume's history is a line of points (a tree, where a restored machine went on from an older point). Every
image file is a span: it leads *from* one point, or from nothing, *to* another, and names in order of ancestry
every point it covers on the way. Ranges are half-open: a span is (from, to].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import NewType

PointId = NewType("PointId", bytes)
"""Identity of a point: 16 random bytes drawn when it was captured."""


@dataclass(frozen=True, slots=True)
class Point:
    """One captured state of a volume.

    Attributes:
        id: 16 bytes, unique for ever.
        number: position in the chain, the base's own point being 0.
        time: when the state was taken, UTC.
        volume_bytes: size of the volume at that moment, in bytes.
    """

    id: PointId
    number: int
    time: datetime
    volume_bytes: int


@dataclass(frozen=True, slots=True)
class Span:
    """One image file, seen as the way from one point to another.

    Attributes:
        name: file name, unique within its folder.
        start: the point it leads from; None for a base, which leads from nothing.
        covers: points it covers, oldest first, never empty; the last is where it ends.
        stored_bytes: size of the file, in bytes.
        verified: whether it was read back whole, and found good, after it was published.
        assumed: whether only its name, not its header, says where it leads.
        end: the point that it leads to.
        held_ids: identities of the points that it may be applied at.
        ascends: whether numbers rise along it, as those of a sound span do.
    """

    name: str
    start: Point | None
    covers: tuple[Point, ...]
    stored_bytes: int = 0
    verified: bool = False
    assumed: bool = False
    end: Point = field(init=False, repr=False, compare=False)
    held_ids: frozenset[PointId] = field(init=False, repr=False, compare=False)
    ascends: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the shape, and work out once what is asked of a span again and again."""
        if not self.covers:
            raise ValueError(f"span {self.name!r} covers no point")
        ids = [point.id for point in self.covers]
        if self.start is not None:
            ids.append(self.start.id)
        held = frozenset(ids)
        if len(held) != len(ids):
            raise ValueError(f"span {self.name!r} names a point twice")
        numbers = [point.number for point in self.covers]
        if self.start is not None:
            numbers.insert(0, self.start.number)
        object.__setattr__(self, "end", self.covers[-1])
        object.__setattr__(self, "held_ids", held)
        object.__setattr__(self, "ascends", all(older < newer for older, newer in pairwise(numbers)))

    @property
    def is_base(self) -> bool:
        """Whether the span leads from nothing."""
        return self.start is None

    @property
    def zero_from_bytes(self) -> int:
        """Smallest volume size among the from and covered points; 0 for a base.

        Everything from there on counts as zero before the span's frames are written.
        """
        if self.start is None:
            return 0
        return min(self.start.volume_bytes, *(point.volume_bytes for point in self.covers))

    def holds(self, *ids: PointId) -> bool:
        """Tell whether every given point is the span's from point or one that it covers."""
        return self.held_ids.issuperset(ids)
