"""Rolling HeadStart disks on: each planned, claimed, brought one image further, recorded; then planned again.

What a disk needs is claimed before anything is opened, and stays claimed for as long as the disk is kept: no image goes
that it is to be rolled on with, wherever a crash leaves it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from actors.consolidate import doubt
from actors.context import AgentContext, StopRequested
from actors.headstart_disk import bring_to_goal
from actors.headstart_view import DiskView, load_disk
from actors.hints import Hints
from actors.patience import Beat, patiently
from actors.trying import beginning, persist, trying
from hsr.rolling.disk import Rolled
from policies.cursor import Cursor
from policies.errors import CatalogError, FormatError, RestoreError, StorageError
from policies.headstart import DiskState
from policies.holdings import Claim
from policies.points import Point
from storage.catalog.attempts import Admission, Admitted, Work, begin_attempt, end_attempt, pause_attempt
from storage.catalog.claims import place_claim, release_claim
from storage.catalog.headstart import (
    all_have_claimed,
    build_key,
    claim_key,
    is_held,
    lock_disk,
    needed_by,
    packed_or_none,
    release_disk,
    reporter_name,
    set_cursor,
    work_key,
)
from storage.catalog.headstart_models import HeadStartDisk, HeadStartJob, JobState
from storage.catalog.leases import is_alive
from storage.catalog.memory_models import StoredClaim
from storage.catalog.models import Attempt, Chain, EventKind, WorkKind
from storage.catalog.points import pack_point
from storage.catalog.reporters import report

_log = structlog.get_logger("agent")

_AT_LATEST: Final = timedelta(days=1)
"""A disk is planned at least so often."""

_AGAIN_AFTER: Final = timedelta(minutes=1)
"""What lies out of reach is looked for again after so long."""

_WORK_TAKES_LONGER: Final = 10
"""Syncing a large disk may take so many times as long as a folder may otherwise be silent."""

_LOOK_EVERY_S: Final = 1.0
"""So often work on a disk looks whether it is still wanted."""

_TELL_EVERY_S: Final = 5.0
"""So often it says how far it has come."""

_TROUBLED: Final = frozenset({DiskState.STOPPED, DiskState.NEEDS_FRESH})


def roll_disk(context: AgentContext, hints: Hints, disk_id: int) -> None:
    """Bring a disk to where it may be now, unless another worker does.

    Args:
        context: surroundings.
        hints: where to say what is to be done next.
        disk_id: the disk; one that is no longer catalogued is passed over.

    Raises:
        CatalogError: the catalogue cannot be used.

    Crash: the disk's cursor file says what may be on it, and its claims last; the next run goes on.
    """
    while not context.stopping.is_set():
        view = load_disk(context, disk_id)
        if view is None or not _step(context, hints, view):
            return


def _step(context: AgentContext, hints: Hints, view: DiskView) -> bool:
    """Do one thing; tell whether to go on."""
    begun: list[int] = []
    with beginning(context, begun) as session:
        task = _begin(context, session, view)
        if isinstance(task, _Task):
            begun.append(task.attempt_id)
    if not isinstance(task, _Task):
        return task
    return _carry_out(context, hints, task)


@dataclass(frozen=True, slots=True)
class _Task:
    """One span, or a first build, that was begun."""

    view: DiskView
    attempt_id: int


def _begin(context: AgentContext, session: Session, view: DiskView) -> _Task | bool:
    """Record how a disk stands and what it needs, and that work on it begins if any is due.

    Returns:
        The work; or whether to plan anew.
    """
    disk = lock_disk(session, view.disk.id)
    job = session.get(HeadStartJob, view.job.id)
    if disk is None or job is None:
        return False
    if job.state is not view.job.state:
        return True
    if is_held(disk, context.machine_clock()):
        return False
    chain = None if view.chain is None else session.get(Chain, view.chain.id)
    if chain is not None and view.chain is not None and chain.revision != view.chain.revision:
        return True
    if not _settle(context, session, view, disk, chain):
        return True
    if view.plan.goal is None or chain is None:
        disk.next_due_at = _next_look(view)
        return False
    admitted = _admit(context, session, view, disk)
    if admitted.admission is not Admission.BEGUN:
        _hold_back(context, session, view, disk, admitted)
        return False
    if not claim_images(context, session, view, disk, chain):
        pause_attempt(session, admitted.attempt_id, context.holder)
        return True
    disk.done_bytes = disk.total_bytes = 0
    return _Task(view, admitted.attempt_id)


def _settle(
    context: AgentContext, session: Session, view: DiskView, disk: HeadStartDisk, chain: Chain | None
) -> bool:
    """Record how a disk stands, and claim what it needs; tell whether all of that can be had."""
    if view.plan.state is DiskState.FINALIZED:
        record_end(context, session, view, disk, view.cursor.points[0])
        return True
    mirror_disk(context, session, view, disk, chain)
    claimed = chain is None or claim_for(session, view, disk, chain)
    if claimed:
        _report(session, view)
    return claimed


def _report(session: Session, view: DiskView) -> None:
    """Say that a job needs no more than is claimed, once that is so for all of its disks."""
    if all_have_claimed(session, view.job):
        report(session, view.job.folder_id, reporter_name(view.job), now=view.now)


def record_end(
    context: AgentContext, session: Session, view: DiskView, disk: HeadStartDisk, point: Point
) -> None:
    """Record that a disk is finalized, as its cursor file says: it needs nothing any more.

    Args:
        context: surroundings.
        session: of a write transaction.
        view: the disk.
        disk: its row, locked.
        point: where it stands for good.
    """
    if disk.state is not DiskState.FINALIZED:
        context.note(
            session,
            EventKind.FINALIZED,
            view.title,
            f"finalized at point {point.number}, of {point.time:%Y-%m-%d %H:%M} UTC: {view.path}",
            folder_id=view.folder.id,
            chain_id=disk.chain_id,
        )
    disk.state, disk.reason, disk.due_since = DiskState.FINALIZED, f"at point {point.number}", None
    disk.is_begun, disk.target = True, None
    set_cursor(disk, Cursor.closed(point))
    release_disk(session, view.job, disk, now=view.now)
    _report(session, view)


def claim_images(
    context: AgentContext, session: Session, view: DiskView, disk: HeadStartDisk, chain: Chain
) -> bool:
    """Claim the images that are applied next, for as long as this process is at it; tell whether all can be had."""
    names = frozenset(span.name for span in view.plan.path[: how_many(view)])
    moment = context.moment()
    missing = place_claim(
        session,
        chain.id,
        work_key(view.job, disk),
        Claim(needed_by(view.job, disk), view.now, names=names),
        now=view.now,
        holder=context.holder,
        expires_at=moment.machine_now + moment.lease_time,
    )
    return not missing


def how_many(view: DiskView) -> int:
    """A first build goes along all images at once; later on one is applied after the other."""
    return len(view.plan.path) if view.cursor.is_blank else 1


def mirror_disk(
    context: AgentContext, session: Session, view: DiskView, disk: HeadStartDisk, chain: Chain | None
) -> None:
    """Record how a disk stands; what stops it, or no longer does, is told."""
    plan = view.plan
    if chain is not None:
        disk.chain_id, disk.base_number = chain.id, chain.base_number
    if view.standing is not None:
        disk.is_begun = True
        disk.capacity_bytes = view.standing.place.room_bytes
        set_cursor(disk, view.cursor)
    if plan.newest is not None:
        disk.target, disk.newest = packed_or_none(plan.target), packed_or_none(plan.newest)
        disk.due_since = plan.due_since
    _set_state(context, session, view, disk, plan.state, plan.reason)


def _set_state(
    context: AgentContext,
    session: Session,
    view: DiskView,
    disk: HeadStartDisk,
    state: DiskState,
    reason: str,
) -> None:
    if (disk.state, disk.reason) == (state, reason):
        return
    disk.state, disk.reason = state, reason
    if state in _TROUBLED:
        context.note(
            session,
            EventKind.DISK_STOPPED,
            view.title,
            f"{state.value}: {reason}",
            folder_id=view.folder.id,
            chain_id=disk.chain_id,
        )


def claim_for(session: Session, view: DiskView, disk: HeadStartDisk, chain: Chain) -> bool:
    """Have it recorded what the disk needs, as it stands and as the next write may leave it."""
    plan, cursor = view.plan, view.cursor
    if plan.path and not cursor.is_blank:
        cursor = cursor.widened(plan.path[0])
    target = plan.target or cursor.hi
    if target is None:
        return True
    wanted = Claim(needed_by(view.job, disk), view.now, target=target, standing=cursor)
    is_placed = _place(session, chain.id, claim_key(view.job, disk), wanted)
    key = build_key(view.job, disk)
    if view.cursor.is_blank and plan.goal is not None:
        is_placed &= _place(session, chain.id, key, replace(wanted, target=plan.goal, standing=None))
    else:
        release_claim(session, chain.id, key, now=view.now)
    return is_placed


def _place(session: Session, chain_id: int, key: str, wanted: Claim) -> bool:
    """Place a lasting claim, unless it is there already: then nothing else is out of date by it."""
    query = select(StoredClaim).where(StoredClaim.chain_id == chain_id, StoredClaim.key == key)
    known = session.scalar(query)
    standing = None if wanted.standing is None else [pack_point(one) for one in wanted.standing.points]
    target = packed_or_none(wanted.target)
    if known is not None and (known.target, known.standing) == (target, standing):
        return True
    now = wanted.claimed_at
    if known is not None:
        wanted = replace(wanted, claimed_at=known.claimed_at)
    return not place_claim(session, chain_id, key, wanted, now=now)


def _next_look(view: DiskView) -> datetime:
    ahead = [view.now + _AT_LATEST]
    if view.plan.next_due_at is not None:
        ahead.append(view.plan.next_due_at)
    if view.plan.state is DiskState.STOPPED and view.plan.newest is None:
        ahead.append(view.now + _AGAIN_AFTER)
    return max(min(ahead), view.now)


def disk_work(view: DiskView, engine_version: str) -> Work:
    """Return the work on a disk: one at a time, whatever is due.

    Args:
        view: the disk.
        engine_version: version of the software that does it.
    """
    return Work(
        WorkKind.HEADSTART,
        f"{view.job.uid} {view.disk.volume}",
        engine_version,
        folder_id=view.folder.id,
        title=view.title,
    )


def _admit(context: AgentContext, session: Session, view: DiskView, disk: HeadStartDisk) -> Admitted:
    """Begin an attempt; what went wrong before does not count against another way to go."""
    work = disk_work(view, context.engine_version)
    if disk.tried != view.digest:
        same = (Attempt.kind == work.kind, Attempt.subject == work.subject)
        rows = list(session.scalars(select(Attempt).where(*same).with_for_update()))
        now = context.machine_clock()
        if not any(row.holder is not None and is_alive(row.holder, row.expires_at, now) for row in rows):
            session.execute(delete(Attempt).where(*same, Attempt.dropped_by.is_(None)))
            disk.tried = view.digest
    return begin_attempt(session, work, context.moment())


def _hold_back(
    context: AgentContext, session: Session, view: DiskView, disk: HeadStartDisk, admitted: Admitted
) -> None:
    """Record why work may not begin now."""
    if admitted.admission is Admission.RUNNING:
        return
    after = "" if admitted.admission is Admission.WAITING else "; not tried again by itself"
    _set_state(context, session, view, disk, DiskState.STOPPED, f"{admitted.reason}{after}")
    disk.next_due_at = max(admitted.retry_at or view.now + _AT_LATEST, view.now)


# --- doing it


@dataclass(slots=True)
class _Watch:
    """Looks, while a disk is worked on, whether that is still wanted, and says how far it has come."""

    context: AgentContext
    disk_id: int
    is_over: bool = False
    looked_at: float = field(default_factory=time.monotonic)
    told_at: float = field(default_factory=time.monotonic)

    def stopping(self) -> bool:
        """Tell whether to stop: the agent does, or a person paused or took the disk."""
        if self.context.stopping.is_set():
            self.is_over = True
        elif time.monotonic() - self.looked_at > _LOOK_EVERY_S:
            self.looked_at = time.monotonic()
            self.is_over = self.is_over or not self._is_wanted()
        return self.is_over

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Keep within the agent's share of the processors, and say how far it is."""
        try:
            self.context.pause()
        except StopRequested:
            self.is_over = True
        if time.monotonic() - self.told_at > _TELL_EVERY_S:
            self.told_at = time.monotonic()
            self._tell(done_bytes, total_bytes)

    def _is_wanted(self) -> bool:
        try:
            with self.context.catalog.read() as session:
                disk = session.get(HeadStartDisk, self.disk_id)
                job = None if disk is None else session.get(HeadStartJob, disk.job_id)
                if disk is None or job is None or job.state is not JobState.ENABLED:
                    return False
                return not is_held(disk, self.context.machine_clock())
        except CatalogError:
            return True  # nobody said anything else

    def _tell(self, done_bytes: int, total_bytes: int) -> None:
        try:
            with self.context.catalog.write() as session:
                disk = session.get(HeadStartDisk, self.disk_id)
                if disk is not None:
                    disk.done_bytes, disk.total_bytes = done_bytes, total_bytes
        except CatalogError as error:
            _log.info("how far a disk is cannot be told", reason=error.reason)


def _carry_out(context: AgentContext, hints: Hints, task: _Task) -> bool:
    """Apply, then record; tell whether to go on.

    Crash: the disk's cursor says what may be on it; the attempt counts as a crash.
    """
    view = task.view
    silence_s = context.pace.silence.total_seconds() * _WORK_TAKES_LONGER
    rolled: Rolled | None = None
    with trying(context, task.attempt_id, view.title, view.folder.id) as trial:

        def work(answered: Beat) -> Rolled:
            watch = _Watch(replace(context, answered=answered), view.disk.id)
            return bring_to_goal(context.seal, view, how_many(view), watch.progress, watch.stopping)

        with _told_of_images(context, view):
            rolled = patiently(view.location.path, silence_s, work)
        result = rolled
        persist(context, lambda session: _record(context, session, task, result))
        trial.done = True
    if not trial.done:
        _record_trouble(context, task, trial.reason, trial.again_at)
        if trial.reason is not None:
            hints.folder_changed(view.folder.id)
    return trial.done and rolled is not None and not rolled.is_stopped


@contextmanager
def _told_of_images(context: AgentContext, view: DiskView) -> Iterator[None]:
    """Have an image that turns out bad verified again; a medium that refuses may be well again later."""
    try:
        yield
    except FormatError as error:
        if error.path is not None:
            doubt(context, view.folder, Path(error.path))
        raise
    except RestoreError as error:
        raise StorageError(error.reason, path=error.path, hint=error.hint) from error


def _record(context: AgentContext, session: Session, task: _Task, rolled: Rolled) -> None:
    view = task.view
    disk = lock_disk(session, view.disk.id)
    end = pause_attempt if rolled.is_stopped else end_attempt
    if not end(session, task.attempt_id, context.holder) or disk is None:
        return  # somebody else is at it, and reads for himself how it stands
    note_rolled(context, session, view, disk, rolled)


def note_rolled(
    context: AgentContext, session: Session, view: DiskView, disk: HeadStartDisk, rolled: Rolled
) -> None:
    """Record where a disk was brought to.

    Args:
        context: surroundings.
        session: of a write transaction.
        view: the disk as it was, and what was to be done.
        disk: its row.
        rolled: what was done.
    """
    end_work(session, view, disk)
    cursor = rolled.standing.cursor
    disk.is_begun = True
    disk.capacity_bytes = rolled.standing.place.room_bytes
    set_cursor(disk, cursor)
    if rolled.is_stopped or not cursor.is_closed:
        return
    point, done = cursor.points[0], "built at" if view.cursor.is_blank else "rolled on to"
    context.note(
        session,
        EventKind.ROLLED_ON,
        view.title,
        f"{done} point {point.number}, of {point.time:%Y-%m-%d %H:%M} UTC",
        folder_id=view.folder.id,
        chain_id=disk.chain_id,
        facts={
            "images": how_many(view),
            "written_bytes": rolled.written_bytes,
            "lag_s": round((view.now - point.time).total_seconds()),
        },
    )


def _record_trouble(
    context: AgentContext, task: _Task, reason: str | None, again_at: datetime | None
) -> None:
    """Record why a disk was left where it was."""
    view = task.view

    def record(session: Session) -> None:
        disk = lock_disk(session, view.disk.id)
        if disk is None:
            return
        end_work(session, view, disk)
        if reason is not None:
            _set_state(context, session, view, disk, DiskState.STOPPED, reason)
            disk.next_due_at = max(again_at or view.now + _AT_LATEST, view.now)

    persist(context, record)


def end_work(session: Session, view: DiskView, disk: HeadStartDisk) -> None:
    """Give up what the work that was done now needed."""
    if view.chain is not None:
        release_claim(session, view.chain.id, work_key(view.job, disk), now=view.now)
