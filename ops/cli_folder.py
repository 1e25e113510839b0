"""`rollforward folder`: the folders that the agent looks after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ops.catalogue_access import Desk, json_option, opened_desk, person, state_option
from ops.folder_options import FolderWishes, folder_options
from ops.path_type import FolderType

_PATH = click.argument("path", metavar="FOLDER", type=FolderType())
_CHANGES = json_option("Print one JSON object a change.")


@click.group()
def folder() -> None:
    """Manage folders: say which the agent looks after, and how.

    Works whether the agent runs or not; one that runs goes by it from its next tick on. `rollforward settings show`
    names all settings, with what they mean.
    """


@folder.command(
    epilog="""\b
Examples:
  rollforward folder add /srv/images
  rollforward folder add "/srv/the accountant's büro" --description "Accounts" --sort-priority 10
  rollforward folder add /mnt/nas --user backup --password-file /root/nas.password
  rollforward folder add /srv/images retention.keep_daily_days=30 consolidation.week_end=friday
"""
)
@_PATH
@click.argument("assignments", nargs=-1, metavar="[SETTING=VALUE]...")
@folder_options
@click.option("--take-over", is_flag=True, help="Take it from another agent, which was stopped for good.")
@state_option
@_CHANGES
def add(
    path: Path,
    assignments: tuple[str, ...],
    take_over: bool,
    state: str | None,
    as_json: bool,
    **wishes: Any,
) -> None:
    """Look after FOLDER from now on.

    A folder that lies in a managed one, holds one, or is one by another name, is refused. Shares of other machines are
    mounted by the administrator; the credentials are only kept for that.
    """
    from ops.cli_settings import tell
    from ops.config_document import FolderEntry
    from ops.folder_place import known_path
    from ops.keeping import Keeping

    entry = FolderWishes(assignments=assignments, unset=(), **wishes).applied_to(
        FolderEntry(str(known_path(path)))
    )
    with opened_desk(state) as desk:
        with desk.catalog.write() as session:
            changes = Keeping(desk, session, person()).add(entry, take_over=take_over)
        tell(changes, as_json)
        _adopt(desk, Path(entry.path), take_over=take_over, as_json=as_json)


@folder.command(
    name="set",
    epilog="""\b
Examples:
  rollforward folder set /srv/images retention.keep_daily_days=30
  rollforward folder set /srv/images --unset retention --sort-priority off
  rollforward folder set /srv/images --time-zone America/New_York --description ""
""",
)
@_PATH
@click.argument("assignments", nargs=-1, metavar="[SETTING=VALUE]...")
@click.option(
    "--unset", multiple=True, metavar="SETTING|SECTION", help="Follow the agent's setting again; repeatable."
)
@folder_options
@state_option
@_CHANGES
def set_(
    path: Path,
    assignments: tuple[str, ...],
    unset: tuple[str, ...],
    state: str | None,
    as_json: bool,
    **wishes: Any,
) -> None:
    """Change what FOLDER is told, all of it or nothing."""
    from ops.cli_settings import tell
    from ops.keeping import Keeping, entry_of, find_managed

    wished = FolderWishes(assignments=assignments, unset=unset, **wishes)
    with opened_desk(state) as desk:
        with desk.catalog.read() as session:
            entry = wished.applied_to(entry_of(find_managed(session, path)))
        with desk.catalog.write() as session:
            changes = Keeping(desk, session, person()).apply(find_managed(session, path), entry)
    tell(changes, as_json)


@folder.command(
    epilog="""\b
Examples:
  rollforward folder remove /srv/images
"""
)
@_PATH
@state_option
@_CHANGES
def remove(path: Path, state: str | None, as_json: bool) -> None:
    """Look after FOLDER no longer. Its files stay, all of them.

    What the agent knows of it is forgotten, its holds among it, and its settings. Added again, it is scanned and
    verified anew.
    """
    from ops.cli_settings import tell
    from ops.keeping import Keeping, find_managed

    with opened_desk(state) as desk, desk.catalog.write() as session:
        changes = Keeping(desk, session, person()).remove(find_managed(session, path))
    tell(changes, as_json)


@folder.command(
    name="list",
    epilog="""\b
Examples:
  rollforward folder list
  rollforward folder list --json
""",
)
@state_option
@json_option("Print one JSON object a folder.")
def list_(state: str | None, as_json: bool) -> None:
    """List the managed folders, those with a sort priority first."""
    from ops.folder_table import print_folders
    from storage.catalog.folders import all_folders
    from storage.catalog.status import counts_by_folder

    with opened_desk(state) as desk:
        with desk.catalog.read() as session:
            found, counts = all_folders(session), counts_by_folder(session)
        print_folders(found, counts, desk.clock(), as_json=as_json)


@folder.command(
    epilog="""\b
Examples:
  rollforward folder show /srv/images
  rollforward folder show /srv/images --json
"""
)
@_PATH
@state_option
@json_option("Print one JSON object.")
def show(path: Path, state: str | None, as_json: bool) -> None:
    """Show FOLDER: what is in it, how large it is and what is left on its device, and all its settings.

    A setting that is set for it is marked; the others are the agent's.
    """
    from ops.folder_card import card_of, print_card
    from ops.keeping import find_managed

    with opened_desk(state) as desk, desk.catalog.read() as session:
        card = card_of(session, find_managed(session, path))
    print_card(card, as_json=as_json)


def _adopt(desk: Desk, path: Path, *, take_over: bool, as_json: bool) -> None:
    """Make the folder ours, and take in what its ledger says; what is not possible now, the agent tries again."""
    from ops.show import plain
    from policies.errors import StorageError
    from storage.catalog.folders import find_folder
    from storage.catalog.mirroring import adopt_folder

    with desk.catalog.read() as session:
        found = find_folder(session, path)
    if found is None:
        return
    try:
        adopted = adopt_folder(desk.catalog, found.id, now=desk.clock(), take_over=take_over)
    except StorageError as error:
        click.secho(
            f"  nothing is removed until its ledger can be written: {plain(error)}", fg="yellow", err=True
        )
        return
    if adopted is None or as_json:
        return
    if adopted.holds or adopted.tombstones:
        click.echo(f"  its ledger knew of {adopted.holds:,} holds and {adopted.tombstones:,} removed images")
    if adopted.freeze is not None:
        click.echo(f"  nothing is removed yet: {adopted.freeze.reason}; ends {adopted.freeze.ends}")
