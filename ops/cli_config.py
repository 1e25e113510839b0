"""`rollforward config`: all that the agent is told, as one file."""

from __future__ import annotations

from pathlib import Path

import click

from ops.catalogue_access import json_option, opened_desk, person, state_option


@click.group()
def config() -> None:
    """Write all settings, folders and who is told of trouble to one TOML file, or make them what one says."""


@config.command(
    epilog="""\b
Examples:
  rollforward config export > rollforward.toml
  rollforward config export rollforward.toml
"""
)
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@state_option
def export(file: Path | None, state: str | None) -> None:
    """Write all that is set to FILE, or to standard output.

    What is not set stands there as a comment, with its default. Passwords are never written: `apply` keeps those that
    are stored, and takes new ones from the files that password_file names. Of the address of a webhook, or of a
    dead-man's switch, what comes after the host is left out likewise.
    """
    from dataclasses import replace

    from ops.config_text import config_text
    from ops.herald_config import read_herald_layer
    from ops.keeping import Keeping
    from ops.notify.settings import herald_file
    from ops.whole_file import write_whole

    with opened_desk(state) as desk, desk.catalog.read() as session:
        herald = read_herald_layer(herald_file(desk.settings.state_dir), desk.settings.time_zone)
        text = config_text(replace(Keeping(desk, session, person()).document(), herald=herald))
    if file is None:
        click.echo(text, nl=False)
    else:
        write_whole(file, text)


@config.command(
    epilog="""\b
Examples:
  rollforward config apply rollforward.toml --dry-run
  rollforward config apply rollforward.toml
  rollforward config apply rollforward.toml --prune
"""
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option(
    "--prune", is_flag=True, help="Stop managing folders that FILE does not name; their files stay."
)
@state_option
@json_option("Print one JSON object a change.")
def apply(file: Path, dry_run: bool, prune: bool, state: str | None, as_json: bool) -> None:
    """Make all settings, and the folders that FILE names, what it says: all of it or nothing.

    A setting that FILE leaves out goes back to its default. A folder that it does not name stays as it is, unless
    --prune is given; one that it names need not be there at present. Who is told of trouble ([mail], [webhook],
    [summary], [metrics], [alive]) stays as it is if FILE has none of these sections; one of them that it lacks is
    switched off otherwise. Applied again, the same file changes nothing.
    """
    from ops.cli_settings import tell
    from ops.config_document import read_config
    from ops.keeping import Keeping

    document = read_config(file)
    with opened_desk(state) as desk, desk.catalog.write() as session:
        changes = Keeping(desk, session, person(), dry_run=dry_run).apply_document(document, prune=prune)
        if dry_run:
            session.rollback()
    tell(changes, as_json, planned=dry_run)
    if dry_run and changes and not as_json:
        click.echo("Nothing was changed: this was a dry run.")
