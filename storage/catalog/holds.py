"""Holds in the catalogue: people's wishes that an image, or a point, stays."""

from __future__ import annotations

import secrets
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from policies.errors import ConfigurationError
from policies.holdings import Hold
from policies.points import PointId
from storage.catalog.chains import AT_ONCE, lock_chain, make_due
from storage.catalog.ledger_lines import add_line
from storage.catalog.memory_models import StoredHold
from storage.catalog.models import Chain, Image, ImageState
from storage.ledger_entries import HoldEntry


def place_hold(session: Session, chain_id: int, hold: Hold) -> StoredHold:
    """Record a hold. It is in force once the transaction is committed; then `mirror_ledger` is to be called.

    Args:
        session: of a write transaction; the chain's row stays locked until it ends.
        chain_id: the chain that the file or point belongs to.
        hold: what is wished, by whom, and why.

    Returns:
        Its row.

    Raises:
        ConfigurationError: the chain, or the file, is not there, or the file is on its way out.
    """
    chain = lock_chain(session, chain_id)
    if chain is None:
        raise ConfigurationError("there is no such chain", actual=chain_id)
    if hold.name is not None:
        _refuse_unless_present(session, chain, hold.name)
    stored = StoredHold(
        folder_id=chain.folder_id,
        uid=secrets.token_hex(16),
        name=hold.name,
        point=None if hold.point is None else hold.point.hex(),
        reason=hold.reason,
        placed_by=hold.placed_by,
        placed_at=hold.placed_at,
        until=hold.until,
    )
    session.add(stored)
    add_line(session, chain.folder_id, hold_entry(stored))
    make_due(session, chain_id, AT_ONCE)
    session.flush()
    return stored


def release_hold(session: Session, hold_id: int, *, now: datetime) -> StoredHold | None:
    """Give a hold up; every chain of its folder is due for planning then.

    Args:
        session: of a write transaction.
        hold_id: its row.
        now: calendar time.

    Returns:
        What was given up; None if there is no such hold.
    """
    stored = session.get(StoredHold, hold_id)
    if stored is None:
        return None
    add_line(session, stored.folder_id, hold_entry(stored, released_at=now))
    for chain_id in session.scalars(select(Chain.id).where(Chain.folder_id == stored.folder_id)):
        make_due(session, chain_id, AT_ONCE)
    session.delete(stored)
    return stored


def stored_holds(session: Session, folder_id: int | None = None) -> list[StoredHold]:
    """Return the holds of a folder, or of all, oldest first."""
    query = select(StoredHold).order_by(StoredHold.placed_at, StoredHold.id)
    return list(
        session.scalars(query if folder_id is None else query.where(StoredHold.folder_id == folder_id))
    )


def holds_of_folder(session: Session, folder_id: int) -> tuple[Hold, ...]:
    """Return the holds of a folder as policies know them."""
    return tuple(
        Hold(
            reason=stored.reason,
            placed_by=stored.placed_by,
            placed_at=stored.placed_at,
            name=stored.name,
            point=None if stored.point is None else PointId(bytes.fromhex(stored.point)),
            until=stored.until,
        )
        for stored in stored_holds(session, folder_id)
    )


def hold_entry(stored: StoredHold, *, released_at: datetime | None = None) -> HoldEntry:
    """Return a hold as it stands in a ledger."""
    return HoldEntry(
        uid=stored.uid,
        name=stored.name,
        point=stored.point,
        reason=stored.reason,
        placed_by=stored.placed_by,
        placed_at=stored.placed_at,
        released_at=released_at,
        until=stored.until,
    )


def _refuse_unless_present(session: Session, chain: Chain, name: str) -> None:
    query = select(Image).where(Image.folder_id == chain.folder_id, Image.name == name)
    image = session.scalar(query)
    if image is None or image.state is ImageState.MISSING:
        raise ConfigurationError("there is no such image to be held", path=name)
    if image.state is ImageState.ASIDE:
        raise ConfigurationError(
            f"is on its way out: {image.reason}",
            path=name,
            hint="Bring it back first; what is deleted later can be brought back until its grace ends.",
        )
