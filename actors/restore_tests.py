"""Testing restores of the points at which HeadStart disks stand, as often as their jobs say; what is found is recorded.

A test reads images, in a process of its own: nothing waits for it. What it reads is claimed for as long as that takes,
and the images are named to it with their roots. A point that fails is told of; nothing is ever removed for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from sqlalchemy import delete, select

from actors.chain_view import may_be_worked_in
from actors.consolidate import doubt
from actors.context import AgentContext, StopRequested
from actors.headstart_disk import password_place
from actors.headstart_view import disk_title
from actors.hints import Hints
from actors.patience import patiently
from actors.trying import beginning, persist, trying
from hsr.testing_restore.order import Answer, Order
from policies.control import control_at
from policies.cursor import Cursor, roll_on_path
from policies.errors import (
    CatalogError,
    ConfigurationError,
    FormatError,
    PasswordError,
    StorageError,
)
from policies.headstart import DiskState
from policies.holdings import Claim
from policies.points import Point
from policies.restore_tests import DueTest, Rhythm, Verdict, due_test
from storage.catalog.agents import agent_policy
from storage.catalog.attempts import Admission, Work, begin_attempt, end_attempt, pause_attempt
from storage.catalog.claims import place_claim, release_claim
from storage.catalog.facts import holding_of
from storage.catalog.folders import folder_policy
from storage.catalog.headstart import (
    chain_of_disk,
    cursor_of,
    disks_of_job,
    key_of_test,
    lock_disk,
)
from storage.catalog.headstart_models import HeadStartDisk, HeadStartJob, JobState, PointTest
from storage.catalog.leases import is_alive
from storage.catalog.memory_models import StoredClaim
from storage.catalog.mirroring import mirror_ledger
from storage.catalog.models import Attempt, Chain, EventKind, Folder, Image, WorkKind
from storage.catalog.point_tests import last_test, note_test, words_of_test

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_AT_LATEST: Final = timedelta(days=1)
"""Whether a disk is due is looked at least so often; what stands in the way of a test, too."""

_AGAIN_AFTER: Final = timedelta(minutes=10)
"""A disk that stands nowhere yet, or whose images are being verified, is looked at again after so long."""

_LOOK_EVERY_S: Final = 1.0
"""So often a test looks whether it is still wanted."""


def try_restore(context: AgentContext, hints: Hints, disk_id: int) -> None:
    """Test a restore of the point where a disk stands, if that is due, unless another worker does.

    Args:
        context: surroundings.
        hints: where to say what is to be done next.
        disk_id: the disk; one that is no longer catalogued is passed over.

    Raises:
        CatalogError: the catalogue cannot be used.

    Crash: the process that tests ends with this one; the attempt counts as a failure, the claim ends, and what it had
        in scratch folders is swept away by the next. The test is still due.
    """
    begun: list[int] = []
    with beginning(context, begun) as session:
        task = _begin(context, session, disk_id)
        if task is not None:
            begun.append(task.attempt_id)
    if task is None:
        return
    _carry_out(context, task)
    if task.is_doubtful:
        hints.folder_changed(task.folder_id)


@dataclass(slots=True)
class _Task:
    """A test that was begun.

    Attributes:
        disk_id: of which disk.
        title: in words.
        folder_id: whose images are read.
        folder_path: where they lie.
        chain_id: their chain.
        claim_key: what is needed of it.
        attempt_id: the attempt.
        order: what is tested.
        point: likewise.
        job_uid: of the job that wants it.
        begun_at: when it began (calendar).
        plan: when it was due, and when the next is.
        is_doubtful: whether an image turned out bad.
    """

    disk_id: int
    title: str
    folder_id: int
    folder_path: str
    chain_id: int
    claim_key: str
    attempt_id: int
    order: Order
    point: Point
    job_uid: str
    begun_at: datetime
    plan: DueTest
    is_doubtful: bool = False


@dataclass(frozen=True, slots=True)
class _Due:
    """A disk that is due for a test, and what is known of it."""

    job: HeadStartJob
    disk: HeadStartDisk
    folder: Folder
    plan: DueTest
    due_since: datetime
    now: datetime


def plan_of_tests(session: Session, job: HeadStartJob, disk: HeadStartDisk, now: datetime) -> DueTest:
    """Tell whether a disk is due for a restore test, and when it will be.

    Args:
        session: any session.
        job: its job.
        disk: the disk.
        now: calendar time.

    Raises:
        ConfigurationError: what is stored of its folder is no setting of this version.
    """
    if job.test_rhythm is Rhythm.NEVER or job.state is not JobState.ENABLED:
        return DueTest(None, None)
    folder = session.get_one(Folder, job.folder_id)
    ends = folder_policy(session, folder).consolidation.period_ends
    control = control_at(now, agent_policy(session).control, ZoneInfo(folder.time_zone))
    last = last_test(session, job, disk)
    since = job.added_at if last is None else last.tested_at
    return due_test(job.test_rhythm, ends, control, since, now)


# --- beginning


def _begin(context: AgentContext, session: Session, disk_id: int) -> _Task | None:
    """Record that a test begins, with all that it reads claimed; or when to look again."""
    disk = lock_disk(session, disk_id)
    job = None if disk is None else session.get(HeadStartJob, disk.job_id)
    if disk is None or job is None or disk.state is DiskState.FINALIZED:
        return None
    now = context.clock()
    if disk.next_test_at is None or disk.next_test_at > now:
        return None
    plan = plan_of_tests(session, job, disk, now)
    if plan.due_since is None:
        is_over = job.test_rhythm is Rhythm.NEVER or job.state is not JobState.ENABLED
        disk.next_test_at = None if is_over else _not_after(now + _AT_LATEST, plan)
        disk.test_problem = None if job.test_rhythm is Rhythm.NEVER else disk.test_problem
        return None
    due = _Due(job, disk, session.get_one(Folder, job.folder_id), plan, plan.due_since, now)
    disk.next_test_at = now + _AGAIN_AFTER
    return _begin_due(context, session, due)


def _begin_due(context: AgentContext, session: Session, due: _Due) -> _Task | None:
    job, disk, folder, now = due.job, due.disk, due.folder, due.now
    chain, point = chain_of_disk(session, job, disk), cursor_of(disk).hi
    if chain is None or point is None or not may_be_worked_in(folder):
        return None
    images, are_proven = _images_to(session, chain, point)
    if not images:
        disk.test_problem = f"no good images lead from a base to point {point.number}, where the disk stands"
    if not are_proven:
        return None
    attempt_id = _admit(context, session, due)
    if attempt_id is None:
        return None
    names = frozenset(image.name for image in images)
    needed_by = f"a restore test of the HeadStart job {job.name!r} (volume {disk.volume})"
    moment = context.moment()
    missing = place_claim(
        session,
        chain.id,
        key_of_test(job, disk),
        Claim(needed_by, now, names=names),
        now=now,
        holder=context.holder,
        expires_at=moment.machine_now + moment.lease_time,
    )
    if missing:
        pause_attempt(session, attempt_id, context.holder)
        return None
    return _Task(
        disk_id=disk.id,
        title=disk_title(job, disk),
        folder_id=folder.id,
        folder_path=folder.path,
        chain_id=chain.id,
        claim_key=key_of_test(job, disk),
        attempt_id=attempt_id,
        order=_order(session, due, chain, point, images),
        point=point,
        job_uid=job.uid,
        begun_at=now,
        plan=due.plan,
    )


def _images_to(session: Session, chain: Chain, point: Point) -> tuple[list[Image], bool]:
    """Find the fewest images that lead to a point from nothing.

    Returns:
        The images, in order; none if none do. And whether all are verified: if not, they will be.
    """
    rows = {row.name: row for row in session.scalars(select(Image).where(Image.chain_id == chain.id))}
    holdings = [one for one in map(holding_of, rows.values()) if one is not None and one.is_usable]
    for are_proven in (True, False):
        spans = [one.span for one in holdings if one.is_proven or not are_proven]
        path = roll_on_path(Cursor.blank(), spans, point.id)
        if path:
            return [rows[span.name] for span in path], are_proven
    return [], False


def _order(session: Session, due: _Due, chain: Chain, point: Point, images: list[Image]) -> Order:
    job = due.job
    return Order(
        images=tuple(Path(due.folder.path) / image.name for image in images),
        roots=tuple(image.root for image in images if image.root is not None),
        point_id=point.id,
        volume=chain.volume,
        base=chain.base_number,
        wrap=job.wrap,
        starts=job.test_starts,
        insists=len(disks_of_job(session, job.id)) == 1,
        marker=job.test_marker,
        bus=job.test_bus,
        shot=f"{point.id.hex()}-{job.uid[:8]}.png",
    )


def _admit(context: AgentContext, session: Session, due: _Due) -> int | None:
    """Begin an attempt; what went wrong with a test that was due before does not count against this one."""
    subject = f"{due.job.uid} {due.disk.volume}"
    same = (Attempt.kind == WorkKind.RESTORE_TEST, Attempt.subject == subject)
    machine_now = context.machine_clock()
    for row in session.scalars(select(Attempt).where(*same).with_for_update()).all():
        is_held = row.holder is not None and is_alive(row.holder, row.expires_at, machine_now)
        if row.started_at < due.due_since and not is_held and row.dropped_by is None:
            session.execute(delete(Attempt).where(Attempt.id == row.id))
    title = f"restore test of {disk_title(due.job, due.disk)}"
    work = Work(WorkKind.RESTORE_TEST, subject, context.engine_version, due.folder.id, title)
    admitted = begin_attempt(session, work, context.moment())
    if admitted.admission is Admission.BEGUN:
        return admitted.attempt_id
    if admitted.admission is not Admission.RUNNING:
        ahead = admitted.retry_at or _not_after(due.now + _AT_LATEST, due.plan)
        due.disk.next_test_at = max(ahead, due.now)
        is_dropped = admitted.admission is Admission.DROPPED
        due.disk.test_problem = None if is_dropped else admitted.reason
    return None


def _not_after(latest: datetime, plan: DueTest) -> datetime:
    return latest if plan.next_at is None else min(latest, plan.next_at)


# --- doing it


def _carry_out(context: AgentContext, task: _Task) -> None:
    """Have it tested, and record what was found.

    Crash: the attempt counts as a failure; the claim ends with this process.
    """
    problem: str | None = None
    with trying(context, task.attempt_id, task.title, task.folder_id) as trial:
        answer: Answer | None = None
        try:
            with _told_of_images(context, task):
                answer = _tested(context, task)
            if answer.lacking is not None:
                problem = words_of_test(f"cannot be tested here: {answer.lacking}")
        except (ConfigurationError, PasswordError) as error:
            hint = f". {error.hint}" if error.hint else ""
            problem = words_of_test(f"cannot be tested here: {error}{hint}")
        persist(context, lambda session: _record(context, session, task, answer, problem))
        trial.done = True
    if not trial.done:
        persist(
            context, lambda session: _record_trouble(context, session, task, trial.reason, trial.again_at)
        )
        return
    if answer is not None:
        silence_s = context.pace.silence.total_seconds()
        try:
            patiently(
                task.folder_path,
                silence_s,
                lambda _: mirror_ledger(context.catalog, task.folder_id, now=context.clock()),
            )
        except StorageError:
            return  # the line waits in the catalogue


def _tested(context: AgentContext, task: _Task) -> Answer:
    if context.tester is None:
        raise ConfigurationError("this process tests no restores")
    order = replace(task.order, password=_password(context, task))
    answer = context.tester(order, _wanted_no_longer(context, task))
    if answer is None:
        raise StopRequested
    return answer


def _password(context: AgentContext, task: _Task) -> bytes | None:
    """Return the password that the job keeps; None if it keeps none.

    Raises:
        ConfigurationError: it cannot be opened.
    """
    with context.catalog.read() as session:
        disk = session.get(HeadStartDisk, task.disk_id)
        job = None if disk is None else session.get(HeadStartJob, disk.job_id)
        sealed = None if job is None else job.password
    if sealed is None or context.seal is None:
        return None
    return context.seal.open(sealed, password_place(task.job_uid)).password


def _wanted_no_longer(context: AgentContext, task: _Task) -> Callable[[], bool]:
    """Return what tells whether a test is to be left: the agent stops, or nobody wants it any more."""
    looked_at = time.monotonic()
    is_over = False

    def stopping() -> bool:
        nonlocal looked_at, is_over
        if context.stopping.is_set():
            return True
        if not is_over and time.monotonic() - looked_at > _LOOK_EVERY_S:
            looked_at = time.monotonic()
            is_over = not _is_wanted(context, task)
        return is_over

    return stopping


def _is_wanted(context: AgentContext, task: _Task) -> bool:
    try:
        with context.catalog.read() as session:
            disk = session.get(HeadStartDisk, task.disk_id)
            job = None if disk is None else session.get(HeadStartJob, disk.job_id)
            if disk is None or job is None or disk.state is DiskState.FINALIZED:
                return False
            return job.state is JobState.ENABLED and job.test_rhythm is not Rhythm.NEVER
    except CatalogError:
        return True  # nobody said anything else


@contextmanager
def _told_of_images(context: AgentContext, task: _Task) -> Iterator[None]:
    """Have an image that turns out bad verified again."""
    try:
        yield
    except FormatError as error:
        if error.path is not None:
            with context.catalog.read() as session:
                folder = session.get(Folder, task.folder_id)
            if folder is not None:
                doubt(context, folder, Path(error.path))
                task.is_doubtful = True
        raise


# --- recording it


def _record(
    context: AgentContext, session: Session, task: _Task, answer: Answer | None, problem: str | None
) -> None:
    """Record what was found, or why nothing could be, unless somebody else took the test over."""
    _release(context, session, task)
    if not end_attempt(session, task.attempt_id, context.holder):
        return
    disk = lock_disk(session, task.disk_id)
    if disk is None:
        return
    if problem is not None and problem != disk.test_problem:
        _note(context, session, task, EventKind.RESTORE_TEST_BAD, problem)
    disk.test_problem = problem
    disk.next_test_at = _not_after(task.begun_at + _AT_LATEST, task.plan)
    if answer is None:
        return
    row = PointTest(
        folder_id=task.folder_id,
        job_uid=task.job_uid,
        volume=task.order.volume,
        base_number=task.order.base,
        point=task.point.id.hex(),
        number=task.point.number,
        tested_at=task.begun_at,
        seconds=answer.seconds,
        verdict=answer.verdict,
        words=words_of_test(answer.words),
        screenshot=answer.screenshot,
        facts=dict(answer.facts),
    )
    note_test(session, row)
    kind = EventKind.RESTORE_TEST_BAD if answer.verdict is Verdict.BAD else EventKind.RESTORE_TESTED
    _note(context, session, task, kind, f"point {row.number} is {answer.verdict.value}: {row.words}", answer)


def _note(
    context: AgentContext,
    session: Session,
    task: _Task,
    kind: EventKind,
    text: str,
    answer: Answer | None = None,
) -> None:
    facts: dict[str, str | int | float | None] = {"point": task.point.id.hex(), "number": task.point.number}
    if answer is not None:
        facts |= {"verdict": answer.verdict.value, "seconds": round(answer.seconds, 3)}
    context.note(
        session,
        kind,
        task.title,
        text,
        folder_id=task.folder_id,
        chain_id=task.chain_id,
        facts=facts,
    )


def _record_trouble(
    context: AgentContext, session: Session, task: _Task, reason: str | None, again_at: datetime | None
) -> None:
    """Record why a test did not come to an end; one that was stopped is still due."""
    _release(context, session, task)
    disk = lock_disk(session, task.disk_id)
    if disk is None:
        return
    if reason is None:
        disk.next_test_at = task.begun_at
        return
    disk.test_problem = words_of_test(reason)
    disk.next_test_at = again_at or _not_after(task.begun_at + _AT_LATEST, task.plan)


def _release(context: AgentContext, session: Session, task: _Task) -> None:
    """Give up what the test needed, unless somebody else is at it by now, and needs the same."""
    query = select(StoredClaim.holder).where(
        StoredClaim.chain_id == task.chain_id, StoredClaim.key == task.claim_key
    )
    if session.scalar(query) == str(context.holder):
        release_claim(session, task.chain_id, task.claim_key, now=context.clock())
