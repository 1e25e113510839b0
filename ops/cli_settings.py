"""`rollforward settings`: what holds for the agent and for all its folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.catalogue_access import json_option, opened_desk, person, state_option

if TYPE_CHECKING:
    from ops.keeping import Change

_JSON = json_option("Print one JSON object a setting, or a change.")


@click.group()
def settings() -> None:
    """Show and change what holds for the agent and for all its folders.

    A folder's own settings go before these: see `rollforward folder set`. An agent that runs goes by a change from its
    next tick on.
    """


@settings.command(
    epilog="""\b
Examples:
  rollforward settings show
  rollforward settings show --json
"""
)
@state_option
@_JSON
def show(state: str | None, as_json: bool) -> None:
    """Show every setting: its value, whether it was set, what it means."""
    from ops.setting_rows import agent_rows
    from ops.setting_table import print_settings, setting_fields
    from ops.show import plain, print_json
    from storage.catalog.memory_models import Agent
    from storage.credentials import user_in

    with opened_desk(state) as desk, desk.catalog.read() as session:
        agent = session.get(Agent, 1)
        rows = agent_rows({} if agent is None else agent.settings)
        login = None if agent is None or agent.credentials is None else user_in(agent.credentials)
    if as_json:
        for row in rows:
            print_json({"kind": "setting"} | setting_fields(row))
        print_json({"kind": "setting", "setting": "credentials", "value": login, "set": login is not None})
        return
    from ops.screen import screen

    print_settings(rows, screen(), below="default")
    click.echo(f"\nDefault credentials of folders: {plain(login or 'none')}")


@settings.command(
    name="set",
    epilog="""\b
Examples:
  rollforward settings set retention.keep_daily_days=30
  rollforward settings set control.at=02:30 performance.cpu_percent=25
  rollforward settings set "consolidation.month_end=last friday" notices.inactivity_days=off
""",
)
@click.argument("assignments", nargs=-1, required=True, metavar="SETTING=VALUE...")
@state_option
@_JSON
def set_(assignments: tuple[str, ...], state: str | None, as_json: bool) -> None:
    """Set one or several settings, all or none of them."""
    _change(state, assignments, (), as_json)


@settings.command(
    epilog="""\b
Examples:
  rollforward settings reset retention.keep_daily_days
  rollforward settings reset retention
  rollforward settings reset --all
"""
)
@click.argument("names", nargs=-1, metavar="[SETTING|SECTION]...")
@click.option("--all", "every", is_flag=True, help="Every setting; credentials stay.")
@state_option
@_JSON
def reset(names: tuple[str, ...], every: bool, state: str | None, as_json: bool) -> None:
    """Give settings their defaults back."""
    if not names and not every:
        raise click.UsageError("Name settings or sections, or say --all.")
    _change(state, (), names, as_json, every=every)


@settings.command(
    epilog="""\b
Examples:
  rollforward settings credentials --user 'OFFICE\\backup'
  rollforward settings credentials --user backup --password-file /root/nas.password
  rollforward settings credentials --remove
"""
)
@click.option("--user", help="Whose credentials they are.")
@click.option("--password-file", type=click.Path(path_type=Path), metavar="FILE", help="Holds the password.")
@click.option("--remove", is_flag=True, help="Forget them.")
@state_option
@_JSON
def credentials(
    user: str | None, password_file: Path | None, remove: bool, state: str | None, as_json: bool
) -> None:
    """Keep the credentials of folders that have none of their own, or forget them.

    They are kept for whoever mounts the folders, sealed with the key in STATE/credentials.key. Mounting itself is the
    administrator's.
    """
    from ops.keeping import Keeping
    from ops.login_options import typed_login

    if (user is None) == (not remove):
        raise click.UsageError("Give --user, or --remove.")
    login = None if user is None else typed_login(user, password_file)
    with opened_desk(state) as desk, desk.catalog.write() as session:
        changes = Keeping(desk, session, person()).set_agent_login(login)
    tell(changes, as_json)


def _change(
    state: str | None,
    assignments: tuple[str, ...],
    unset: tuple[str, ...],
    as_json: bool,
    *,
    every: bool = False,
) -> None:
    from ops.keeping import Keeping
    from ops.setting_rows import changed_layer

    with opened_desk(state) as desk, desk.catalog.write() as session:
        keeping = Keeping(desk, session, person())
        layer = {} if every else keeping.document().settings
        changes = keeping.set_agent(changed_layer(layer, assignments, unset, for_agent=True))
    tell(changes, as_json)


def tell(changes: list[Change], as_json: bool, *, planned: bool = False) -> None:
    """Say what was changed.

    Args:
        changes: what was.
        as_json: as JSON, one object a change.
        planned: whether it only would be.
    """
    from ops.show import plain, print_json

    if as_json:
        for change in changes:
            print_json(
                {
                    "path": change.subject,
                    "kind": "change",
                    "status": "planned" if planned else "done",
                    "setting": change.what,
                    "before": change.before,
                    "after": change.after,
                }
            )
        return
    if not changes:
        click.echo("Nothing to change.")
    subject = ""
    for change in changes:
        if change.subject != subject:
            subject = change.subject
            click.echo(plain(subject))
        click.echo(f"  {plain(change.words)}")
