"""Keeping a folder's ledger in step with the catalogue, and taking a folder with its ledger into a catalogue."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from policies.errors import CatalogError, OwnershipError, RollforwardError
from policies.freezing import Freeze, FreezeKind, judge_rebuilt
from policies.names import Tier, parse_image_name
from storage.catalog.agents import agent_of
from storage.catalog.database import Catalog
from storage.catalog.freezes import Scope, set_freezes
from storage.catalog.holds import hold_entry, stored_holds
from storage.catalog.job_memory import take_in_jobs
from storage.catalog.ledger_lines import add_line, forget_lines, waiting_lines
from storage.catalog.memory_models import (
    Agent,
    Reporter,
    SeenBefore,
    Sight,
    StoredHold,
    Tombstone,
    TombstoneState,
)
from storage.catalog.models import Folder, Image, ImageState
from storage.catalog.point_tests import entry_of_test, restore_tests_of, take_test
from storage.catalog.reporters import REPORT_WAIT
from storage.catalog.tombstones import tombstone_entry
from storage.file_marks import FileMark
from storage.ledger import LedgerReading, append_entries, read_ledger, rewrite_ledger
from storage.ledger_entries import (
    HoldEntry,
    ReporterEntry,
    RestoreTestEntry,
    SeenEntry,
    SightEntry,
    TombstoneEntry,
)
from storage.ledger_owner import Owner, Ownership, become_owner, give_up, read_owner
from storage.retired import Place, bring_back, tokens_on_disk

_AT_ONCE: Final = 10_000


@dataclass(frozen=True, slots=True)
class Adopted:
    """What was found in a folder when it was taken into the catalogue.

    Attributes:
        ownership: how it came to be ours.
        holds: holds that are in force again.
        tombstones: removed images that are known again.
        faults: lines of the ledger that could not be read.
        freeze: why nothing is removed for now; None if nobody can need anything that is not known.
        strays: folders in `.rollforward/retired/` that no removal accounts for; they are left as they are.
    """

    ownership: Ownership
    holds: int = 0
    tombstones: int = 0
    faults: int = 0
    freeze: Freeze | None = None
    strays: tuple[str, ...] = ()


def mirror_ledger(catalog: Catalog, folder_id: int, *, now: datetime) -> str | None:
    """Write into a folder's ledger what waits for it.

    Args:
        catalog: the catalogue.
        folder_id: the folder; one that is no longer managed is passed over.
        now: calendar time.

    Returns:
        Why that was not possible, in words, as the folder's row says then; None if the ledger is up to date. Nothing is
        lost: it waits on.

    Raises:
        CatalogError: the catalogue cannot be used.

    Crash: what was written already is written again, and counts once.
    """
    while True:
        with catalog.read() as session:
            folder = session.get(Folder, folder_id)
            agent = session.get(Agent, 1)
            lines = waiting_lines(session, folder_id, limit=_AT_ONCE)
        if folder is None or agent is None or (not lines and folder.ledger_problem is None):
            return None
        problem = None
        try:
            _refuse_if_not_ours(Path(folder.path), agent.uid)
            append_entries(Path(folder.path), [entry for _, entry in lines], now=now)
        except CatalogError:
            raise
        except RollforwardError as error:
            problem = error.reason
        with catalog.write() as session:
            folder = session.get(Folder, folder_id)
            if folder is not None:
                folder.ledger_problem = problem
            if problem is None:
                forget_lines(session, [line_id for line_id, _ in lines])
        if problem is not None or len(lines) < _AT_ONCE:
            return problem


def adopt_folder(
    catalog: Catalog, folder_id: int, *, now: datetime, take_over: bool = False
) -> Adopted | None:
    """Make a folder this catalogue's, and take in what its ledger says, unless that was done.

    A folder that had an owner before, though this catalogue has never seen it, is one whose catalogue was lost:
    nothing of it is removed until the jobs and targets that its ledger names have said what they need, or a person
    says that all is well.

    Args:
        catalog: the catalogue.
        folder_id: the folder; one that is no longer managed is passed over.
        now: calendar time.
        take_over: whether a folder that is another's becomes ours.

    Returns:
        What was found; None if the folder was taken in before, and is ours still.

    Raises:
        OwnershipError: another catalogue's agent looks after it.
        StorageError: the folder refuses.
        FormatError: its ledger cannot be read at all.
        CatalogError: the catalogue cannot be used.

    Crash: the folder is ours, and its ledger is read again; HeadStart jobs that were not reached stay unknown, and
        nothing is removed.
    """
    with catalog.read() as session:
        folder, agent = session.get(Folder, folder_id), session.get(Agent, 1)
    if folder is None:
        return None
    if agent is None:
        with catalog.write() as session:
            agent = agent_of(session, now=now)
    path = Path(folder.path)
    had_owner = _had_owner(path)
    owner = Owner(agent.uid, socket.gethostname(), now)
    ownership = _become_owner(catalog, folder, owner, take_over=take_over, had_owner=had_owner)
    if folder.ledger_read_at is not None and ownership is Ownership.OURS:
        return None
    with catalog.read() as session:
        if session.get(Folder, folder_id) is None:  # it was given up just now
            give_up(path, agent.uid)
            return None
    reading = read_ledger(path)
    with catalog.read() as session:
        own = set(session.scalars(select(Tombstone.token).where(Tombstone.folder_id == folder_id)))
    for stone in reading.state.of(TombstoneEntry):
        if stone.state == TombstoneState.RETIRING and stone.token not in own:
            marks = [FileMark.unpack(packed) for packed in stone.files]
            bring_back(Place(path, stone.token, stone.to_incrementals), marks)
    on_disk = tokens_on_disk(path)
    with catalog.write() as session:
        folder = session.get_one(Folder, folder_id)
        is_unknown = folder.ledger_read_at is None and (had_owner or reading.exists)
        is_lost = is_unknown or ownership is Ownership.TAKEN_OVER
        adopted = _take_in(
            session, folder, reading, ownership, _freeze(reading, now) if is_lost else None, now
        )
        if not reading.exists or reading.faults:
            add_all_lines(session, folder.id)
        own |= set(session.scalars(select(Tombstone.token).where(Tombstone.folder_id == folder_id)))
    if reading.faults:
        rewrite_ledger(path, now)
    take_in_jobs(catalog, folder_id, now=now)
    return replace(adopted, strays=tuple(token for token in on_disk if token not in own))


def _become_owner(
    catalog: Catalog, folder: Folder, owner: Owner, *, take_over: bool, had_owner: bool
) -> Ownership:
    path = Path(folder.path)
    if folder.ledger_read_at is None and not had_owner and not read_ledger(path).exists:
        _note_unused(catalog, folder.id, owner.since)
    try:
        return become_owner(path, owner, take_over=take_over)
    except OwnershipError:
        if folder.ledger_read_at is None:
            _note_unused(catalog, folder.id, None)
        raise


def _note_unused(catalog: Catalog, folder_id: int, now: datetime | None) -> None:
    """Record, before anything is written into it, that a folder is nobody's and remembers nothing; None takes it back.

    Else whoever comes after a crash, or at the same time, would find our own mark and take the catalogue for a new one.
    """
    with catalog.write() as session:
        folder = session.get(Folder, folder_id, with_for_update=True)
        if folder is not None and (now is None or folder.ledger_read_at is None):
            folder.ledger_read_at = now


def add_all_lines(session: Session, folder_id: int) -> None:
    """Have all that a ledger should say written again: for one that was lost, or never was.

    Args:
        session: of a write transaction.
        folder_id: the folder.
    """
    for hold in stored_holds(session, folder_id):
        add_line(session, folder_id, hold_entry(hold))
    for stone in session.scalars(select(Tombstone).where(Tombstone.folder_id == folder_id)):
        add_line(session, folder_id, tombstone_entry(stone))
    known = select(Image.root, Image.name, Image.first_seen_at)
    for root, name, seen_at in session.execute(
        known.where(Image.folder_id == folder_id, Image.state != ImageState.ASIDE)
    ):
        if root is not None:
            add_line(session, folder_id, SeenEntry(root.hex(), name, seen_at))
    for sight in session.scalars(select(Sight).where(Sight.folder_id == folder_id)):
        add_line(session, folder_id, SightEntry(sight.point, sight.seen_at))
    for reporter in session.scalars(select(Reporter).where(Reporter.folder_id == folder_id)):
        add_line(session, folder_id, ReporterEntry(reporter.name, reporter.since))
    for test in restore_tests_of(session, folder_id):
        add_line(session, folder_id, entry_of_test(test))


def _take_in(
    session: Session,
    folder: Folder,
    reading: LedgerReading,
    ownership: Ownership,
    freeze: Freeze | None,
    now: datetime,
) -> Adopted:
    state = reading.state
    holds = sum([_take_hold(session, folder.id, hold) for hold in state.holds])
    stones = sum([_take_stone(session, folder.id, stone, now) for stone in state.of(TombstoneEntry)])
    for seen in state.of(SeenEntry):
        known = session.get(SeenBefore, (folder.id, seen.root))
        if known is None:
            session.add(SeenBefore(folder_id=folder.id, root=seen.root, seen_at=seen.seen_at))
        else:
            known.seen_at = min(known.seen_at, seen.seen_at)
    for sight in state.of(SightEntry):
        if session.get(Sight, (folder.id, sight.point)) is None:
            session.add(Sight(folder_id=folder.id, point=sight.point, seen_at=sight.seen_at))
    for name in state.reporters:
        if session.get(Reporter, (folder.id, name)) is None:
            session.add(Reporter(folder_id=folder.id, name=name, since=now, reported_at=None))
    for test in state.of(RestoreTestEntry):
        take_test(session, folder.id, test)
    if freeze is not None:
        set_freezes(session, Scope(folder.id), [freeze], judged={FreezeKind.REBUILT}, now=now)
    folder.ledger_read_at = now
    folder.ledger_problem = None
    return Adopted(ownership, holds, stones, reading.faults, freeze)


def _take_hold(session: Session, folder_id: int, hold: HoldEntry) -> bool:
    if session.scalar(select(StoredHold.id).where(StoredHold.uid == hold.uid)) is not None:
        return False
    session.add(
        StoredHold(
            folder_id=folder_id,
            uid=hold.uid,
            name=hold.name,
            point=hold.point,
            reason=hold.reason,
            placed_by=hold.placed_by,
            placed_at=hold.placed_at,
            until=hold.until,
        )
    )
    return True


def _take_stone(session: Session, folder_id: int, stone: TombstoneEntry, now: datetime) -> bool:
    """Take a tombstone in, unless it is known, or no removal of ours: a base is never removed.

    One that was about to be moved is not: it was brought back, and the planner is asked again.
    """
    name = parse_image_name(stone.name)
    known = session.scalar(select(Tombstone.id).where(Tombstone.token == stone.token))
    if known is not None or name is None or name.is_full:
        return False
    is_undone = stone.state == TombstoneState.RETIRING
    row = Tombstone(
        folder_id=folder_id,
        chain_id=None,
        token=stone.token,
        name=stone.name,
        root=bytes.fromhex(stone.root),
        tier=Tier(stone.tier),
        state=TombstoneState.BROUGHT_BACK if is_undone else TombstoneState(stone.state),
        to_incrementals=stone.to_incrementals,
        reason=stone.reason,
        covered_by=stone.covered_by,
        stored_bytes=stone.stored_bytes,
        files=[dict(one) for one in stone.files],
        first_seen_at=stone.first_seen_at,
        retiring_at=stone.retiring_at,
        retired_at=stone.retired_at or (None if is_undone else now),
        deleted_at=now if is_undone else stone.deleted_at,
        lifted=stone.lifted,
    )
    session.add(row)
    if is_undone:
        add_line(session, folder_id, tombstone_entry(row))
    return True


def _freeze(reading: LedgerReading, now: datetime) -> Freeze | None:
    """Say why nothing may be removed until whoever needs images has said so."""
    if reading.state.reporters:
        return judge_rebuilt(now, reading.state.reporters)
    freeze = judge_rebuilt(now, ["jobs and targets that its ledger does not name"])
    if freeze is None or not reading.exists or reading.faults:
        return freeze and replace(freeze, ends="once a person says that all is well")
    ends_at = now + REPORT_WAIT
    return replace(
        freeze, ends=f"on {ends_at:%Y-%m-%d %H:%M} UTC, if none has said so by then", ends_at=ends_at
    )


def _had_owner(path: Path) -> bool:
    try:
        return read_owner(path) is not None
    except OwnershipError:
        return True


def _refuse_if_not_ours(path: Path, uid: str) -> None:
    owner = read_owner(path)
    if owner is None or owner.agent != uid:
        raise OwnershipError(
            "its ledger is not ours to write" if owner else "its ledger names no owner yet", path=str(path)
        )
