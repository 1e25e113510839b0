"""`rollforward why`: what becomes of an image, and on what ground."""

from __future__ import annotations

from pathlib import Path

import click

from ops.catalogue_access import json_option, opened_desk, state_option


@click.command(
    epilog="""\b
Examples:
  rollforward why /srv/images/DATA-b001-i042.spi
  rollforward why /srv/images/DATA-b001-i042-cd.spi --json
"""
)
@click.argument("file", type=click.Path(path_type=Path))
@state_option
@json_option("Print one JSON object.")
def why(file: Path, state: str | None, as_json: bool) -> None:
    """Say why FILE is kept or will go, when, and on what ground.

    Also: what it holds, who claims or holds it, when it was verified and when it will be again, and what happened to
    it. A file that was removed is known for a year or so, with the reason.
    """
    from ops.held_thing import named_image
    from ops.why_card import print_why, why_of

    with opened_desk(state) as desk, desk.catalog.read() as session:
        found = why_of(session, named_image(session, file), desk.clock())
    print_why(found, as_json=as_json)
