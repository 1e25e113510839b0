"""Tombstones in the catalogue: how far the removal of each image has come.

    begin_retirements ─▶ (move the file) ─▶ record_moved ─▶ grace ─▶ (delete it) ─▶ record_deleted
                                                  └─▶ (bring it back) ─▶ record_brought_back

What is in brackets is done by `storage.retired`, between two transactions; done again after a crash it ends the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, or_, select, tuple_
from sqlalchemy.orm import Session, aliased

from policies.retention import PlannedRetirement
from storage.catalog.chains import make_due
from storage.catalog.leases import check_fence
from storage.catalog.ledger_lines import add_line
from storage.catalog.memory_models import Tombstone, TombstoneState
from storage.catalog.models import Image, ImageState
from storage.file_marks import FileMark
from storage.ledger_entries import KEPT_FOR, TombstoneEntry

GRACE: Final = timedelta(hours=24)
"""What was retired can be brought back for so long, unless its room is needed."""

PRUNED_AT_ONCE: Final = 2_000
"""So many tombstones are forgotten in one transaction at most."""

_OUT: Final = (
    TombstoneState.RETIRING,
    TombstoneState.RETIRED,
    TombstoneState.MOVED,
    TombstoneState.DELETED,
)


@dataclass(frozen=True, slots=True)
class Removal:
    """An image that is to be removed, as it was found just before.

    Attributes:
        planned: what the planner decided.
        root: 32 bytes that its trailer gave.
        files: its files.
    """

    planned: PlannedRetirement
    root: bytes
    files: tuple[FileMark, ...]


def begin_retirements(
    session: Session,
    chain_id: int,
    removals: Sequence[Removal],
    *,
    fence: int,
    revision: int,
    now: datetime,
) -> list[Tombstone]:
    """Commit to removing images, if the chain is still the one that this was planned for.

    Args:
        session: of a write transaction; the chain's row stays locked until it ends.
        chain_id: the chain.
        removals: what the plan retires, all of it or a part.
        fence: of the lease.
        revision: the chain's when its facts were loaded for the plan; claims, holds and new images raise it.
        now: calendar time.

    Returns:
        A tombstone for each image that is still what was verified, in the order given; none if the chain changed since
        it was planned.

    Raises:
        BusyError: the lease is another's.
        CatalogError: the chain is no longer catalogued.

    Crash: nothing happened; or, once committed, `retiring_tombstones` says what is to be moved.
    """
    chain = check_fence(session, chain_id, fence)
    if chain.revision != revision:
        return []
    names = [removal.planned.name for removal in removals]
    images = {
        image.name: image
        for image in session.scalars(
            select(Image).where(Image.chain_id == chain_id, Image.name.in_(names)).with_for_update()
        )
    }
    stones = []
    for removal in removals:
        image = images.get(removal.planned.name)
        if image is not None and image.state is ImageState.GOOD and image.root == removal.root:
            stones.append(_bury(session, image, removal, now))
    if stones:
        make_due(session, chain_id, now)
        session.flush()
    return stones


def _bury(session: Session, image: Image, removal: Removal, now: datetime) -> Tombstone:
    planned = removal.planned
    stone = Tombstone(
        folder_id=image.folder_id,
        chain_id=image.chain_id,
        token=f"{now:%Y%m%d}-{secrets.token_hex(8)}",
        name=image.name,
        root=removal.root,
        tier=planned.tier,
        state=TombstoneState.RETIRING,
        to_incrementals=planned.to_incrementals,
        reason=planned.reason,
        covered_by=planned.covered_by,
        stored_bytes=image.stored_bytes,
        files=[mark.pack() for mark in removal.files],
        first_seen_at=image.first_seen_at,
        retiring_at=now,
        retired_at=None,
        deleted_at=None,
        lifted=False,
    )
    session.add(stone)
    image.state = ImageState.ASIDE
    image.reason = planned.reason
    add_line(session, image.folder_id, tombstone_entry(stone))
    return stone


def record_moved(session: Session, stone_id: int, *, now: datetime) -> Tombstone | None:
    """Record that an image was moved away; its row goes, its tombstone stays.

    Args:
        session: of a write transaction.
        stone_id: its tombstone.
        now: calendar time; the grace counts from it.

    Returns:
        The tombstone; None if that was recorded before.
    """
    stone = _lock(session, stone_id)
    if stone is None or stone.state is not TombstoneState.RETIRING:
        return None
    stone.state = TombstoneState.MOVED if stone.to_incrementals else TombstoneState.RETIRED
    stone.retired_at = now
    _remove_image(session, stone)
    return _changed(session, stone, now)


def record_deleted(session: Session, stone_id: int, *, now: datetime) -> Tombstone | None:
    """Record that a retired image was deleted.

    Returns:
        The tombstone; None if that was recorded before.
    """
    stone = _lock(session, stone_id)
    if stone is None or stone.state is not TombstoneState.RETIRED:
        return None
    stone.state = TombstoneState.DELETED
    stone.deleted_at = now
    return _changed(session, stone, now)


def record_brought_back(session: Session, stone_id: int, *, now: datetime) -> Tombstone | None:
    """Record that an image lies in its folder again: the next scan takes it in, first seen when it first was.

    Also for a removal that was begun and is given up, because the file turned out to be another one, or gone.

    Returns:
        The tombstone; None if it was deleted, or brought back before.
    """
    stone = _lock(session, stone_id)
    if stone is None or stone.state in (TombstoneState.DELETED, TombstoneState.BROUGHT_BACK):
        return None
    stone.state = TombstoneState.BROUGHT_BACK
    stone.deleted_at = now
    _remove_image(session, stone)
    return _changed(session, stone, now)


def lift_tombstones(session: Session, folder_id: int, name: str) -> None:
    """Let an image of a name be made anew, and be taken in: for before a consolidation is begun.

    Args:
        session: of a write transaction.
        folder_id: the folder.
        name: file name of the result.
    """
    query = select(Tombstone).where(
        Tombstone.folder_id == folder_id,
        Tombstone.name == name,
        Tombstone.lifted.is_(False),
        Tombstone.state != TombstoneState.RETIRING,
    )
    for stone in session.scalars(query):
        stone.lifted = True
        add_line(session, folder_id, tombstone_entry(stone))


def tombstone_of(session: Session, folder_id: int, root: bytes | None) -> Tombstone | None:
    """Return the tombstone that keeps an image from being taken for new.

    It counts as long as what covers the image is there and good, or was itself removed and is covered. An image whose
    cover was lost is welcome again.

    Args:
        session: any session.
        folder_id: folder in which the image was found.
        root: its identity, as its trailer gives it; None if that could not be read.
    """
    if root is None:
        return None
    query = select(Tombstone).where(
        Tombstone.folder_id == folder_id,
        Tombstone.root == root,
        Tombstone.lifted.is_(False),
        Tombstone.state.in_(_OUT),
    )
    for stone in session.scalars(query.order_by(Tombstone.id.desc())):
        if stone.state is TombstoneState.RETIRING or is_covered(session, stone):
            return stone
    return None


def is_covered(session: Session, stone: Tombstone) -> bool:
    """Tell whether a verified image is there that holds all that a removed one did.

    Args:
        session: any session.
        stone: its tombstone; what covered it may have been removed since, and be covered itself.
    """
    name, seen = stone.covered_by, {stone.name}
    while name not in seen:
        seen.add(name)
        image = select(Image.state).where(Image.folder_id == stone.folder_id, Image.name == name)
        state = session.scalar(image)
        if state not in (None, ImageState.ASIDE):
            return state is ImageState.GOOD
        query = select(Tombstone.covered_by).where(
            Tombstone.folder_id == stone.folder_id, Tombstone.name == name, Tombstone.state.in_(_OUT)
        )
        following = session.scalar(query.order_by(Tombstone.id.desc()).limit(1))
        if following is None:
            return False
        name = following
    return False


def retiring_tombstones(session: Session, *, chain_id: int | None = None) -> list[Tombstone]:
    """Return the removals that were begun and are not done, oldest first; of one chain, or of all."""
    query = select(Tombstone).where(Tombstone.state == TombstoneState.RETIRING).order_by(Tombstone.id)
    return list(session.scalars(query if chain_id is None else query.where(Tombstone.chain_id == chain_id)))


def deletions_due(session: Session, now: datetime, *, limit: int = 1_000) -> list[int]:
    """Return the tombstones whose grace has ended, longest retired first; whether each is still covered is asked apart.

    Args:
        session: any session.
        now: calendar time.
        limit: at most so many.
    """
    query = (
        select(Tombstone.id)
        .where(Tombstone.state == TombstoneState.RETIRED, Tombstone.retired_at <= now - GRACE)
        .order_by(Tombstone.retired_at, Tombstone.id)
    )
    return list(session.scalars(query.limit(limit)))


def next_deletion_at(session: Session) -> datetime | None:
    """Tell when the next grace ends; None if nothing waits for that."""
    query = select(Tombstone.retired_at).where(Tombstone.state == TombstoneState.RETIRED)
    retired_at = session.scalar(query.order_by(Tombstone.retired_at).limit(1))
    return None if retired_at is None else retired_at + GRACE


def in_grace(session: Session, folder_id: int) -> list[Tombstone]:
    """Return what could be brought back, or deleted early where room is short, longest retired first."""
    query = select(Tombstone).where(
        Tombstone.folder_id == folder_id, Tombstone.state == TombstoneState.RETIRED
    )
    return list(session.scalars(query.order_by(Tombstone.retired_at, Tombstone.id)))


def tombstones_named(session: Session, folder_id: int, name: str) -> list[Tombstone]:
    """Return the tombstones of a file name, newest first."""
    query = select(Tombstone).where(Tombstone.folder_id == folder_id, Tombstone.name == name)
    return list(session.scalars(query.order_by(Tombstone.id.desc())))


def tombstones_over(session: Session, now: datetime, *, limit: int = PRUNED_AT_ONCE) -> list[int]:
    """Return tombstones that may be forgotten: of images deleted, or brought back, `KEPT_FOR` ago.

    One stays as long as another is kept that it covers: else an image that lies in `Incrementals/` could come back as
    new once the daily that held it has been gone for long, though the weekly that holds both is there.

    Args:
        session: any session; best one that only reads, for all tombstones may have to be looked at.
        now: calendar time.
        limit: at most so many.
    """
    other = aliased(Tombstone)
    leant_on = select(other.folder_id, other.covered_by).where(
        other.state.in_(_OUT), other.covered_by != other.name
    )
    is_leant_on = tuple_(Tombstone.folder_id, Tombstone.name).in_(leant_on)
    until = now - KEPT_FOR
    is_deleted = (Tombstone.state == TombstoneState.DELETED) & (
        Tombstone.retired_at <= until
    )  # found by an index
    is_over = or_(Tombstone.state == TombstoneState.BROUGHT_BACK, is_deleted & ~is_leant_on)
    query = select(Tombstone.id).where(is_over, Tombstone.deleted_at <= until)
    return list(session.scalars(query.order_by(Tombstone.id).limit(limit)))


def prune_tombstones(session: Session, stone_ids: Sequence[int]) -> None:
    """Forget tombstones that are over.

    Args:
        session: of a write transaction.
        stone_ids: what `tombstones_over` gave, in whatever transaction: what is over stays so.
    """
    session.execute(delete(Tombstone).where(Tombstone.id.in_(stone_ids)))


def marks_of(stone: Tombstone) -> tuple[FileMark, ...]:
    """Return the files that a tombstone names."""
    return tuple(FileMark.unpack(packed) for packed in stone.files)


def tombstone_entry(stone: Tombstone) -> TombstoneEntry:
    """Return a tombstone as it stands in a ledger."""
    files: Iterable[Mapping[str, str | int]] = stone.files
    return TombstoneEntry(
        token=stone.token,
        name=stone.name,
        root=stone.root.hex(),
        tier=stone.tier.value,
        state=stone.state.value,
        to_incrementals=stone.to_incrementals,
        reason=stone.reason,
        covered_by=stone.covered_by,
        stored_bytes=stone.stored_bytes,
        files=tuple(dict(one) for one in files),
        first_seen_at=stone.first_seen_at,
        retiring_at=stone.retiring_at,
        retired_at=stone.retired_at,
        deleted_at=stone.deleted_at,
        lifted=stone.lifted,
    )


def _lock(session: Session, stone_id: int) -> Tombstone | None:
    query = select(Tombstone).where(Tombstone.id == stone_id).with_for_update()
    return session.scalar(query.execution_options(populate_existing=True))


def _remove_image(session: Session, stone: Tombstone) -> None:
    session.execute(
        delete(Image).where(
            Image.folder_id == stone.folder_id,
            Image.name == stone.name,
            Image.state == ImageState.ASIDE,
        )
    )


def _changed(session: Session, stone: Tombstone, now: datetime) -> Tombstone:
    add_line(session, stone.folder_id, tombstone_entry(stone))
    if stone.chain_id is not None:
        make_due(session, stone.chain_id, now)
    return stone
