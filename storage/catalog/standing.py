"""How things stand, beyond counts: newest images of volumes, oldest unverified ones, work under way and in trouble.

Each question is answered from a few rows a folder or a chain, found by an index: what lies in a folder for years is
never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session, aliased

from policies.names import Tier
from storage.catalog.memory_models import Notice
from storage.catalog.models import Attempt, Chain, Image, ImageState, WorkKind

UNVERIFIED: Final = (ImageState.SETTLING, ImageState.LANDED, ImageState.VERIFYING)
"""States of images that are still to be verified."""

_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class VolumeStanding:
    """A volume in a folder.

    Attributes:
        folder_id: the folder.
        volume: name of the volume.
        newest_at: when an image of it last landed (calendar), what was rolled up apart; None if none is known.
        waiting: in words, why what is due for its chains cannot be done; the first of them.
        waiting_count: how many of its chains wait.
    """

    folder_id: int
    volume: str
    newest_at: datetime | None
    waiting: str | None
    waiting_count: int


@dataclass(frozen=True, slots=True)
class WorkCounts:
    """Attempts of one kind of work.

    Attributes:
        running: under way.
        waiting: to be tried again later.
        quarantined: set aside.
    """

    running: int = 0
    waiting: int = 0
    quarantined: int = 0


def volumes(session: Session, folder_ids: Sequence[int] | None = None) -> list[VolumeStanding]:
    """Return the volumes of all folders, or of some, by folder and name."""
    image = aliased(Image)
    newest = (
        select(image.first_seen_at)
        .where(image.chain_id == Chain.id, image.tier == Tier.INCREMENTAL)
        .order_by(image.id.desc())
        .limit(1)
        .correlate(Chain)
        .scalar_subquery()
    )
    query = select(Chain.folder_id, Chain.volume, newest, Chain.waits_for).order_by(
        Chain.folder_id, Chain.volume, Chain.id
    )
    if folder_ids is not None:
        query = query.where(Chain.folder_id.in_(list(folder_ids)[:_AT_ONCE]))
    found: dict[tuple[int, str], VolumeStanding] = {}
    for folder_id, volume, newest_at, waits_for in session.execute(query):
        before = found.get((folder_id, volume), VolumeStanding(folder_id, volume, None, None, 0))
        moments = [moment for moment in (before.newest_at, newest_at) if moment is not None]
        found[folder_id, volume] = VolumeStanding(
            folder_id,
            volume,
            max(moments, default=None),
            before.waiting or waits_for,
            before.waiting_count + (waits_for is not None),
        )
    return list(found.values())


def oldest_unverified(session: Session, folder_ids: Sequence[int]) -> dict[int, datetime]:
    """Return since when the oldest image has waited to be verified, by folder.

    Args:
        session: any session.
        folder_ids: folders that have such images, as their counts tell.
    """
    found: dict[int, datetime] = {}
    for begin in range(0, len(folder_ids), _AT_ONCE):
        query = (
            select(Image.folder_id, func.min(Image.first_seen_at))
            .where(Image.folder_id.in_(folder_ids[begin : begin + _AT_ONCE]), Image.state.in_(UNVERIFIED))
            .group_by(Image.folder_id)
        )
        found |= {folder_id: first for folder_id, first in session.execute(query) if first is not None}
    return found


def bad_images(session: Session, folder_ids: Sequence[int], *, limit: int = 2_000) -> list[Image]:
    """Return images that were judged bad, by folder and name; at most so many.

    Args:
        session: any session.
        folder_ids: folders that have such images, as their counts tell.
        limit: at most so many.
    """
    found: list[Image] = []
    for begin in range(0, len(folder_ids), _AT_ONCE):
        query = (
            select(Image)
            .where(Image.folder_id.in_(folder_ids[begin : begin + _AT_ONCE]), Image.state == ImageState.BAD)
            .order_by(Image.folder_id, Image.name)
            .limit(limit - len(found))
        )
        found += session.scalars(query)
        if len(found) >= limit:
            break
    return found


def work_counts(session: Session) -> dict[WorkKind, WorkCounts]:
    """Count attempts by kind of work; what a person dropped is left out."""
    is_running = Attempt.holder.is_not(None)
    query = (
        select(
            Attempt.kind,
            func.sum(case((is_running, 1), else_=0)),
            func.sum(case((Attempt.quarantined.is_(True) & ~is_running, 1), else_=0)),
            func.count(),
        )
        .where(Attempt.dropped_by.is_(None))
        .group_by(Attempt.kind)
    )
    return {
        kind: WorkCounts(int(running), int(count - running - quarantined), int(quarantined))
        for kind, running, quarantined, count in session.execute(query)
    }


def work_in_trouble(session: Session, *, failures: int, limit: int = 2_000) -> list[Attempt]:
    """Return work that is set aside, or failed so often, by kind and subject; what a person dropped apart."""
    query = (
        select(Attempt)
        .where(Attempt.dropped_by.is_(None), Attempt.quarantined.is_(True) | (Attempt.failures >= failures))
        .order_by(Attempt.kind, Attempt.subject)
        .limit(limit)
    )
    return list(session.scalars(query))


def running_work(session: Session, *, limit: int = 50) -> list[Attempt]:
    """Return work that is under way, the longest first."""
    query = select(Attempt).where(Attempt.holder.is_not(None)).order_by(Attempt.started_at).limit(limit)
    return list(session.scalars(query))


def count_chains_due(session: Session, now: datetime) -> int:
    """Tell for how many chains something may be due (calendar)."""
    query = select(func.count()).select_from(Chain).where(Chain.next_due_at <= now)
    return session.scalar(query) or 0


def open_troubles(session: Session, *, limit: int = 2_000) -> list[Notice]:
    """Return troubles that people were told of and that are not over, the oldest first."""
    query = select(Notice).where(Notice.is_open.is_(True)).order_by(Notice.began_at, Notice.key).limit(limit)
    return list(session.scalars(query))
