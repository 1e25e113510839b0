"""How long images stay, and why each stays or goes.

An image is due to go once an image of a higher tier holds all its points and the point that it leads from, that one
was verified after it was published, and the tier's days have passed since. What is due goes only as far as the set of
removals, judged as a whole, breaks no promise: the ends of all images that stay, holds and claims.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from policies.holdings import Holding


class Ground(StrEnum):
    """Why an image stays or goes."""

    BASE = "base"
    ASSUMED = "assumed"
    NOT_HELD_ABOVE = "not held above"
    PERMANENT = "permanent"
    YOUNG = "young"
    HELD = "held"
    NEEDED = "needed"
    FROZEN = "frozen"
    SUSPENDED = "suspended"
    ROLLED_UP = "rolled up"


@dataclass(frozen=True, slots=True)
class Fate:
    """Whether an image stays.

    Attributes:
        holding: the image.
        ground: why, in a word; `ROLLED_UP` alone means that it goes.
        cover: the verified image that holds all that it does; None if there is none.
        due_at: since when, or from when on, it may go by its age; None if that is not in sight.
        detail: who needs it, or what is frozen, in words; empty if nothing is to be added.
    """

    holding: Holding
    ground: Ground
    cover: Holding | None = None
    due_at: datetime | None = None
    detail: str = ""

    @property
    def stays(self) -> bool:
        """Whether it stays."""
        return self.ground is not Ground.ROLLED_UP
