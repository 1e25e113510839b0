"""All that is known of a chain at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, tzinfo

from policies.freezing import Freeze
from policies.holdings import Claim, Hold, Holding
from policies.points import PointId


@dataclass(frozen=True, slots=True)
class ChainFacts:
    """All that is known of a chain at one moment.

    Attributes:
        volume: name of the volume, as in file names.
        base_number: number of the chain's base, as in file names.
        zone: the folder's time zone.
        holdings: the chain's image files, in any order; those that are bad, gone or set aside among them.
        seen_at: when points were first seen whose stamps cannot be right (`holdings.worth_remembering`), also by files
            that are gone since.
        holds: what people want to stay.
        claims: what work and disks need.
        freezes: why nothing of the chain may be removed at present, as `freezing` judges it; those that a plan found
            itself (`BROKEN`) tell only since when.
        waived: keys of freezes that a person has said are well.
        taken: names of other files in the folder, so that no result is given one of them.
        blocked: results, by name, that are not to be tried at present, each with its reason (quarantine, back-off).
    """

    volume: str
    base_number: int
    zone: tzinfo
    holdings: tuple[Holding, ...] = ()
    seen_at: Mapping[PointId, datetime] = field(default_factory=dict)
    holds: tuple[Hold, ...] = ()
    claims: tuple[Claim, ...] = ()
    freezes: tuple[Freeze, ...] = ()
    waived: frozenset[str] = frozenset()
    taken: frozenset[str] = frozenset()
    blocked: Mapping[str, str] = field(default_factory=dict)
