"""`rollforward queue`: what waits, what is delayed, what runs, what failed and why; tried again, or dropped."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import click

from ops.catalogue_access import json_option, person, state_option
from policies.errors import ConfigurationError

if TYPE_CHECKING:
    from actors.queues import QueuedMessage
    from ops.queue_desk import QueueDesk
    from ops.queue_rows import Wanted
    from storage.catalog.models import Attempt

_Command = TypeVar("_Command", bound=Callable[..., None])
_ROWS = 50
_STATES = ("waiting", "delayed", "running", "stranded", "dead", "retrying", "quarantined", "dropped")
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_IDS = click.argument("ids", nargs=-1, metavar="[ID]...")
_JSON = json_option("Print one JSON object a line.")


class _Age(click.ParamType[timedelta]):
    """An age such as 90s, 15m, 2h, 7d."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        match = re.fullmatch(r"([0-9]{1,7})([smhd])", str(value))
        if match is None:
            self.fail(f"{value!r} is no age; write 90s, 15m, 2h or 7d", param, ctx)
        return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def _choice_options(command: _Command) -> _Command:
    """Add the options that choose among messages and work."""
    for option in (
        click.option("--worker", help="Only what this worker has: the beginning of its id, or a process."),
        click.option(
            "--older-than", type=_Age(), metavar="AGE", help="Only what is older than 90s, 15m, 2h, 7d."
        ),
        click.option(
            "--state-is", "state_is", type=click.Choice(_STATES), help="Only what is in this state."
        ),
        click.option("--queue", type=str, help="Only this queue: reconcile, verify, consolidate, …"),
    ):
        command = option(command)
    return command


@click.group()
def queue() -> None:
    """Look into the queues, and put right what is stuck in them.

    Messages are hints; what is due stands in the catalogue. So messages may be dropped or lost, and what they are about
    is named again, unless its work is dropped. Looking changes nothing.
    """


@queue.command(
    name="list",
    short_help="Queues with their counts, recorded work, messages.",
    epilog="""\b
Examples:
  rollforward queue list
  rollforward queue list --state-is dead
  rollforward queue list --queue verify --older-than 2h --limit 0
  rollforward queue list --json | jq 'select(.kind == "work")'
""",
)
@_choice_options
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=_ROWS,
    show_default=True,
    help="So many messages; 0 for all.",
)
@state_option
@_JSON
def list_(
    queue: str | None,
    state_is: str | None,
    older_than: timedelta | None,
    worker: str | None,
    limit: int,
    state: str | None,
    as_json: bool,
) -> None:
    """List each queue with its counts, then recorded work, then messages.

    A message waits, is delayed, runs, is stranded (its worker is gone; another one gets it soon) or dead (it failed).
    Work runs, is stranded, is tried again later, is in quarantine or was dropped.
    """
    from ops.queue_desk import opened_queues
    from ops.queue_rows import Wanted
    from ops.queue_screen import print_lines, print_tables

    with opened_queues(state) as desk:
        wanted = Wanted(_known_queue(desk, queue), state_is, older_than, worker)
        show = print_lines if as_json else print_tables
        show(desk, wanted, limit or None)


@queue.command(
    short_help="All that is known of a message or of work.",
    epilog="""\b
Examples:
  rollforward queue show 5f0c9a1e
  rollforward queue show w17 --json
""",
)
@click.argument("id_", metavar="ID")
@state_option
@_JSON
def show(id_: str, state: str | None, as_json: bool) -> None:
    """Show all that is known of a message or of recorded work, and why it failed.

    ID is what `queue list` shows: the beginning of a message's id, or w and a number for work.
    """
    from ops.queue_desk import opened_queues
    from ops.queue_screen import print_message, print_work

    with opened_queues(state) as desk:
        for message in _messages(desk, (id_,)):
            print_message(desk, message, as_json)
        for attempt in _works(desk, (id_,)):
            print_work(desk, attempt, as_json)


@queue.command(
    short_help="Have what failed tried again; end quarantine.",
    epilog="""\b
Examples:
  rollforward queue retry 5f0c9a1e w17
  rollforward queue retry --all --state-is dead
  rollforward queue retry --all --state-is quarantined --queue verify
""",
)
@_IDS
@click.option("--all", "every", is_flag=True, help="All that the other options choose.")
@_choice_options
@state_option
@_JSON
def retry(
    ids: tuple[str, ...],
    every: bool,
    queue: str | None,
    state_is: str | None,
    older_than: timedelta | None,
    worker: str | None,
    state: str | None,
    as_json: bool,
) -> None:
    """Have it tried again: send messages that failed, or whose worker is gone, once more; end quarantine.

    What was dropped is done again, too. What waits or runs is left alone.
    """
    from ops.queue_desk import opened_queues
    from ops.queue_rows import Wanted

    with opened_queues(state) as desk:
        wanted = Wanted(_known_queue(desk, queue), state_is, older_than, worker)
        _change(desk, ids, wanted if _is_all(ids, every, wanted) else None, as_json, is_drop=False)


@queue.command(
    short_help="Have a message, or work, done no more.",
    epilog="""\b
Examples:
  rollforward queue drop 5f0c9a1e
  rollforward queue drop w17
  rollforward queue drop --all --state-is dead --older-than 2d
""",
)
@_IDS
@click.option("--all", "every", is_flag=True, help="All that the other options choose.")
@_choice_options
@state_option
@_JSON
def drop(
    ids: tuple[str, ...],
    every: bool,
    queue: str | None,
    state_is: str | None,
    older_than: timedelta | None,
    worker: str | None,
    state: str | None,
    as_json: bool,
) -> None:
    """Drop it: take a message out of its queue, and have its work not done again, until `queue retry`.

    A verification stays dropped as long as its file does not change. A scan cannot be dropped: its folder is scanned
    with the next event, or by the timer. What runs is not stopped, but not tried again either.
    """
    from ops.queue_desk import opened_queues
    from ops.queue_rows import Wanted

    with opened_queues(state) as desk:
        wanted = Wanted(_known_queue(desk, queue), state_is, older_than, worker)
        _change(desk, ids, wanted if _is_all(ids, every, wanted) else None, as_json, is_drop=True)


def _known_queue(desk: QueueDesk, name: str | None) -> str | None:
    from storage.catalog.models import WorkKind

    known = sorted({*desk.reader.queues, *(kind.value for kind in WorkKind)})
    if name is not None and name not in known:
        raise ConfigurationError(
            "there is no such queue", actual=name, hint=f"There are: {', '.join(known)}."
        )
    return name


def _is_all(ids: tuple[str, ...], every: bool, wanted: Wanted) -> bool:
    from ops.queue_rows import Wanted

    if every and (ids or wanted == Wanted()):
        raise ConfigurationError(
            "--all stands in the place of ids, with an option that chooses",
            hint="For example --state-is dead.",
        )
    if not every and (not ids or wanted != Wanted()):
        raise ConfigurationError(
            "name what is meant: ids from `rollforward queue list`, or --all with options that choose"
        )
    return every


def _change(
    desk: QueueDesk, ids: tuple[str, ...], wanted: Wanted | None, as_json: bool, *, is_drop: bool
) -> None:
    from actors.queue_work import Person
    from ops.queue_acts import change_message, change_work
    from ops.queue_rows import wanted_messages, work_rows

    who = Person(person(), desk.desk.clock(), desk.now, desk.engine_version)
    works = _works(desk, ids) if wanted is None else [row for row, _ in work_rows(desk, wanted)]
    messages = _messages(desk, ids) if wanted is None else wanted_messages(desk, wanted)
    for attempt in works:
        _tell(change_work(desk, attempt, who, is_drop=is_drop), as_json)
    for message in messages:
        _tell(change_message(desk, message, who, is_drop=is_drop), as_json)


def _tell(fields: dict[str, object], as_json: bool) -> None:
    from ops.show import plain, print_json

    if as_json:
        print_json(fields)
    else:
        click.echo(f"{fields['id']}: {plain(fields['subject'])}: {plain(fields['text'])}")


def _works(desk: QueueDesk, ids: tuple[str, ...]) -> list[Attempt]:
    from storage.catalog.models import Attempt

    found = []
    for each in ids:
        if re.fullmatch(r"w[0-9]{1,12}", each):
            with desk.desk.catalog.read() as session:
                attempt = session.get(Attempt, int(each[1:]))
            if attempt is None:
                raise ConfigurationError("there is no such work any more", actual=each)
            found.append(attempt)
    return found


def _messages(desk: QueueDesk, ids: tuple[str, ...]) -> list[QueuedMessage]:
    from ops.queue_rows import Wanted, ids_of, wanted_messages

    found: list[QueuedMessage] = []
    for each in ids:
        if re.fullmatch(r"w[0-9]{1,12}", each):
            continue
        if len(each) < 4:
            raise ConfigurationError("give at least four letters of a message's id", actual=each)
        fitting = ids_of(wanted_messages(desk, Wanted()), each)
        if len(fitting) != 1:
            words = "several messages begin so" if fitting else "there is no such message any more"
            raise ConfigurationError(words, actual=each, hint="`rollforward queue list` shows them.")
        found += islice(fitting, 1)
    return found
