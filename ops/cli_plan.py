"""`rollforward plan`: what is due and why, and what a policy would do over days to come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.catalogue_access import Desk, json_option, opened_desk, state_option

if TYPE_CHECKING:
    from ops.chain_views import ChainView
    from ops.forecast_run import Played
    from storage.catalog.models import Folder

_DAYS_MAX = 3_660


@click.command(
    epilog="""\b
Examples:
  rollforward plan
  rollforward plan /srv/images --volume DATA --all
  rollforward plan /srv/images --days 365
  rollforward plan --days 90 --json
"""
)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--volume", help="Only this volume.")
@click.option("--all", "every", is_flag=True, help="Every line, not just the first of each kind.")
@click.option(
    "--days",
    type=click.IntRange(1, _DAYS_MAX),
    help="Play so many days forward on what is there and set now; 365 for a year.",
)
@state_option
@json_option("Print one JSON object a line; with --days, one a chain and day.")
def plan(
    folder: Path | None, volume: str | None, every: bool, days: int | None, state: str | None, as_json: bool
) -> None:
    """Show what is due now and why, what waits and for what, and what keeps images from being removed.

    It asks the planner that the agent asks, and changes nothing. With --days it plays the time to come: the chains go
    on as in the last two weeks, every midnight is planned, and what is planned is taken as done. So a change of policy
    can be looked at before it is in force: change it on a copy of the state directory.
    """
    from ops.plan_screen import no_folder_yet
    from storage.catalog.folders import all_folders

    with opened_desk(state) as desk:
        with desk.catalog.read() as session:
            from ops.keeping import find_managed

            folders = all_folders(session) if folder is None else [find_managed(session, folder)]
        if not folders and not as_json:
            no_folder_yet()
        for one in folders:
            _show_folder(desk, one, volume, every=every, days=days, as_json=as_json)


def _show_folder(
    desk: Desk, folder: Folder, volume: str | None, *, every: bool, days: int | None, as_json: bool
) -> None:
    from ops.chain_views import views_of_folder
    from ops.plan_screen import print_plan, print_plan_lines
    from ops.screen import screen
    from ops.show import plain

    console = screen(picture=days is not None)
    with desk.catalog.read() as session:
        if not as_json:
            click.secho(plain(folder.path), bold=True)
            if folder.problem is not None:
                click.secho(f"  cannot be read at present: {plain(folder.problem)}", fg="red")
        shown = 0
        played: list[ChainView] = []
        for view in views_of_folder(session, folder, desk.clock(), volume):
            shown += 1
            if days is not None:
                played.append(view)
            elif as_json:
                print_plan_lines(view)
            else:
                print_plan(view, console, every=every)
    if played and days is not None:
        _show_days(played, days, as_json=as_json)
    elif not shown and not as_json:
        click.echo("  No images are known here yet.")


def _show_days(views: Sequence[ChainView], days: int, *, as_json: bool) -> None:
    from ops.forecast_picture import draw_forecast
    from ops.forecast_run import days_bar, play, sheets_of
    from ops.screen import screen
    from ops.show import plain

    with days_bar(days * len(views), quiet=as_json) as tell:
        played = [play(view, days, tell) for view in views]
    if as_json:
        for one in played:
            _print_days(one)
        return
    for one in played:
        click.echo(f"  {plain(one.view.title)}: {one.pace_words}, as lately")
    draw_forecast(sheets_of(played), screen(picture=True))


def _print_days(played: Played) -> None:
    from ops.show import print_json

    view = played.view
    for midnight in played.midnights:
        print_json(
            {
                "path": view.folder.path,
                "kind": "forecast",
                "volume": view.chain.volume,
                "base": view.chain.base_number,
                "day": midnight.day.isoformat(),
                "tiers": {
                    "full" if tier is None else tier.value: {
                        "files": tally.files,
                        "stored_bytes": tally.stored_bytes,
                        "points": tally.points,
                    }
                    for tier, tally in midnight.tallies.items()
                },
                "made": list(midnight.made),
                "retired": list(midnight.retired),
            }
        )
