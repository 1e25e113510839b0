"""`rollforward status` and `rollforward about`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ops.catalogue_access import json_option, opened_desk, state_option

if TYPE_CHECKING:
    from ops.status_socket import Question

_LINES_AROUND = 14
_LINES_A_FOLDER = 3
_FOLDERS_LEAST = 3


@click.command(
    short_help="Show how the agent and its folders stand.",
    epilog="""\b
Examples:
  rollforward status
  rollforward status --all
  rollforward status --json | jq '.troubles[].reason'

\b
A folder's line shows how full its device is, how many images it has, and how long ago an image of each volume
last landed. Folders in trouble come first.""",
)
@click.option("--all", "show_all", is_flag=True, help="Show every folder, however many there are.")
@state_option
@json_option("Print one JSON object, with every folder.")
def status(show_all: bool, state: str | None, as_json: bool) -> None:
    """Show how the agent and its folders stand, on one screen.

    The agent is asked, if it runs, and else the catalogue is read; either way folders are asked how much is free, and
    one that does not answer at once is left out.
    """
    import os
    import shutil

    from ops.settings import Settings
    from ops.state_dir import make_state_dir
    from ops.status_socket import Question, ask

    room = shutil.get_terminal_size().lines - _LINES_AROUND
    folders_max = None if show_all or as_json else max(room // _LINES_A_FOLDER, _FOLDERS_LEAST)
    question = Question(folders_max, as_json)
    state_dir = Settings.from_environment(os.environ, state_dir=state).state_dir
    make_state_dir(state_dir)
    text = ask(state_dir, question)
    click.echo(_read(state, question) if text is None else text)


def _read(state: str | None, question: Question) -> str:
    """Look into the catalogue, where no agent answers."""
    from ops.clock import machine_now
    from ops.status_screen import told

    with opened_desk(state) as desk:
        return told(desk, machine_now(), question)


@click.command(
    short_help="Show the version, the licence, and what it runs on.",
    epilog="""\b
Examples:
  rollforward about
  rollforward about --json""",
)
@json_option("Print one JSON object.")
def about(as_json: bool) -> None:
    """Show the version, the licence, and what it runs on: what a report of a fault should name."""
    import json
    import platform
    from importlib.metadata import metadata

    packaged = metadata("rollforward")
    facts = {
        "version": packaged["Version"],
        "licence": packaged["License-Expression"] or "Apache-2.0",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "image_format": "1, described in docs/format.md",
        "catalogue_layout": _layout(),
    }
    if as_json:
        click.echo(json.dumps({"kind": "about"} | facts))
        return
    click.echo(f"rollforward {facts['version']}: looks after chains of volume backup images.")
    click.echo(f"Free software, {facts['licence']}. Every feature is in it, without a limit.")
    for name in ("image_format", "catalogue_layout", "python", "system"):
        click.echo(f"  {name.replace('_', ' '):<17} {facts[name]}")


def _layout() -> str:
    from storage.catalog.models import SCHEMA_REVISION

    return SCHEMA_REVISION
