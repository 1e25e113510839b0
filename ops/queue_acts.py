"""Trying again and dropping: first the catalogue, which is the truth, then the message, which is a hint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.queue_changes import Change
from actors.queue_work import (
    Person,
    WorkState,
    drop_work,
    drop_work_of_message,
    retry_work,
    work_of_message,
    work_state,
)
from actors.queues import MessageState, QueuedMessage
from actors.subjects import subjects_of
from ops.queue_desk import QueueDesk
from ops.queue_rows import SHORT_ID

if TYPE_CHECKING:
    from storage.catalog.models import Attempt


def change_work(desk: QueueDesk, attempt: Attempt, who: Person, *, is_drop: bool) -> dict[str, object]:
    """Drop recorded work, or have it tried again.

    Args:
        desk: what to work with.
        attempt: its row, as it was read.
        who: who wants it.
        is_drop: whether it is to be dropped.

    Returns:
        What was done, for JSON and for people.

    Raises:
        CatalogError: the catalogue cannot be changed.

    Crash: all of it is recorded, or nothing.
    """
    state = work_state(attempt, desk.now)
    with desk.desk.catalog.write() as session:
        row = session.get(type(attempt), attempt.id, with_for_update=True)
        if row is None:
            text = "was finished meanwhile"
        elif is_drop:
            drop_work(session, row, who)
            running = "; what runs now is not stopped" if state is WorkState.RUNNING else ""
            text = f"dropped: it is not done again{running}"
        elif state is WorkState.RUNNING:
            text = "runs already"
        else:
            retry_work(session, row, who)
            text = "tried again with the next tick"
    return {
        "kind": "work",
        "id": f"w{attempt.id}",
        "subject": attempt.title or attempt.subject,
        "status": _status(is_drop, row is not None and text != "runs already"),
        "text": text,
    }


def change_message(
    desk: QueueDesk, message: QueuedMessage, who: Person, *, is_drop: bool
) -> dict[str, object]:
    """Drop a message and its work, or send it again and end the quarantine of its work.

    Args:
        desk: what to work with.
        message: as it was read.
        who: who wants it.
        is_drop: whether it is to be dropped.

    Returns:
        What was done, for JSON and for people.

    Raises:
        CatalogError: the catalogue cannot be changed.
        QueueError: Redis does not answer; what the catalogue says stands all the same.

    Crash: the catalogue says what is wanted, or nothing happened; the message is where it was, or where it is to be.
    """
    subject = (message.actor, message.subject_id)
    with desk.desk.catalog.read() as session:
        words = subjects_of(session, [subject])[subject].words
    done, text = _drop(desk, message, who) if is_drop else _send_again(desk, message, who)
    return {
        "kind": "message",
        "id": message.id[:SHORT_ID],
        "subject": words,
        "status": _status(is_drop, done),
        "text": text,
    }


def _status(is_drop: bool, is_done: bool) -> str:
    if not is_done:
        return "unchanged"
    return "dropped" if is_drop else "retried"


def _drop(desk: QueueDesk, message: QueuedMessage, who: Person) -> tuple[bool, str]:
    with desk.desk.catalog.write() as session:
        is_recorded = drop_work_of_message(session, message, who)
    stays = "its work stays dropped" if is_recorded else "what it asks for is named again when it is due"
    change = desk.changes.drop(message)
    if change is Change.RUNNING:
        return is_recorded, f"a worker has it and is not stopped; {stays}"
    if change is Change.MOVED_ON:
        return is_recorded, f"a worker took it meanwhile; {stays}"
    return True, f"dropped; {stays}"


def _send_again(desk: QueueDesk, message: QueuedMessage, who: Person) -> tuple[bool, str]:
    if message.state not in (MessageState.DEAD, MessageState.STRANDED):
        return False, f"is {message.state.value} already"
    with desk.desk.catalog.write() as session:
        for row in work_of_message(session, message):
            if work_state(row, desk.now) is not WorkState.RUNNING:
                retry_work(session, row, who)
    change = desk.changes.send_again(message, desk.now)
    return (True, "sent again") if change is Change.DONE else (False, "was taken up meanwhile")
