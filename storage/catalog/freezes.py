"""Freezes in the catalogue: why nothing may be removed, since when, and what a person said is well."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from policies.freezing import Freeze, FreezeKind
from storage.catalog.chains import make_due, make_folder_due
from storage.catalog.memory_models import StoredFreeze, Waiver
from storage.catalog.models import Chain


@dataclass(frozen=True, slots=True)
class Scope:
    """What a freeze is about.

    Attributes:
        folder_id: the folder; None for all.
        chain_id: the chain; None for the whole folder, or for all.
    """

    folder_id: int | None = None
    chain_id: int | None = None


@dataclass(frozen=True, slots=True)
class FreezeChanges:
    """What became of the freezes of a scope.

    Attributes:
        begun: those that are new.
        ended: those that are over.
    """

    begun: tuple[Freeze, ...] = ()
    ended: tuple[Freeze, ...] = ()


def set_freezes(
    session: Session,
    scope: Scope,
    found: Iterable[Freeze],
    *,
    judged: Collection[FreezeKind],
    now: datetime,
) -> FreezeChanges:
    """Record the freezes that a scope has now; one of a known key keeps its beginning.

    Args:
        session: of a write transaction.
        scope: what they are about; freezes of other scopes stay as they are.
        found: all that were found, as judged.
        judged: the kinds that were looked for; freezes of other kinds, and what a person froze, stay as they are.
        now: calendar time; chains concerned are due for planning when anything changed.

    Returns:
        What began and what ended, for the event log.
    """
    wanted = {freeze.key: freeze for freeze in found}
    kinds = [kind for kind in judged if kind is not FreezeKind.PERSON]
    query = select(StoredFreeze).where(*_exactly(scope), StoredFreeze.kind.in_(kinds))
    stored = {row.key: row for row in session.scalars(query)}
    ended = [_unpack(row) for key, row in stored.items() if key not in wanted]
    begun = [freeze for key, freeze in wanted.items() if key not in stored]
    for key, row in stored.items():
        if key not in wanted:
            session.delete(row)
        else:
            freeze = wanted[key]
            row.reason, row.ends, row.ends_at = freeze.reason, freeze.ends, freeze.ends_at
    for freeze in begun:
        session.add(
            StoredFreeze(
                folder_id=scope.folder_id,
                chain_id=scope.chain_id,
                kind=freeze.kind,
                key=freeze.key,
                since=freeze.since,
                reason=freeze.reason,
                ends=freeze.ends,
                ends_at=freeze.ends_at,
            )
        )
    if begun or ended:
        session.flush()
        _make_due(session, scope, now)
    return FreezeChanges(tuple(begun), tuple(ended))


def freezes_of_chain(session: Session, chain: Chain, now: datetime) -> tuple[Freeze, ...]:
    """Return the freezes that a chain is under: its own, its folder's and those of all; waived ones among them.

    Args:
        session: any session.
        chain: the chain.
        now: calendar time; what has ended by itself is left out.
    """
    of_chain = StoredFreeze.chain_id == chain.id
    of_folder = StoredFreeze.chain_id.is_(None) & (StoredFreeze.folder_id == chain.folder_id)
    of_all = StoredFreeze.chain_id.is_(None) & StoredFreeze.folder_id.is_(None)
    query = select(StoredFreeze).where(or_(of_chain, of_folder, of_all))
    rows = session.scalars(query.order_by(StoredFreeze.since, StoredFreeze.id))
    return tuple(_unpack(row) for row in rows if row.ends_at is None or row.ends_at > now)


def stored_freezes(session: Session) -> list[StoredFreeze]:
    """Return all freezes, oldest first."""
    return list(session.scalars(select(StoredFreeze).order_by(StoredFreeze.since, StoredFreeze.id)))


def freeze_folder(session: Session, folder_id: int, freeze: Freeze) -> bool:
    """Freeze a folder because a person wants it.

    Args:
        session: of a write transaction.
        folder_id: the folder.
        freeze: of the kind `PERSON`.

    Returns:
        False if a person has frozen it already; then nothing changes.
    """
    if frozen_by_person(session, folder_id):
        return False
    session.add(
        StoredFreeze(
            folder_id=folder_id,
            chain_id=None,
            kind=freeze.kind,
            key=freeze.key,
            since=freeze.since,
            reason=freeze.reason,
            ends=freeze.ends,
            ends_at=freeze.ends_at,
        )
    )
    make_folder_due(session, folder_id)
    return True


def unfreeze_folder(session: Session, folder_id: int, waived_by: str, *, now: datetime) -> tuple[Freeze, ...]:
    """Take back what a person froze in a folder, and say of all else that freezes it, or all folders, that it is well.

    Args:
        session: of a write transaction.
        folder_id: the folder.
        waived_by: who says so.
        now: calendar time.

    Returns:
        The freezes that do not count for it any more.
    """
    waived = waived_keys(session, folder_id)
    mine = or_(StoredFreeze.folder_id == folder_id, StoredFreeze.folder_id.is_(None))
    own_chains = select(Chain.id).where(Chain.folder_id == folder_id)
    rows = session.scalars(
        select(StoredFreeze).where(
            or_(
                StoredFreeze.chain_id.in_(own_chains),
                StoredFreeze.chain_id.is_(None) & mine,
            )
        )
    )
    found = [row for row in rows if row.key not in waived]
    for row in found:
        if row.kind is FreezeKind.PERSON:
            session.delete(row)
        else:
            waive(session, Scope(folder_id), row.key, waived_by, now=now)
    if found:
        make_folder_due(session, folder_id)
    return tuple(_unpack(row) for row in found)


def frozen_by_person(session: Session, folder_id: int) -> list[StoredFreeze]:
    """Return what a person froze in a folder."""
    mine = (StoredFreeze.folder_id == folder_id, StoredFreeze.kind == FreezeKind.PERSON)
    return list(session.scalars(select(StoredFreeze).where(*mine)))


def waive(session: Session, scope: Scope, key: str, waived_by: str, *, now: datetime) -> None:
    """Record that a person said that it is well: freezes of this key do not count any more.

    Args:
        session: of a write transaction.
        scope: the folder that is meant, or all.
        key: of the freeze.
        waived_by: who said so.
        now: calendar time.
    """
    folder_id = scope.folder_id or 0
    if session.get(Waiver, (folder_id, key)) is None:
        session.add(Waiver(folder_id=folder_id, key=key, waived_by=waived_by, waived_at=now))
        _make_due(session, Scope(scope.folder_id), now)


def waived_keys(session: Session, folder_id: int) -> frozenset[str]:
    """Return the keys of freezes that a person said are well, in a folder."""
    return frozenset(session.scalars(select(Waiver.key).where(Waiver.folder_id.in_((0, folder_id)))))


def drop_waivers(session: Session, folder_id: int) -> None:
    """Forget what was said to be well in a folder that is no longer managed."""
    session.execute(delete(Waiver).where(Waiver.folder_id == folder_id))


def _exactly(scope: Scope) -> tuple[ColumnElement[bool], ...]:
    return (
        StoredFreeze.folder_id.is_(None)
        if scope.folder_id is None
        else StoredFreeze.folder_id == scope.folder_id,
        StoredFreeze.chain_id.is_(None)
        if scope.chain_id is None
        else StoredFreeze.chain_id == scope.chain_id,
    )


def _make_due(session: Session, scope: Scope, now: datetime) -> None:
    if scope.chain_id is not None:
        make_due(session, scope.chain_id, now)
    else:
        make_folder_due(session, scope.folder_id)


def _unpack(row: StoredFreeze) -> Freeze:
    return Freeze(row.kind, row.key, row.since, row.reason, row.ends, row.ends_at)
