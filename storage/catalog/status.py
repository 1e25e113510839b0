"""The state of all folders at a glance, told from a few rows each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from policies.names import Tier
from storage.catalog.folder_order import in_order
from storage.catalog.models import Attempt, Folder, FolderTally, ImageState


@dataclass(frozen=True, slots=True)
class Tally:
    """How many images there are, and how large they are together.

    Attributes:
        images: their number.
        stored_bytes: their sizes together.
    """

    images: int = 0
    stored_bytes: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.images + other.images, self.stored_bytes + other.stored_bytes)


@dataclass(frozen=True, slots=True)
class FolderCounts:
    """What a folder holds.

    Attributes:
        by_state: images of each state; states that none has are left out.
        by_tier: images of each tier that are there, retired and missing ones apart.
    """

    by_state: Mapping[ImageState, Tally] = field(default_factory=dict)
    by_tier: Mapping[Tier, Tally] = field(default_factory=dict)


def counts_by_folder(session: Session) -> dict[int, FolderCounts]:
    """Return what each folder holds; folders without images are left out."""
    states: dict[int, dict[ImageState, Tally]] = {}
    tiers: dict[int, dict[Tier, Tally]] = {}
    query = select(
        FolderTally.folder_id,
        FolderTally.state,
        FolderTally.tier,
        FolderTally.images,
        FolderTally.stored_bytes,
    ).where(FolderTally.images > 0)
    for folder_id, state, tier, images, stored_bytes in session.execute(query):
        tally = Tally(images, stored_bytes)
        by_state = states.setdefault(folder_id, {})
        by_state[state] = by_state.get(state, Tally()) + tally
        if state not in (ImageState.MISSING, ImageState.ASIDE):
            by_tier = tiers.setdefault(folder_id, {})
            by_tier[tier] = by_tier.get(tier, Tally()) + tally
    return {
        folder_id: FolderCounts(by_state, tiers.get(folder_id, {})) for folder_id, by_state in states.items()
    }


def total_counts(session: Session) -> FolderCounts:
    """Return what all folders hold together."""
    states: dict[ImageState, Tally] = {}
    tiers: dict[Tier, Tally] = {}
    query = select(
        FolderTally.state, FolderTally.tier, func.sum(FolderTally.images), func.sum(FolderTally.stored_bytes)
    ).where(FolderTally.images > 0)
    for state, tier, images, stored_bytes in session.execute(
        query.group_by(FolderTally.state, FolderTally.tier)
    ):
        tally = Tally(int(images), int(stored_bytes))
        states[state] = states.get(state, Tally()) + tally
        if state not in (ImageState.MISSING, ImageState.ASIDE):
            tiers[tier] = tiers.get(tier, Tally()) + tally
    return FolderCounts(states, tiers)


def folders_in_trouble(session: Session) -> list[Folder]:
    """Return the folders that cannot be read, or whose ledgers cannot, the most important ones first."""
    query = select(Folder).where(Folder.problem.is_not(None) | Folder.ledger_problem.is_not(None))
    return list(session.scalars(query.order_by(*in_order())))


def quarantined_work(session: Session) -> int:
    """Tell how much work is set aside after it went wrong, what a person dropped apart."""
    query = select(func.count()).where(Attempt.quarantined.is_(True), Attempt.dropped_by.is_(None))
    return session.scalar(query.select_from(Attempt)) or 0
