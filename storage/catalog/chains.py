"""Chains in the catalogue: which there are, what is due, what they are made of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from policies.names import image_name
from storage.catalog.folder_order import in_order
from storage.catalog.headstart_models import HeadStartDisk, HeadStartJob
from storage.catalog.models import Chain, Folder, Image, ImageState

AT_ONCE: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""Before any time that an agent's clock may show: due by a command that was given by a clock ahead of that one, too."""


def chain_for(
    session: Session, folder_id: int, chain_uid: bytes, volume: str, base_number: int, *, now: datetime
) -> Chain:
    """Return the chain that an image belongs to, made if it is new.

    Args:
        session: of a write transaction.
        folder_id: folder of the image.
        chain_uid: 16 bytes from its header.
        volume: volume name from its file name.
        base_number: number of the base from its file name.
        now: calendar time; a new chain is due for planning at once.
    """
    chain = session.scalar(
        select(Chain).where(
            Chain.folder_id == folder_id,
            Chain.chain_uid == chain_uid,
            Chain.volume == volume,
            Chain.base_number == base_number,
        )
    )
    if chain is None:
        chain = Chain(
            folder_id=folder_id,
            chain_uid=chain_uid,
            volume=volume,
            base_number=base_number,
            next_due_at=now,
            revision=0,
            fence=0,
        )
        session.add(chain)
        session.flush()
        jobs = select(HeadStartJob.id).where(HeadStartJob.folder_id == folder_id)
        mine = update(HeadStartDisk).where(HeadStartDisk.job_id.in_(jobs), HeadStartDisk.volume == volume)
        session.execute(mine.values(next_due_at=AT_ONCE).execution_options(synchronize_session=False))
    return chain


def lock_chain(session: Session, chain_id: int) -> Chain | None:
    """Lock a chain until the transaction ends, and read it anew: what is judged then cannot change meanwhile.

    Whoever claims an image, holds it, retires it or records a result takes this lock first. Without it two
    transactions of PostgreSQL could each judge that the other's change is not there, and both go on.

    Args:
        session: of a write transaction.
        chain_id: the chain.

    Returns:
        The chain; None if it is no longer catalogued.
    """
    query = select(Chain).where(Chain.id == chain_id).with_for_update()
    return session.scalar(query.execution_options(populate_existing=True))


def chains_of_folder(session: Session, folder_id: int) -> list[Chain]:
    """Return the chains of a folder, by volume and base."""
    query = select(Chain).where(Chain.folder_id == folder_id)
    return list(session.scalars(query.order_by(Chain.volume, Chain.base_number, Chain.id)))


def make_folder_due(session: Session, folder_id: int | None) -> None:
    """Make all chains of a folder due for planning, whatever the clock; those of every folder, if none is named.

    So are the disks that are kept rolled forward with its images.
    """
    query = update(Chain).values(revision=Chain.revision + 1, next_due_at=AT_ONCE)
    session.execute(query if folder_id is None else query.where(Chain.folder_id == folder_id))
    disks = update(HeadStartDisk).values(next_due_at=AT_ONCE, next_test_at=AT_ONCE)
    disks = disks.execution_options(synchronize_session=False)
    jobs = select(HeadStartJob.id).where(HeadStartJob.folder_id == folder_id)
    session.execute(disks if folder_id is None else disks.where(HeadStartDisk.job_id.in_(jobs)))


def start_work(session: Session, folder_id: int | None, now: datetime) -> int:
    """Have the daily work of a folder's chains, or of all, done now, whatever the control time.

    Whoever plans a chain passes on whether `Chain.started_at` is set, and clears it with a plan that has nothing to do.

    Args:
        session: of a write transaction.
        folder_id: the folder; None for all.
        now: calendar time.

    Returns:
        How many chains that are.
    """
    query = update(Chain).values(revision=Chain.revision + 1, next_due_at=AT_ONCE, started_at=now)
    mine = query if folder_id is None else query.where(Chain.folder_id == folder_id)
    return int(session.connection().execute(mine).rowcount)


def chains_due(session: Session, now: datetime, *, limit: int = 5_000) -> list[tuple[int, datetime]]:
    """Return which chains may have something due, and since when; reads no other chain.

    Args:
        session: any session.
        now: calendar time.
        limit: at most so many; of too many the longest due.

    Returns:
        Identifiers and times, in the order of folders, as `in_order` says; of a folder the longest due first.
    """
    query = select(Chain.id, Chain.folder_id, Chain.next_due_at).where(Chain.next_due_at <= now)
    due = query.order_by(Chain.next_due_at).limit(limit).subquery()
    rows = session.execute(
        select(due.c.id, due.c.next_due_at)
        .join(Folder, Folder.id == due.c.folder_id)
        .order_by(*in_order(), due.c.next_due_at, due.c.id)
    )
    return [(chain_id, due_at) for chain_id, due_at in rows]


def make_due(session: Session, chain_id: int, now: datetime) -> None:
    """Make a chain due for planning, because something about it changed; a plan under way is out of date.

    So are the disks that stand on it.

    Args:
        session: of a write transaction.
        chain_id: the chain; nothing happens if it is no longer catalogued.
        now: calendar time of the agent; `AT_ONCE` for a command, which may go by another clock.
    """
    chain = lock_chain(session, chain_id)
    if chain is not None:
        chain.next_due_at = min(chain.next_due_at, now)
        chain.revision += 1
        jobs = select(HeadStartJob.id).where(HeadStartJob.folder_id == chain.folder_id)
        to_come = HeadStartDisk.chain_id.is_(None) & (HeadStartDisk.volume == chain.volume)
        mine = (HeadStartDisk.chain_id == chain_id) | (to_come & HeadStartDisk.job_id.in_(jobs))
        waiting = update(HeadStartDisk).where(mine, HeadStartDisk.next_due_at > now)
        session.execute(waiting.values(next_due_at=now).execution_options(synchronize_session=False))


def images_of_chain(session: Session, chain_id: int) -> list[Image]:
    """Return the images of a chain that are there and not known to be bad, by name."""
    wanted = (ImageState.SETTLING, ImageState.LANDED, ImageState.VERIFYING, ImageState.GOOD)
    query = select(Image).where(Image.chain_id == chain_id, Image.state.in_(wanted)).order_by(Image.name)
    return list(session.scalars(query))


def base_identity(session: Session, folder_id: int, volume: str, base_number: int) -> bytes | None:
    """Return which chain a volume's base file is, so that a stranger under a fitting name is told.

    Args:
        session: any session.
        folder_id: the folder.
        volume: volume name from file names.
        base_number: number of the base from file names.

    Returns:
        The 16 bytes of the chain that the base image names; None when there is no good base.
    """
    query = (
        select(Chain.chain_uid)
        .join(Image, Image.chain_id == Chain.id)
        .where(
            Chain.folder_id == folder_id,
            Chain.volume == volume,
            Chain.base_number == base_number,
            Image.name == image_name(volume, base_number).filename(),
            Image.state == ImageState.GOOD,
        )
    )
    return session.scalar(query)
