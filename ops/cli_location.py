"""`rollforward location`: where disks of HeadStart jobs may lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.catalogue_access import json_option, opened_desk, person, state_option
from ops.path_type import FolderType

if TYPE_CHECKING:
    from ops.location_keeping import LocationWishes

_CHANGES = json_option("Print one JSON object a change.")
_ADDRESS = click.option("--address", metavar="//SERVER/SHARE", help="Of a share that is mounted at the path.")
_USER = click.option("--user", metavar="USER|off", help="Keep credentials for the share: whose.")
_PASSWORD = click.option(
    "--password-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Holds that user's password; asked for if not given.",
)


@click.group()
def location() -> None:
    """Manage locations: the places for the disks of HeadStart jobs.

    A location is defined once, and used by any number of jobs. Changing it changes it for all of them. Shares of other
    machines are mounted by the administrator; address and credentials are only kept for that.
    """


@location.command(
    epilog="""\b
Examples:
  rollforward location add standby /srv/disks
  rollforward location add nas /mnt/nas --address //nas/disks --user backup --password-file /root/nas.password
"""
)
@click.argument("name")
@click.argument("path", type=FolderType())
@_ADDRESS
@_USER
@_PASSWORD
@state_option
@_CHANGES
def add(
    name: str,
    path: Path,
    address: str | None,
    user: str | None,
    password_file: Path | None,
    state: str | None,
    as_json: bool,
) -> None:
    """Define location NAME: the folder PATH, or the share that is mounted there."""
    from ops.cli_settings import tell
    from ops.location_keeping import LocationKeeping

    wishes = _wishes(path, address, user, password_file)
    with opened_desk(state) as desk, desk.catalog.write() as session:
        changes = LocationKeeping(desk, session, person()).add(name, wishes)
    tell(changes, as_json)


@location.command(
    name="set",
    epilog="""\b
Examples:
  rollforward location set nas --path /mnt/new-nas
  rollforward location set nas --user backup --password-file /root/nas.password
  rollforward location set nas --address "" --user off
""",
)
@click.argument("name")
@click.option(
    "--path", type=FolderType(), metavar="FOLDER", help="Where it is from now on; move the disks there."
)
@_ADDRESS
@_USER
@_PASSWORD
@state_option
@_CHANGES
def set_(
    name: str,
    path: Path | None,
    address: str | None,
    user: str | None,
    password_file: Path | None,
    state: str | None,
    as_json: bool,
) -> None:
    """Change location NAME, for all jobs that use it.

    With another path the jobs look for their disks there: one that is not there is not made anew.
    """
    from ops.cli_settings import tell
    from ops.location_keeping import LocationKeeping

    wishes = _wishes(path, address, user, password_file)
    with opened_desk(state) as desk, desk.catalog.write() as session:
        changes = LocationKeeping(desk, session, person()).set(name, wishes)
    tell(changes, as_json)


@location.command(
    epilog="""\b
Examples:
  rollforward location remove nas
"""
)
@click.argument("name")
@state_option
@_CHANGES
def remove(name: str, state: str | None, as_json: bool) -> None:
    """Forget location NAME; what lies there stays. One that jobs use is refused."""
    from ops.cli_settings import tell
    from ops.location_keeping import LocationKeeping

    with opened_desk(state) as desk, desk.catalog.write() as session:
        changes = LocationKeeping(desk, session, person()).remove(name)
    tell(changes, as_json)


@location.command(
    name="list",
    epilog="""\b
Examples:
  rollforward location list
  rollforward location list --json
""",
)
@state_option
@json_option("Print one JSON object a location.")
def list_(state: str | None, as_json: bool) -> None:
    """List the locations, and the jobs that use each."""
    from ops.location_table import print_locations
    from storage.catalog.locations import all_locations, jobs_at

    with opened_desk(state) as desk, desk.catalog.read() as session:
        found = [(one, [job.name for job in jobs_at(session, one.id)]) for one in all_locations(session)]
    print_locations(found, as_json=as_json)


@location.command(
    epilog="""\b
Examples:
  rollforward location show nas
"""
)
@click.argument("name")
@state_option
@json_option("Print one JSON object.")
def show(name: str, state: str | None, as_json: bool) -> None:
    """Show location NAME: where it is, what is left on its device, and the jobs that use it."""
    from ops.location_keeping import named_location
    from ops.location_table import print_location
    from storage.catalog.locations import jobs_at

    with opened_desk(state) as desk, desk.catalog.read() as session:
        found = named_location(session, name)
        users = [job.name for job in jobs_at(session, found.id)]
    print_location(found, users, as_json=as_json)


def _wishes(
    path: Path | None, address: str | None, user: str | None, password_file: Path | None
) -> LocationWishes:
    from ops.location_keeping import LocationWishes
    from ops.login_options import typed_login

    if password_file is not None and user is None:
        raise click.UsageError("--password-file needs --user.")
    is_off = user == "off"
    login = None if user is None or is_off else typed_login(user, password_file)
    return LocationWishes(path, address, login, no_login=is_off)
