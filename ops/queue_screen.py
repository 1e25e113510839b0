"""How queues are printed: tables for people, JSON lines for scripts."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from actors.queue_work import work_state
from actors.queues import MessageState, QueuedMessage
from actors.subjects import subjects_of
from ops.queue_desk import QueueDesk
from ops.queue_rows import (
    SHORT_ID,
    MessageRow,
    Wanted,
    message_fields,
    message_note,
    message_rows,
    queue_fields,
    work_fields,
    work_note,
    work_rows,
)
from ops.screen import screen
from ops.show import plain, print_json
from ops.words import age_words

if TYPE_CHECKING:
    from actors.queue_work import WorkState
    from storage.catalog.models import Attempt


def print_lines(desk: QueueDesk, wanted: Wanted, limit: int | None) -> None:
    """Print queues, recorded work and messages as JSON, one object a line; raises as `message_rows` does."""
    for row, state in work_rows(desk, wanted):
        print_json(work_fields(row, state))
    for counts in desk.reader.counts(desk.now):
        if wanted.queue in (None, counts.queue):
            print_json(queue_fields(counts))
    for message in islice(message_rows(desk, wanted), limit):
        print_json(message_fields(message, _why(desk, message.message)))


def print_tables(desk: QueueDesk, wanted: Wanted, limit: int | None) -> None:
    """Print recorded work, queues and messages as tables; raises as `message_rows` does."""
    out = screen()
    works = work_rows(desk, wanted)
    if works:
        out.print(_table_of_work(desk, works))
        out.print()
    counts = [each for each in desk.reader.counts(desk.now) if wanted.queue in (None, each.queue)]
    table = _table("queue", "*waiting", "*delayed", "*running", "*stranded", "*dead", "next was sent")
    for each in counts:
        oldest = f"{age_words(desk.now - each.oldest_sent_at)} ago" if each.oldest_sent_at else ""
        table.add_row(each.queue, *(f"{each.by_state[state]:,}" for state in _COLUMNS), oldest)
    out.print(table)
    rows = message_rows(desk, wanted)
    shown = list(islice(rows, limit))
    if not shown:
        return
    out.print()
    out.print(_table_of_messages(desk, shown))
    if next(rows, None) is not None:
        out.print(f"… and more; --limit 0 shows all, the first {len(shown)} are here")


_COLUMNS = (
    MessageState.WAITING,
    MessageState.DELAYED,
    MessageState.RUNNING,
    MessageState.STRANDED,
    MessageState.DEAD,
)


def print_message(desk: QueueDesk, message: QueuedMessage, as_json: bool) -> None:
    """Print all that is known of a message.

    Raises:
        QueueError: Redis does not answer.
        CatalogError: the catalogue cannot be read.
    """
    asked = (message.actor, message.subject_id)
    with desk.desk.catalog.read() as session:
        subject = subjects_of(session, [asked])[asked]
    _print_fields(message_fields(MessageRow(message, subject), _why(desk, message)), as_json)


def print_work(desk: QueueDesk, attempt: Attempt, as_json: bool) -> None:
    """Print all that is known of recorded work."""
    _print_fields(work_fields(attempt, work_state(attempt, desk.now)), as_json)


def _print_fields(fields: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(fields)
        return
    for name, value in fields.items():
        if value is not None:
            click.echo(f"{name.replace('_', ' '):>16}  {plain(value)}")


def _why(desk: QueueDesk, message: QueuedMessage) -> str | None:
    return desk.reader.why(message.id) if message.state is MessageState.DEAD else None


def _table(*headings: str) -> Table:
    """Make a table; columns whose heading begins with a star hold numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings:
        is_number = heading.startswith("*")
        table.add_column(heading.removeprefix("*"), justify="right" if is_number else "left")
    return table


def _table_of_work(desk: QueueDesk, works: list[tuple[Attempt, WorkState]]) -> Table:
    table = _table("work", "state", "kind", "*failures", "*crashes", "what", "")
    for row, state in works:
        note = work_note(row, state, desk.desk.clock())
        numbers = (f"{row.failures}", f"{row.crashes}")
        what = Text(plain(row.title or row.subject))
        table.add_row(f"w{row.id}", state.value, row.kind.value, *numbers, what, Text(plain(note)))
    return table


def _table_of_messages(desk: QueueDesk, rows: list[MessageRow]) -> Table:
    table = _table("message", "queue", "state", "*sent", "what", "")
    for row in rows:
        message = row.message
        sent = f"{age_words(desk.now - message.sent_at)} ago" if message.sent_at else ""
        note = message_note(message, desk.now, _why(desk, message))
        what = Text(plain(row.subject.words))
        table.add_row(
            message.id[:SHORT_ID], message.queue, message.state.value, sent, what, Text(plain(note))
        )
    return table
