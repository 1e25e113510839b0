"""`rollforward import`."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.differential_options import differential_of, differential_options
from ops.interruption import Interruption
from ops.part_size import part_size_option, parts_words
from ops.passwords import PasswordSource, password_option
from ops.show import plain, print_json, progress_bar, published_fields, size_words
from ops.tether import tethered
from policies.names import parse_image_name
from storage.folder import kind_of

if TYPE_CHECKING:
    from storage.writer import Published

_FORMATS = ("raw", "qcow2", "vhd", "vhdx", "vmdk")


def _image_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add IMAGE, --into, --volume, --format and --follow to the command."""
    options = (
        click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path)),
        click.option(
            "--into",
            "folder",
            required=True,
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="The managed folder.",
        ),
        click.option("--volume", required=True, help="Name of the volume; images are named after it."),
        click.option(
            "--format", "told", type=click.Choice(_FORMATS), help="Format of IMAGE; otherwise found out."
        ),
        click.option(
            "--follow", is_flag=True, help="Open other files that IMAGE names: backing files, extents."
        ),
        part_size_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command(
    "import",
    epilog="""\b
Examples:
  rollforward import web01.qcow2 --into /backup --volume WEB01
  rollforward import disk.vhdx --into /backup --volume DATA --json
  rollforward import disk.img --format qcow2 --into /backup --volume DATA
  rollforward import overlay.qcow2 --follow --into /backup --volume WEB01
  rollforward import web01.qcow2 --into /backup --volume WEB01 --differential

\b
A second import of the same volume writes an incremental with what changed since the first.
""",
)
@_image_options
@click.option("--new-base", is_flag=True, help="Begin a new chain with a new base image.")
@differential_options
@click.option("--encrypt", is_flag=True, help="Encrypt the new chain; implied by a password file.")
@password_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def import_image(
    image: Path,
    folder: Path,
    volume: str,
    told: str | None,
    follow: bool,
    part_bytes: int | None,
    new_base: bool,
    differential: bool,
    of: int | None,
    encrypt: bool,
    password_file: Path | None,
    as_json: bool,
) -> None:
    """Capture the disk inside IMAGE: raw, qcow2, VHD, VHDX or VMDK. No raw copy of it is made.

    The format is found out by name and content together; where they disagree, say --format: whoever writes to a raw
    disk can make it look like another format. Files that IMAGE names beside itself (a backing file, say) are opened
    with --follow only. What is not raw is read through qemu-storage-daemon.
    """
    from hsr.exchange.formats import DiskFormat, recognise
    from hsr.exchange.opening import opened_disk
    from storage.capture import capture

    leads_from = differential_of(differential, of)
    disk = recognise(image, DiskFormat(told) if told else None)
    passwords = PasswordSource(password_file)
    passwords.ask_before_capture(folder, volume, begins=new_base, encrypt=encrypt)
    tether = partial(tethered, end=signal.SIGTERM)
    with (
        Interruption(),
        opened_disk(disk, follow=follow, tethered=tether) as source,
        progress_bar(f"Importing {volume}", quiet=as_json) as progress,
    ):
        made = capture(
            source,
            folder,
            volume,
            now=datetime.now(UTC),
            new_base=new_base,
            differential_of=leads_from,
            encrypt=encrypt or passwords.given is not None,
            passwords=passwords,
            called=image,
            part_bytes=part_bytes,
            progress=progress,
        )
    _tell(made, disk.format.value, as_json)


def _tell(made: Published, disk_format: str, as_json: bool) -> None:
    kind = kind_of(parse_image_name(made.path.name), made.header)
    if as_json:
        fields = published_fields(made, kind)
        print_json(fields | {"format": disk_format})
        return
    click.echo(
        f"{plain(made.path)}: {kind}, point {made.header.end.number}, from {disk_format}, "
        f"{size_words(made.changed_bytes)} {'used' if kind == 'base' else 'changed'}, "
        f"{size_words(made.stored_bytes)} stored{parts_words(made.parts)}"
    )
