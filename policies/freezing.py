"""When nothing is removed because something looks wrong.

A freeze keeps a chain from losing images; all else goes on. It says what was seen and how it ends: by itself once
what was seen is no longer so, or by a person who says that it is well. What was said to be well once does not freeze
again; the same trouble with other evidence does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class FreezeKind(StrEnum):
    """What looks wrong.

    VANISHED: many images are gone at once. GREW: incrementals are much larger than they were. INCOMPRESSIBLE: they
    compress much worse than they did. CLOCK: the system clock jumped. BROKEN: a point that should be restorable is
    not. REBUILT: the catalogue is new, and not everybody has said what is needed.
    """

    VANISHED = "vanished"
    GREW = "grew"
    INCOMPRESSIBLE = "incompressible"
    CLOCK = "clock"
    BROKEN = "broken"
    REBUILT = "rebuilt"


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
