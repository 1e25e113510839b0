"""`rollforward freeze` and `unfreeze`: whether images may be removed from a folder."""

from __future__ import annotations

import secrets
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.catalogue_access import json_option, opened_desk, person, state_option
from ops.time_type import TimeType

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from storage.catalog.models import EventKind, Folder

_FOLDER = click.argument("folder", type=click.Path(path_type=Path))
_JSON = json_option("Print one JSON object a freeze.")


@click.command(
    epilog="""\b
Examples:
  rollforward freeze /srv/images --reason "audit of the 2026 accounts"
  rollforward freeze /srv/images --until 2027-01-31T00:00
"""
)
@_FOLDER
@click.option("--reason", default="no reason given", help="Why; it is shown wherever the freeze is.")
@click.option("--until", type=TimeType(), help="It ends then by itself (ISO 8601, local if no zone).")
@state_option
@_JSON
def freeze(folder: Path, reason: str, until: datetime | None, state: str | None, as_json: bool) -> None:
    """Have nothing removed from FOLDER until `rollforward unfreeze`. All else goes on."""
    from ops.keeping import find_managed
    from policies.errors import ConfigurationError
    from policies.freezing import Freeze, FreezeKind
    from storage.catalog.freezes import freeze_folder
    from storage.catalog.models import EventKind

    who = person()
    with opened_desk(state) as desk, desk.catalog.write() as session:
        now, found = desk.clock(), find_managed(session, folder)
        if until is not None and until <= now:
            raise ConfigurationError(f"--until {until:%Y-%m-%d %H:%M} is over", path="the command line")
        ends = "with `rollforward unfreeze`" if until is None else f"on {until:%Y-%m-%d %H:%M %Z}".rstrip()
        key = f"{FreezeKind.PERSON.value} {secrets.token_hex(8)}"
        made = Freeze(FreezeKind.PERSON, key, now, f"{who} wants it so: {reason}", ends, until)
        if freeze_folder(session, found.id, made):
            _note(session, EventKind.FROZEN, found, made.reason, now)
            words = "nothing is removed from now on"
        else:
            words = "is frozen already"
        path = found.path
    _tell(path, "frozen", words, as_json)


@click.command(
    epilog="""\b
Examples:
  rollforward unfreeze /srv/images
"""
)
@_FOLDER
@state_option
@_JSON
def unfreeze(folder: Path, state: str | None, as_json: bool) -> None:
    """Say that all is well in FOLDER: what keeps images from being removed at present does not count any more.

    That ends what `rollforward freeze` did, and what the agent froze because something looked wrong: images that
    vanished, incrementals of an unusual size, a clock that jumped. The same trouble with new evidence freezes again.
    """
    from ops.keeping import find_managed
    from storage.catalog.freezes import unfreeze_folder
    from storage.catalog.models import EventKind

    with opened_desk(state) as desk, desk.catalog.write() as session:
        now, found = desk.clock(), find_managed(session, folder)
        ended = unfreeze_folder(session, found.id, person(), now=now)
        for one in ended:
            _note(session, EventKind.UNFROZEN, found, one.reason, now)
        path = found.path
    for one in ended:
        _tell(path, "unfrozen", one.reason, as_json)
    if not ended:
        _tell(path, "not frozen", "nothing was frozen", as_json)


def _note(session: Session, kind: EventKind, folder: Folder, words: str, now: datetime) -> None:
    from ops.clock import machine_now
    from storage.catalog.events import record_event

    record_event(
        session,
        kind,
        folder.path,
        words,
        at=now,
        machine_now=machine_now(),
        folder_id=folder.id,
        facts={"by": person()},
    )


def _tell(path: str, status: str, words: str, as_json: bool) -> None:
    from ops.show import plain, print_json

    if as_json:
        print_json({"path": path, "kind": "freeze", "status": status, "reason": words})
    else:
        click.echo(f"{plain(path)}: {status}: {plain(words)}")
