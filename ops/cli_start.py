"""`rollforward start`: whatever is due is done now."""

from __future__ import annotations

from pathlib import Path

import click

from ops.catalogue_access import json_option, opened_desk, person, state_option


@click.command(
    epilog="""\b
Examples:
  rollforward start
  rollforward start /srv/images
"""
)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@state_option
@json_option("Print one JSON object a folder.")
def start(folder: Path | None, state: str | None, as_json: bool) -> None:
    """Have the daily work done now: verifying again, rolling up, removing what is due.

    The control time does not matter then, nor whether the daily work is switched off. An agent that runs begins at its
    next tick; otherwise the next one that is started does. FOLDER alone, or all folders.
    """
    from ops.clock import machine_now
    from ops.keeping import find_managed
    from ops.show import plain, print_json
    from storage.catalog.chains import start_work
    from storage.catalog.events import record_event
    from storage.catalog.folders import all_folders
    from storage.catalog.models import EventKind

    with opened_desk(state) as desk, desk.catalog.write() as session:
        now = desk.clock()
        folders = all_folders(session) if folder is None else [find_managed(session, folder)]
        started = {one.path: start_work(session, one.id, now) for one in folders}
        for one in folders:
            record_event(
                session,
                EventKind.STARTED,
                one.path,
                "the daily work was started by hand",
                at=now,
                machine_now=machine_now(),
                folder_id=one.id,
                facts={"by": person(), "chains": started[one.path]},
            )
    if not started and not as_json:
        click.echo("No folder is managed yet: rollforward folder add PATH")
    for path, chains in started.items():
        if as_json:
            print_json({"path": path, "kind": "start", "status": "started", "chains": chains})
        else:
            click.echo(f"{plain(path)}: started, {chains:,} {'chain' if chains == 1 else 'chains'}")
