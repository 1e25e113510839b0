"""`rollforward hold`, `release` and `holds`: what people want to stay, whatever the policy says."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.catalogue_access import Desk, json_option, opened_desk, person, state_option
from ops.time_type import TimeType

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from policies.holdings import Hold
    from storage.catalog.memory_models import StoredHold

_JSON = json_option("Print one JSON object a hold.")


@click.command(
    epilog="""\b
Examples:
  rollforward hold /srv/images/DATA-b001-i042-cm.spi --reason "accounts of 2026"
  rollforward hold /srv/images --volume DATA --point 42 --until 2027-03-31T00:00
"""
)
@click.argument("path", metavar="FILE|FOLDER", type=click.Path(path_type=Path))
@click.option("--point", type=click.IntRange(min=0), help="The point of FOLDER that is to stay restorable.")
@click.option("--volume", help="Of which volume.")
@click.option("--base", type=click.IntRange(min=1), help="On which base.")
@click.option("--until", type=TimeType(), help="It ends then by itself (ISO 8601, local if no zone).")
@click.option("--reason", default="no reason given", help="Why; it is shown wherever the hold is.")
@state_option
@_JSON
def hold(
    path: Path,
    point: int | None,
    volume: str | None,
    base: int | None,
    until: datetime | None,
    reason: str,
    state: str | None,
    as_json: bool,
) -> None:
    """Keep FILE as it is, or keep point N of FOLDER restorable, until it is released.

    A point stays restorable through whichever images lead there; the files may change. A hold outlives the catalogue:
    it stands in the folder's ledger, too.
    """
    from policies.errors import ConfigurationError
    from policies.holdings import Hold

    with opened_desk(state) as desk:
        now = desk.clock()
        if until is not None and until <= now:
            raise ConfigurationError(f"--until {until:%Y-%m-%d %H:%M} is over", path="the command line")
        wish = Hold(reason=reason, placed_by=person(), placed_at=now, until=until)
        with desk.catalog.write() as session:
            stored = _placed(session, wish, path, point, volume, base)
            _note(session, stored, f"held: {reason}", now, held=True)
        _mirror(desk, stored.folder_id)
        _tell(desk, [stored], "held", as_json)


@click.command(
    epilog="""\b
Examples:
  rollforward release 3
  rollforward release /srv/images/DATA-b001-i042-cm.spi
"""
)
@click.argument("held", metavar="NUMBER|FILE")
@state_option
@_JSON
def release(held: str, state: str | None, as_json: bool) -> None:
    """Give up the hold of NUMBER, as `rollforward holds` shows it, or all holds on FILE."""
    from storage.catalog.holds import release_hold

    with opened_desk(state) as desk:
        now = desk.clock()
        with desk.catalog.write() as session:
            found = _found(session, held)
            for stored in found:
                release_hold(session, stored.id, now=now)
                _note(session, stored, "the hold was released", now)
        for folder_id in {stored.folder_id for stored in found}:
            _mirror(desk, folder_id)
        _tell(desk, found, "released", as_json)


@click.command(
    epilog="""\b
Examples:
  rollforward holds
  rollforward holds /srv/images --json
"""
)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@state_option
@_JSON
def holds(folder: Path | None, state: str | None, as_json: bool) -> None:
    """List the holds of FOLDER, or all of them, oldest first."""
    from ops.keeping import find_managed
    from storage.catalog.holds import stored_holds

    with opened_desk(state) as desk:
        with desk.catalog.read() as session:
            chosen = None if folder is None else find_managed(session, folder).id
            found = stored_holds(session, chosen)
        if not found and not as_json:
            click.echo("Nothing is held.")
            return
        _tell(desk, found, "held", as_json)


def _placed(
    session: Session, wish: Hold, path: Path, number: int | None, volume: str | None, base: int | None
) -> StoredHold:
    from dataclasses import replace

    from ops.held_thing import named_image, named_point
    from ops.keeping import find_managed
    from policies.errors import ConfigurationError
    from storage.catalog.holds import place_hold

    if number is not None:
        chain, point = named_point(session, find_managed(session, path), number, volume, base)
        return place_hold(session, chain.id, replace(wish, point=point.id))
    image = named_image(session, path)
    if image.image is None or image.image.chain_id is None:
        raise ConfigurationError(
            "is not known to belong to a chain",
            path=str(path),
            hint="The agent takes up what lies in its folders; `rollforward why` tells what is known of a file.",
        )
    return place_hold(session, image.image.chain_id, replace(wish, name=image.name))


def _found(session: Session, held: str) -> list[StoredHold]:
    from ops.held_thing import named_image
    from policies.errors import ConfigurationError
    from policies.names import parse_image_name
    from storage.catalog.holds import stored_holds
    from storage.parts import first_part_of

    if parse_image_name(first_part_of(Path(held)).name) is None:
        found = [stored for stored in stored_holds(session) if str(stored.id) == held]
    else:
        image = named_image(session, Path(held))
        found = [stored for stored in stored_holds(session, image.folder.id) if stored.name == image.name]
    if not found:
        raise ConfigurationError(
            f"there is no hold {held!r}", hint="`rollforward holds` lists them with their numbers."
        )
    return found


def _mirror(desk: Desk, folder_id: int) -> None:
    """Have the folder's ledger say it, too; what cannot be written now waits for the agent."""
    from storage.catalog.mirroring import mirror_ledger

    mirror_ledger(desk.catalog, folder_id, now=desk.clock())


def _note(session: Session, stored: StoredHold, words: str, now: datetime, *, held: bool = False) -> None:
    from ops.clock import machine_now
    from storage.catalog.events import record_event
    from storage.catalog.models import EventKind

    record_event(
        session,
        EventKind.HELD if held else EventKind.RELEASED,
        _subject(stored),
        words,
        at=now,
        machine_now=machine_now(),
        folder_id=stored.folder_id,
        facts={"by": person()},
    )


def _subject(stored: StoredHold) -> str:
    return stored.name or f"point {stored.point}"


def _tell(desk: Desk, found: list[StoredHold], status: str, as_json: bool) -> None:
    from ops.held_thing import point_words
    from ops.hold_table import Held, print_holds
    from storage.catalog.folders import all_folders

    with desk.catalog.read() as session:
        folders = {folder.id: folder for folder in all_folders(session)}
        shown = [
            Held(stored, stored.name or point_words(session, stored.folder_id, stored.point or ""))
            for stored in found
        ]
    print_holds(shown, folders, status, desk.clock(), as_json=as_json)
