"""Messages and recorded work as rows: what `rollforward queue` shows, filtered, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Final

from actors.queue_work import WorkState, holder_words, work_state
from actors.queues import PAGE_MESSAGES, MessageState, QueueCounts, QueuedMessage
from actors.subjects import Subject, subjects_of
from ops.queue_desk import QueueDesk
from ops.words import age_words
from storage.catalog.attempts import attempts

if TYPE_CHECKING:
    from storage.catalog.models import Attempt

SHORT_ID: Final = 8
"""So much of an id is shown; any beginning that fits one alone will do where one is asked for."""

STATES: Final = tuple(dict.fromkeys([*MessageState, *WorkState]))
"""What `--state` may say."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows are wanted; all without a word.

    Attributes:
        queue: of this queue alone.
        state: in this state alone.
        older_than: sent so long ago, or begun.
        worker: beginning of a worker's id.
    """

    queue: str | None = None
    state: str | None = None
    older_than: timedelta | None = None
    worker: str | None = None

    def takes(self, message: QueuedMessage, now: datetime) -> bool:
        """Tell whether a message is wanted, as far as its queue and state have not told already."""
        if self.worker is not None and not (message.worker or "").startswith(self.worker):
            return False
        if self.older_than is None:
            return True
        return message.sent_at is None or now - message.sent_at >= self.older_than


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message, and what it is about."""

    message: QueuedMessage
    subject: Subject


def message_rows(desk: QueueDesk, wanted: Wanted) -> Iterator[MessageRow]:
    """Yield the messages that are wanted, queue by queue, looking their subjects up a page at a time.

    Args:
        desk: what to work with.
        wanted: which ones.

    Raises:
        QueueError: Redis does not answer.
        CatalogError: the catalogue cannot be read.
    """
    found = wanted_messages(desk, wanted)
    while page := list(islice(found, PAGE_MESSAGES)):
        with desk.desk.catalog.read() as session:
            subjects = subjects_of(session, ((each.actor, each.subject_id) for each in page))
        yield from (MessageRow(each, subjects[each.actor, each.subject_id]) for each in page)


def wanted_messages(desk: QueueDesk, wanted: Wanted) -> Iterator[QueuedMessage]:
    """Yield the messages that are wanted; raises as `message_rows` does."""
    queues = desk.reader.queues if wanted.queue is None else (wanted.queue,)
    states = tuple(MessageState)
    if wanted.state is not None:
        states = tuple(state for state in MessageState if state.value == wanted.state)
        if not states:
            return
    if wanted.worker is not None:
        states = tuple(state for state in states if state not in (MessageState.WAITING, MessageState.DEAD))
    for queue in queues if states else ():
        for message in desk.reader.messages(queue, desk.now, *states):
            if wanted.takes(message, desk.now):
                yield message


def work_rows(desk: QueueDesk, wanted: Wanted) -> list[tuple[Attempt, WorkState]]:
    """List the recorded work that is wanted, longest begun first.

    Args:
        desk: what to work with.
        wanted: which; the queue is that of the kind of work, and a worker is a process.

    Raises:
        CatalogError: the catalogue cannot be read.
    """
    with desk.desk.catalog.read() as session:
        rows = attempts(session)
    now = desk.desk.clock()
    found = []
    for row in rows:
        state = work_state(row, desk.now)
        fits_age = wanted.older_than is None or now - row.started_at >= wanted.older_than
        fits_queue = wanted.queue in (None, row.kind.value)
        fits_worker = wanted.worker is None or wanted.worker in (holder_words(row) or "")
        if fits_age and fits_queue and fits_worker and wanted.state in (None, state.value):
            found.append((row, state))
    return found


def queue_fields(counts: QueueCounts) -> dict[str, object]:
    """Return what JSON says of a queue."""
    oldest = counts.oldest_sent_at
    numbers: dict[str, object] = {state.value: number for state, number in counts.by_state.items()}
    return {"kind": "queue", "queue": counts.queue} | numbers | {"next_sent_at": _iso(oldest)}


def message_fields(row: MessageRow, why: str | None = None) -> dict[str, object]:
    """Return what JSON says of a message.

    Args:
        row: the message.
        why: why it failed, if it did.
    """
    message = row.message
    return {
        "kind": "message",
        "id": message.id,
        "queue": message.queue,
        "state": message.state.value,
        "job": message.actor,
        "subject": row.subject.words,
        "subject_id": message.subject_id,
        "subject_gone": row.subject.is_gone,
        "folder": row.subject.folder,
        "sent_at": _iso(message.sent_at),
        "due_at": _iso(message.due_at),
        "failed_at": _iso(message.failed_at),
        "worker": message.worker,
        "worker_heard_at": _iso(message.heard_at),
        "why": why,
    }


def work_fields(row: Attempt, state: WorkState) -> dict[str, object]:
    """Return what JSON says of recorded work."""
    return {
        "kind": "work",
        "id": f"w{row.id}",
        "queue": row.kind.value,
        "state": state.value,
        "subject": row.title or row.subject,
        "begun_at": _iso(row.started_at),
        "retry_at": _iso(row.retry_at),
        "failures": row.failures,
        "crashes": row.crashes,
        "worker": holder_words(row),
        "dropped_by": row.dropped_by,
        "why": row.reason,
        "engine_version": row.engine_version,
    }


def message_note(message: QueuedMessage, now: datetime, why: str | None) -> str:
    """Say what else is to be known of a message, for people."""
    if message.state is MessageState.DEAD:
        when = f"failed {age_words(now - message.failed_at)} ago" if message.failed_at else "failed"
        return f"{when}: {why}" if why else when
    if message.state is MessageState.DELAYED and message.due_at is not None:
        return f"due in {age_words(message.due_at - now)}"
    if message.worker is not None and message.heard_at is not None:
        heard = age_words(now - message.heard_at)
        return f"worker {message.worker[:SHORT_ID]}, heard {heard} ago"
    return ""


def work_note(row: Attempt, state: WorkState, now: datetime) -> str:
    """Say what else is to be known of recorded work, for people."""
    if state is WorkState.DROPPED:
        return f"dropped by {row.dropped_by}"
    if state in (WorkState.RUNNING, WorkState.STRANDED):
        return holder_words(row) or ""
    again = f"again in {age_words(row.retry_at - now)}: " if row.retry_at and row.retry_at > now else ""
    return f"{again}{row.reason or 'no reason is known'}"


def ids_of(rows: Iterable[QueuedMessage], beginning: str) -> list[QueuedMessage]:
    """Find the messages whose id begins so; not more than two."""
    found: list[QueuedMessage] = []
    for message in rows:
        if message.id.startswith(beginning):
            found.append(message)
            if message.id == beginning or len(found) > 1:
                break
    return found


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
