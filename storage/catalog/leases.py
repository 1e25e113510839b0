"""One writer a chain: leases with a fencing token.

A lease says who may change a chain now. It ends when it is given back, when its time is up, or as soon as its
holder is known to be gone. Each new lease raises the chain's fence; a result is recorded only if the fence is
still the one that the work began under, so that a worker which was thought dead cannot record anything late.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import delete, true, update
from sqlalchemy.orm import Session

from policies.errors import BusyError, CatalogError
from storage.catalog.chains import lock_chain
from storage.catalog.holders import Holder
from storage.catalog.memory_models import StoredClaim
from storage.catalog.models import Attempt, Chain, Lease


def take_lease(
    session: Session, chain_id: int, holder: Holder, *, machine_now: datetime, lease_time: timedelta
) -> int | None:
    """Take the lease of a chain.

    Args:
        session: of a write transaction.
        chain_id: the chain.
        holder: who takes it.
        machine_now: real time.
        lease_time: how long it holds unless it is renewed.

    Returns:
        The fencing token to record results with; None if somebody else holds it (or the chain is gone).

    Crash: the lease ends when its holder is seen to be gone.
    """
    chain = lock_chain(session, chain_id)
    if chain is None:
        return None
    lease = session.get(Lease, chain_id)
    if lease is not None and is_alive(lease.holder, lease.expires_at, machine_now):
        return None
    chain.fence += 1
    session.merge(
        Lease(chain_id=chain_id, holder=str(holder), fence=chain.fence, expires_at=machine_now + lease_time)
    )
    return chain.fence


def check_fence(session: Session, chain_id: int, fence: int) -> Chain:
    """Make sure that a lease is still the chain's last, in the transaction that records its result.

    Args:
        session: of a write transaction; the chain's row stays locked until it ends.
        chain_id: the chain.
        fence: the token that `take_lease` gave.

    Returns:
        The chain.

    Raises:
        CatalogError: the chain is no longer catalogued.
        BusyError: somebody else took the chain over meanwhile.
    """
    chain = lock_chain(session, chain_id)
    if chain is None:
        raise CatalogError("the chain is no longer catalogued", actual=chain_id)
    if chain.fence != fence:
        raise BusyError(
            "another worker took the chain over; this result is not recorded",
            expected=f"fence {fence}",
            actual=f"fence {chain.fence}",
        )
    return chain


def give_lease_back(session: Session, chain_id: int, fence: int, holder: Holder | None = None) -> None:
    """End a lease, if it is still the one that was taken.

    Args:
        session: of a write transaction.
        chain_id: the chain.
        fence: the token that `take_lease` gave.
        holder: who took it, where it is not sure that it was taken: the token may be another's then.
    """
    lease = session.get(Lease, chain_id)
    if lease is None or lease.fence != fence or (holder is not None and lease.holder != str(holder)):
        return
    session.delete(lease)


def renew(
    session: Session,
    holder: Holder,
    attempt_ids: Collection[int],
    chain_ids: Collection[int],
    *,
    expires_at: datetime,
) -> None:
    """Say that a holder lives and is at some work: move the end of that, and of all its claims.

    Args:
        session: of a write transaction.
        holder: who lives.
        attempt_ids: attempts that it is at.
        chain_ids: chains whose leases it holds.
        expires_at: until when it counts as alive (machine).
    """
    chosen = (
        (Attempt, Attempt.id.in_(attempt_ids)),
        (Lease, Lease.chain_id.in_(chain_ids)),
        (StoredClaim, true()),
    )
    for table, condition in chosen:
        mine = (table.holder == str(holder), condition)
        session.execute(update(table).where(*mine).values(expires_at=expires_at))


def let_go_of_all(session: Session, holder: Holder) -> None:
    """Say that a holder ends unharmed: its leases and claims end, its attempts are neither failures nor crashes.

    Args:
        session: of a write transaction.
        holder: who ends; its work must not go on.
    """
    for table in (Lease, StoredClaim):
        session.execute(delete(table).where(table.holder == str(holder)))
    session.execute(update(Attempt).where(Attempt.holder == str(holder)).values(holder=None, expires_at=None))


def is_alive(holder: str, expires_at: datetime | None, machine_now: datetime) -> bool:
    """Tell whether a holder counts as alive: its time is not up, and it is not known to be gone."""
    in_time = expires_at is None or expires_at > machine_now
    return in_time and not Holder.parse(holder).is_gone()
