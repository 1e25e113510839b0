"""`rollforward catalogue`: what the agent knows, and how that is found again when it was lost."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.catalogue_access import folder_path, json_option, opened_desk, state_option

if TYPE_CHECKING:
    from ops.rebuilding import Rebuilt


@click.group()
def catalogue() -> None:
    """Show the agent's catalogue, and build a lost one anew.

    The catalogue can be deleted: images are found in their folders again, and holds, removed images and first sights in
    each folder's ledger. Settings and the list of folders are not: `rollforward config export` keeps those.
    """


@catalogue.command(
    short_help="Where it is, its layout, and how much it knows.",
    epilog="""\b
Examples:
  rollforward catalogue show
  rollforward catalogue show --json
""",
)
@state_option
@json_option("Print one JSON object.")
def show(state: str | None, as_json: bool) -> None:
    """Show where the catalogue is, which layout it has, and how much it knows."""
    from sqlalchemy.engine import make_url

    from ops.show import plain, print_json
    from storage.catalog.agents import agent_of
    from storage.catalog.folders import all_folders
    from storage.catalog.ledger_lines import folders_with_lines
    from storage.catalog.models import SCHEMA_REVISION
    from storage.catalog.status import total_counts

    with opened_desk(state) as desk, desk.catalog.read() as session:
        address = make_url(desk.settings.catalogue_url).render_as_string(hide_password=True)
        uid = agent_of(session, now=desk.clock()).uid
        folders = all_folders(session)
        images = sum(tally.images for tally in total_counts(session).by_state.values())
        waiting = folders_with_lines(session)
    troubles = {folder.path: folder.ledger_problem for folder in folders if folder.ledger_problem is not None}
    if as_json:
        print_json(
            {
                "kind": "catalogue",
                "status": "ok",
                "address": address,
                "layout": SCHEMA_REVISION,
                "agent": uid,
                "folders": len(folders),
                "images": images,
                "ledgers_behind": len(waiting),
                "ledger_problems": troubles,
            }
        )
        return
    click.echo(f"catalogue  {plain(address)}")
    click.echo(f"layout     {SCHEMA_REVISION}")
    click.echo(f"agent      {uid}")
    click.echo(f"knows      {len(folders):,} folders, {images:,} images")
    click.echo(f"ledgers    {f'{len(waiting):,} are behind' if waiting else 'up to date'}")
    for path, problem in troubles.items():
        click.echo(f"           {plain(path)}: {plain(problem)}")


@catalogue.command(
    epilog="""\b
Examples:
  rollforward catalogue rebuild /srv/images "/srv/the accountant's büro"
  rollforward catalogue rebuild --anew /srv/images
  rollforward catalogue rebuild --take-over /mnt/from-the-old-server
"""
)
@click.argument(
    "folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--anew", is_flag=True, help="Set the present catalogue aside, and begin with an empty one.")
@click.option(
    "--take-over", is_flag=True, help="Take folders from another agent, which was stopped for good."
)
@click.option(
    "--time-zone", metavar="ZONE", help="Days of the given folders follow it. Default: this machine's."
)
@state_option
@json_option("Print one JSON object a folder.")
def rebuild(
    folders: tuple[Path, ...],
    anew: bool,
    take_over: bool,
    time_zone: str | None,
    state: str | None,
    as_json: bool,
) -> None:
    """Find what a lost catalogue knew: in FOLDERs and their ledgers.

    Folders that the catalogue still knows are gone through as well. Holds and removed images are in force again at
    once, and images count from when they were first seen. All images are verified again by the agent. Nothing is
    removed until the jobs and targets that a ledger names have said what they need; `rollforward unfreeze` ends that
    early.

    A folder that another agent looks after is refused. The agent must not run; one that loses its catalogue while it
    runs does all this by itself.
    """
    from ops.clock import parse_clock
    from ops.rebuilding import rebuild as rebuild_folders
    from ops.rebuilding import refuse_while_running, set_catalogue_aside
    from ops.settings import Settings
    from ops.show import plain, show_error

    settings = Settings.from_environment(os.environ, state_dir=state, time_zone=time_zone)
    if anew:
        refuse_while_running(settings)
        aside = set_catalogue_aside(settings, parse_clock(settings.clock))
        if aside is not None and not as_json:
            click.echo(f"the old catalogue is {plain(aside)} now")
    exit_code, count = 0, 0
    for one in rebuild_folders(settings, [folder_path(path) for path in folders], take_over=take_over):
        count += 1
        if one.error is not None:
            show_error(one.error, as_json=as_json)
            exit_code = exit_code or one.error.exit_code
        else:
            _tell(one, as_json)
    if count == 0 and not as_json:
        click.echo("No folder is known: name those that the agent looked after.")
    sys.exit(exit_code)


def _tell(one: Rebuilt, as_json: bool) -> None:
    from ops.show import plain, print_json

    adopted = one.adopted
    freeze = None if adopted is None else adopted.freeze
    if as_json:
        print_json(
            {
                "path": one.path,
                "kind": "catalogue",
                "status": "known" if adopted is None else "rebuilt",
                "images": one.images,
                "ownership": None if adopted is None else adopted.ownership.value,
                "holds": None if adopted is None else adopted.holds,
                "removed_images": None if adopted is None else adopted.tombstones,
                "damaged_lines": None if adopted is None else adopted.faults,
                "unknown_removals": None if adopted is None else list(adopted.strays),
                "frozen": None if freeze is None else freeze.reason,
                "frozen_until": None
                if freeze is None or freeze.ends_at is None
                else freeze.ends_at.isoformat(),
                "ledger_problem": one.ledger_problem,
            }
        )
        return
    click.echo(f"{plain(one.path)}: {one.images:,} images")
    if adopted is None:
        click.echo("  was known, with all that its ledger says")
    elif adopted.holds or adopted.tombstones:
        click.echo(f"  from its ledger: {adopted.holds:,} holds, {adopted.tombstones:,} removed images")
    if adopted is not None and adopted.faults:
        click.echo(f"  {adopted.faults:,} lines of the ledger were damaged: see .rollforward/ledger.damaged")
    if adopted is not None and adopted.strays:
        places = f"{len(adopted.strays):,} folders" if len(adopted.strays) > 1 else "a folder"
        click.echo(
            f"  {places} in .rollforward/retired belong to no removal that is known, and stay as they are"
        )
    if freeze is not None:
        click.echo(f"  nothing is removed for now: {plain(freeze.reason)}; that ends {freeze.ends}")
    if one.ledger_problem is not None:
        click.echo(f"  its ledger cannot be written: {plain(one.ledger_problem)}")
