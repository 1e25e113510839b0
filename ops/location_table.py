"""Locations as they are shown."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.table import Table
from rich.text import Text

from ops.observe.space import measure_all
from ops.show import plain, print_json, size_words
from storage.catalog.headstart_models import Location
from storage.credentials import user_in

_PATIENCE_S = 1.0


def print_locations(found: Sequence[tuple[Location, Sequence[str]]], *, as_json: bool) -> None:
    """Print locations, each with the names of the jobs that use it."""
    if as_json:
        for location, users in found:
            print_json(_fields(location, users))
        return
    if not found:
        click.echo("No location is defined yet: rollforward location add NAME PATH")
        return
    from ops.screen import screen

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("name", "kind", "path", "used by"):
        table.add_column(heading, overflow="fold")
    for location, users in found:
        where = Text(plain(location.path))
        if location.address:
            where.append(f"\n{plain(location.address)}", "dim")
        table.add_row(
            Text(plain(location.name)), location.kind.value, where, Text(plain(", ".join(users) or "no job"))
        )
    screen().print(table)


def print_location(location: Location, users: Sequence[str], *, as_json: bool) -> None:
    """Print one location, and what is left on its device."""
    space = measure_all([location.path], _PATIENCE_S).get(location.path)
    if as_json:
        free = {"free_bytes": space.free_bytes, "device_bytes": space.size_bytes} if space else {}
        print_json(_fields(location, users) | free)
        return
    click.echo(f"{plain(location.name)}: {plain(location.path)}")
    if location.address:
        click.echo(f"  share        {plain(location.address)}")
    click.echo(f"  credentials  {plain(_user(location) or 'none')}")
    left = (
        f"{size_words(space.free_bytes)} of {size_words(space.size_bytes)} are free"
        if space
        else "out of reach"
    )
    click.echo(f"  device       {left}")
    click.echo(f"  used by      {plain(', '.join(users) or 'no job')}")


def _user(location: Location) -> str | None:
    return None if location.credentials is None else user_in(location.credentials)


def _fields(location: Location, users: Sequence[str]) -> dict[str, object]:
    return {
        "path": location.path,
        "kind": "location",
        "name": location.name,
        "location_kind": location.kind.value,
        "address": location.address or None,
        "user": _user(location),
        "jobs": list(users),
    }
