"""Attempts: recorded before work starts, so that work which kills its worker is seen, counted and stopped."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from policies.attempts import CRASH_LIMIT, FIRST_WAIT, AttemptVerdict, judge_attempts, must_be_alone
from storage.catalog.holders import Holder
from storage.catalog.leases import is_alive
from storage.catalog.models import Attempt, WorkKind

_APART: Final = (WorkKind.RESTORE_TEST,)
"""Work in a process of its own: the end of its worker counts as a failure, and nothing is kept waiting by it."""


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work, the same however often it is tried.

    Attributes:
        kind: kind of work.
        subject: what is worked on; a file that changed is another subject.
        engine_version: version of the software that does it.
        folder_id: the folder that it is about; None if it is about none.
        title: the subject in words, for people; the subject itself if empty.
    """

    kind: WorkKind
    subject: str
    engine_version: str
    folder_id: int | None = None
    title: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """Both clocks and the holder, read once for a step of work.

    Attributes:
        now: calendar time.
        machine_now: real time.
        lease_time: how long a holder counts as alive without renewing.
        holder: who asks.
    """

    now: datetime
    machine_now: datetime
    lease_time: timedelta
    holder: Holder


class Admission(StrEnum):
    """Whether work may begin: yes; not while another does it; not yet after trouble; not by itself; not at all."""

    BEGUN = "begun"
    RUNNING = "running"
    WAITING = "waiting"
    QUARANTINED = "quarantined"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Admitted:
    """Answer to `begin_attempt`.

    Attributes:
        admission: whether it may begin.
        attempt_id: row to finish it with, if it may.
        reason: why not, in words.
        retry_at: when it may, if that is known (calendar).
        newly: whether this very call put it into quarantine or found a crash.
    """

    admission: Admission
    attempt_id: int = 0
    reason: str = ""
    retry_at: datetime | None = None
    newly: bool = False


def begin_attempt(session: Session, work: Work, moment: Moment) -> Admitted:
    """Record that work begins, unless it runs already or has to wait.

    Args:
        session: of a write transaction; the work itself starts only after it was committed.
        work: what is to be done.
        moment: clocks and holder.

    Returns:
        Whether it may begin.

    Crash: the row stays, and its next beginning counts a crash.
    """
    dropped_by = _dropped_by(session, work)
    if dropped_by is not None:
        return Admitted(Admission.DROPPED, reason=f"{dropped_by} said that it is not to be done")
    row = _row_of(session, work)
    held_back = None if row is None else _why_not(row, moment)
    if held_back is None and work.kind not in _APART:
        held_back = _beside(session, row, moment)
    if held_back is not None:
        return held_back
    if row is None:
        row = Attempt(
            kind=work.kind,
            subject=work.subject,
            engine_version=work.engine_version,
            started_at=moment.now,
            failures=0,
            crashes=0,
            quarantined=False,
            folder_id=work.folder_id,
            title=work.title or work.subject,
        )
        session.add(row)
    row.holder = str(moment.holder)
    row.expires_at = moment.machine_now + moment.lease_time
    row.started_at = moment.now
    session.flush()
    return Admitted(Admission.BEGUN, row.id)


def _row_of(session: Session, work: Work) -> Attempt | None:
    query = select(Attempt).where(
        Attempt.kind == work.kind,
        Attempt.subject == work.subject,
        Attempt.engine_version == work.engine_version,
    )
    return session.scalar(query.with_for_update())


def _dropped_by(session: Session, work: Work) -> str | None:
    """Tell who dropped the work, under whatever version: it stays dropped."""
    query = select(Attempt.dropped_by).where(
        Attempt.kind == work.kind, Attempt.subject == work.subject, Attempt.dropped_by.is_not(None)
    )
    return session.scalar(query.limit(1))


def _why_not(row: Attempt, moment: Moment) -> Admitted | None:
    newly, is_apart = False, row.kind in _APART
    if row.holder is not None:
        if is_alive(row.holder, row.expires_at, moment.machine_now):
            return Admitted(
                Admission.RUNNING, reason="another worker is at it", retry_at=moment.now + FIRST_WAIT
            )
        row.crashes += not is_apart
        row.failures += is_apart
        times = row.failures if is_apart else row.crashes
        _apply(row, f"the worker ended before the work did ({times} times)", moment.now)
        newly = True
    if row.quarantined:
        return Admitted(Admission.QUARANTINED, reason=row.reason or "", newly=newly)
    if row.retry_at is not None and row.retry_at > moment.now:
        return Admitted(Admission.WAITING, reason=row.reason or "", retry_at=row.retry_at, newly=newly)
    return None


def _beside(session: Session, row: Attempt | None, moment: Moment) -> Admitted | None:
    """Keep work that may end its process apart from all else in it, so that nothing innocent is blamed with it."""
    is_suspect = row is not None and must_be_alone(row.crashes)
    here = (Attempt.holder == str(moment.holder), Attempt.kind.not_in(_APART))
    query = select(Attempt.title).where(*here)
    if row is not None:
        query = query.where(Attempt.id != row.id)
    if not is_suspect:
        query = query.where(Attempt.crashes >= CRASH_LIMIT - 1)
    title = session.scalar(query.limit(1))
    if title is None:
        return None
    reason = (
        f"its worker ended {row.crashes} times: it is tried alone, once {title} is done"
        if row is not None and is_suspect
        else f"waits for {title}, which is tried alone: its worker ended more than once"
    )
    return Admitted(Admission.WAITING, reason=reason, retry_at=moment.now + FIRST_WAIT)


def fail_attempt(
    session: Session, attempt_id: int, moment: Moment, reason: str, *, may_pass: bool = False
) -> AttemptVerdict | None:
    """Record that work ended with an error.

    Args:
        session: of a write transaction.
        attempt_id: from `begin_attempt`.
        moment: clocks and holder.
        reason: what went wrong.
        may_pass: whether it may recover by itself; then it is never quarantined for it.

    Returns:
        When it is tried again; None if the attempt was taken over by somebody else.
    """
    row = _held_row(session, attempt_id, moment.holder)
    if row is None:
        return None
    row.failures += 1
    return _apply(row, reason, moment.now, may_pass=may_pass)


def end_attempt(session: Session, attempt_id: int, holder: Holder) -> bool:
    """Forget an attempt, because its work ended well or was given up unharmed.

    Returns:
        False if somebody else took it over meanwhile: its result must not be recorded.
    """
    row = _held_row(session, attempt_id, holder)
    if row is not None and row.dropped_by is not None:
        row.holder = row.expires_at = None
    elif row is not None:
        same = (Attempt.kind == row.kind, Attempt.subject == row.subject, Attempt.id != row.id)
        idle = (Attempt.holder.is_(None), Attempt.dropped_by.is_(None))
        session.execute(
            delete(Attempt).where(*same, *idle)
        )  # an earlier version's trouble with it is over, too
        session.delete(row)
    return row is not None


def pause_attempt(session: Session, attempt_id: int, holder: Holder) -> bool:
    """Let go of work that was asked to stop; neither a failure nor a crash.

    Returns:
        False if somebody else took it over meanwhile: its result must not be recorded.
    """
    row = _held_row(session, attempt_id, holder)
    if row is not None:
        row.holder = None
        row.expires_at = None
    return row is not None


def _held_row(session: Session, attempt_id: int, holder: Holder) -> Attempt | None:
    row = session.get(Attempt, attempt_id, with_for_update=True)
    return row if row is not None and row.holder == str(holder) else None


def _apply(row: Attempt, reason: str, now: datetime, *, may_pass: bool = False) -> AttemptVerdict:
    verdict = judge_attempts(row.failures, row.crashes, may_pass=may_pass)
    row.holder = None
    row.expires_at = None
    row.reason = reason
    row.quarantined = verdict.quarantined
    row.retry_at = now + verdict.wait if verdict.wait else None
    return verdict


def attempts(session: Session) -> list[Attempt]:
    """Return all work that runs, waits after trouble, is set aside or was dropped, longest begun first."""
    return list(session.scalars(select(Attempt).order_by(Attempt.started_at, Attempt.id)))


def drop_attempt(session: Session, attempt_id: int, dropped_by: str) -> Attempt | None:
    """Record that work is not to be done, now or under a later version; what runs is not stopped by it.

    Args:
        session: of a write transaction.
        attempt_id: its row.
        dropped_by: who says so.

    Returns:
        Its row; None if there is none.
    """
    row = session.get(Attempt, attempt_id, with_for_update=True)
    if row is not None:
        row.dropped_by = dropped_by
    return row


def retry_attempt(session: Session, attempt_id: int) -> Attempt | None:
    """Have work tried again as if nothing had gone wrong, also if it was dropped.

    Args:
        session: of a write transaction.
        attempt_id: its row.

    Returns:
        Its row; None if there is none.
    """
    row = session.get(Attempt, attempt_id, with_for_update=True)
    if row is not None:
        same = (Attempt.kind == row.kind, Attempt.subject == row.subject)
        fresh = {"dropped_by": None, "failures": 0, "crashes": 0, "quarantined": False, "retry_at": None}
        session.execute(update(Attempt).where(*same).values(**fresh))
    return row
