"""Claims in the catalogue: what running work, and disks that stand at a point, need.

A claim and a retirement take the chain's lock, and each makes the other's plan out of date: whoever comes second
sees what the first one did.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from policies.cursor import Cursor
from policies.holdings import Claim
from storage.catalog.chains import lock_chain, make_due
from storage.catalog.holders import Holder
from storage.catalog.leases import is_alive
from storage.catalog.memory_models import StoredClaim
from storage.catalog.models import Image, ImageState
from storage.catalog.points import pack_point, unpack_point


def place_claim(
    session: Session,
    chain_id: int,
    key: str,
    claim: Claim,
    *,
    now: datetime,
    holder: Holder | None = None,
    expires_at: datetime | None = None,
) -> tuple[str, ...]:
    """Record a need, unless a file that it names is no longer to be had.

    After it the chain may be loaded in the same transaction: what is there then stays until the claim ends.

    Args:
        session: of a write transaction; the chain's row stays locked until it ends.
        chain_id: the chain.
        key: names the need; claiming again under it replaces the former claim.
        claim: what is needed; its own expiry is not looked at.
        now: calendar time.
        holder: the process that renews it, for a need of running work; None for one that lasts.
        expires_at: when it ends unless `leases.renew` renews it (machine); None for one that lasts.

    Returns:
        Names that cannot be claimed, because they are gone or on their way out: nothing is recorded then. Empty if
        the claim is in force.
    """
    if lock_chain(session, chain_id) is None:
        return tuple(sorted(claim.names)) or (f"chain {chain_id}",)
    missing = _not_to_be_had(session, chain_id, claim.names)
    if missing:
        return missing
    stored = _row_of(session, chain_id, key)
    if stored is None:
        stored = StoredClaim(chain_id=chain_id, key=key)
        session.add(stored)
    stored.needed_by = claim.holder
    stored.claimed_at = claim.claimed_at
    stored.holder = None if holder is None else str(holder)
    stored.expires_at = expires_at
    stored.names = sorted(claim.names)
    stored.target = None if claim.target is None else pack_point(claim.target)
    stored.standing = None if claim.standing is None else [pack_point(one) for one in claim.standing.points]
    make_due(session, chain_id, now)
    return ()


def release_claim(session: Session, chain_id: int, key: str, *, now: datetime) -> bool:
    """Give a need up; the chain is due for planning then.

    Returns:
        Whether there was one.
    """
    if lock_chain(session, chain_id) is None:
        return False
    stored = _row_of(session, chain_id, key)
    if stored is None:
        return False
    session.delete(stored)
    make_due(session, chain_id, now)
    return True


def drop_dead_claims(session: Session, *, now: datetime, machine_now: datetime) -> int:
    """Forget the needs of work whose process is gone, and make their chains due for planning.

    Args:
        session: of a write transaction.
        now: calendar time.
        machine_now: real time.

    Returns:
        How many there were.
    """
    dead = [stored for stored in _of_work(session) if not _is_alive(stored, machine_now)]
    for stored in dead:
        session.execute(delete(StoredClaim).where(StoredClaim.id == stored.id))
        make_due(session, stored.chain_id, now)
    return len(dead)


def claims_of_chain(session: Session, chain_id: int, *, machine_now: datetime) -> tuple[Claim, ...]:
    """Return the needs of a chain that still count, as policies know them: none of them expires by itself."""
    query = select(StoredClaim).where(StoredClaim.chain_id == chain_id).order_by(StoredClaim.key)
    return tuple(_unpack(stored) for stored in session.scalars(query) if _is_alive(stored, machine_now))


def stored_claims(session: Session, chain_id: int | None = None) -> list[StoredClaim]:
    """Return the needs of a chain, or of all, longest standing first."""
    query = select(StoredClaim).order_by(StoredClaim.claimed_at, StoredClaim.id)
    return list(session.scalars(query if chain_id is None else query.where(StoredClaim.chain_id == chain_id)))


def _of_work(session: Session) -> list[StoredClaim]:
    return list(session.scalars(select(StoredClaim).where(StoredClaim.holder.is_not(None))))


def _row_of(session: Session, chain_id: int, key: str) -> StoredClaim | None:
    return session.scalar(select(StoredClaim).where(StoredClaim.chain_id == chain_id, StoredClaim.key == key))


def _not_to_be_had(session: Session, chain_id: int, names: Collection[str]) -> tuple[str, ...]:
    gone = (ImageState.MISSING, ImageState.ASIDE)
    query = select(Image.name).where(Image.chain_id == chain_id, Image.state.not_in(gone))
    there = set(session.scalars(query)) if names else set()
    return tuple(sorted(set(names) - there))


def _is_alive(stored: StoredClaim, machine_now: datetime) -> bool:
    return stored.holder is None or is_alive(stored.holder, stored.expires_at, machine_now)


def _unpack(stored: StoredClaim) -> Claim:
    standing = stored.standing
    return Claim(
        holder=stored.needed_by,
        claimed_at=stored.claimed_at,
        names=frozenset(stored.names),
        target=None if stored.target is None else unpack_point(stored.target),
        standing=None if standing is None else Cursor(tuple(unpack_point(point) for point in standing)),
    )
