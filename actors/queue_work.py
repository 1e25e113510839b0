"""Recorded work as people see it beside the queues: dropped, tried again, and tied to the messages that ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from actors.hints import RESTORE_TEST
from actors.queues import QueuedMessage
from actors.subjects import verification_of
from policies.names import image_name
from storage.catalog.attempts import drop_attempt, retry_attempt
from storage.catalog.chains import make_folder_due
from storage.catalog.events import record_event
from storage.catalog.headstart_models import HeadStartDisk, HeadStartJob
from storage.catalog.holders import Holder
from storage.catalog.leases import is_alive
from storage.catalog.models import Attempt, Chain, EventKind, Folder, Image, ImageState, WorkKind


class WorkState(StrEnum):
    """How recorded work stands.

    RUNNING: a worker is at it. STRANDED: its worker is gone. RETRYING: it went wrong, and is tried again.
    QUARANTINED: it went wrong too often. DROPPED: a person said that it is not to be done.
    """

    RUNNING = "running"
    STRANDED = "stranded"
    RETRYING = "retrying"
    QUARANTINED = "quarantined"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Person:
    """Who changes what lies in the queues, and when.

    Attributes:
        name: who it is.
        now: calendar time.
        machine_now: real time.
        engine_version: version of the software.
    """

    name: str
    now: datetime
    machine_now: datetime
    engine_version: str


def work_state(attempt: Attempt, machine_now: datetime) -> WorkState:
    """Tell how recorded work stands.

    Args:
        attempt: its row.
        machine_now: real time.
    """
    if attempt.dropped_by is not None:
        return WorkState.DROPPED
    if attempt.holder is not None:
        alive = is_alive(attempt.holder, attempt.expires_at, machine_now)
        return WorkState.RUNNING if alive else WorkState.STRANDED
    return WorkState.QUARANTINED if attempt.quarantined else WorkState.RETRYING


def holder_words(attempt: Attempt) -> str | None:
    """Say which process works on it: "process 4711 on host"; None if none does."""
    if attempt.holder is None:
        return None
    holder = Holder.parse(attempt.holder)
    return f"process {holder.pid} on {holder.host}"


def work_of_message(session: Session, message: QueuedMessage) -> list[Attempt]:
    """Find the recorded work that a message asks for.

    Args:
        session: any session.
        message: the message.

    Returns:
        That of the image as it is now, under any version of the software; of a chain, all of its
        roll-ups; of a disk, what is done with it.
    """
    kind = _kind_of(message)
    if message.subject_id is None:
        return []
    if kind == "image":
        image = session.get(Image, message.subject_id)
        folder = session.get(Folder, image.folder_id) if image is not None else None
        if image is None or folder is None:
            return []
        subject = verification_of(folder, image, "").subject
        query = select(Attempt).where(Attempt.kind == WorkKind.VERIFY, Attempt.subject == subject)
        return list(session.scalars(query))
    if kind == "disk":
        disk = session.get(HeadStartDisk, message.subject_id)
        job = None if disk is None else session.get(HeadStartJob, disk.job_id)
        if disk is None or job is None:
            return []
        kind_of_work = WorkKind.RESTORE_TEST if message.actor == RESTORE_TEST.name else WorkKind.HEADSTART
        mine = (Attempt.kind == kind_of_work, Attempt.subject == f"{job.uid} {disk.volume}")
        return list(session.scalars(select(Attempt).where(*mine)))
    chain = session.get(Chain, message.subject_id) if kind == "chain" else None
    folder = session.get(Folder, chain.folder_id) if chain is not None else None
    if chain is None or folder is None:
        return []
    start = f"{folder.path}/{image_name(chain.volume, chain.base_number).filename().removesuffix('.spf')}-"
    query = select(Attempt).where(Attempt.kind == WorkKind.CONSOLIDATE)
    return list(session.scalars(query.where(Attempt.subject.startswith(start, autoescape=True))))


def _kind_of(message: QueuedMessage) -> str:
    """Say of what a message's id is: the last word of its job's name."""
    return (message.actor or "").rpartition("_")[2]


def drop_work_of_message(session: Session, message: QueuedMessage, person: Person) -> bool:
    """Record that what a message asks for is not to be done, so that no later one has it done.

    Args:
        session: of a write transaction.
        message: the message.
        person: who says so.

    Returns:
        Whether that could be recorded: a verification always, a roll-up once it was begun, a scan never.
    """
    rows = work_of_message(session, message)
    if not rows and _kind_of(message) == "image" and message.subject_id is not None:
        image = session.get(Image, message.subject_id)
        folder = session.get(Folder, image.folder_id) if image is not None else None
        if image is not None and folder is not None:
            work = verification_of(folder, image, person.engine_version)
            rows = [
                Attempt(
                    kind=work.kind,
                    subject=work.subject,
                    engine_version=work.engine_version,
                    started_at=person.now,
                    failures=0,
                    crashes=0,
                    quarantined=False,
                    folder_id=work.folder_id,
                    title=work.title,
                )
            ]
            session.add_all(rows)
            session.flush()
    for row in rows:
        drop_work(session, row, person)
    return bool(rows)


def drop_work(session: Session, attempt: Attempt, person: Person) -> None:
    """Record that work is not to be done, and who said so.

    Args:
        session: of a write transaction.
        attempt: its row.
        person: who says so.
    """
    drop_attempt(session, attempt.id, person.name)
    _note(session, attempt, EventKind.DROPPED, f"dropped by {person.name}: it is not to be done", person)


def retry_work(session: Session, attempt: Attempt, person: Person) -> None:
    """Have work done again as if nothing had gone wrong, at the next tick.

    Args:
        session: of a write transaction.
        attempt: its row.
        person: who wants it.
    """
    retry_attempt(session, attempt.id)
    _note(session, attempt, EventKind.RETRIED, f"{person.name} has it tried again", person)
    folder = _folder_of(session, attempt)
    if folder is None:
        return
    folder.rescan_at = min(folder.rescan_at, person.machine_now)
    waiting = (Image.folder_id == folder.id, Image.state == ImageState.LANDED)
    session.execute(update(Image).where(*waiting).values(hinted_at=None))
    make_folder_due(session, folder.id)


def _folder_of(session: Session, attempt: Attempt) -> Folder | None:
    if attempt.folder_id is not None:
        return session.get(Folder, attempt.folder_id)
    folders = session.scalars(select(Folder))
    return next((each for each in folders if attempt.subject.startswith(f"{each.path}/")), None)


def _note(session: Session, attempt: Attempt, kind: EventKind, text: str, person: Person) -> None:
    subject = attempt.title or attempt.subject
    folder_id = attempt.folder_id
    record_event(
        session, kind, subject, text, at=person.now, machine_now=person.machine_now, folder_id=folder_id
    )
