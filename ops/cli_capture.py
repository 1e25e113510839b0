"""`rollforward capture`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.capture_source import SourceArgument
from ops.part_size import part_size_option, parts_words
from ops.passwords import PasswordSource, password_option
from ops.show import plain, print_json, progress_bar, published_fields, size_words

if TYPE_CHECKING:
    from storage.nbd_uri import NbdUri


@click.command(
    epilog="""\b
Examples:
  rollforward capture disk.raw --into /backup --volume DATA
  rollforward capture /dev/vg/snap --into /backup --volume "Büro C" --json
  rollforward capture nbd://server:10809/disk --into /backup --volume DATA
  rollforward capture "nbd+unix:///disk?socket=/run/nbd.sock" --into /backup --volume DATA
  rollforward capture disk.raw --into /backup --volume DATA --encrypt
  rollforward capture disk.raw --into /backup --volume DATA --part-size 4G
  rollforward capture disk.raw --into /backup --volume DATA --password-file /root/data.password
"""
)
@click.argument("source", type=SourceArgument())
@click.option(
    "--into",
    "folder",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The managed folder.",
)
@click.option("--volume", required=True, help="Name of the volume; images are named after it.")
@click.option("--new-base", is_flag=True, help="Begin a new chain with a new base image.")
@click.option("--encrypt", is_flag=True, help="Encrypt the new chain; implied by a password file.")
@password_option
@part_size_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def capture(
    source: Path | NbdUri,
    folder: Path,
    volume: str,
    new_base: bool,
    encrypt: bool,
    password_file: Path | None,
    part_bytes: int | None,
    as_json: bool,
) -> None:
    """Capture the present state of SOURCE: a raw file, a block device, or an NBD export that is read-only.

    The first capture of a volume writes a base image, NAME-b001.spf; each later one an incremental with just what
    changed, NAME-b001-i001.spi and so on. A device that is mounted read-write is refused: capture a snapshot.

    With --encrypt, or a password file, a new chain is encrypted; there is no way to its contents without the
    password. An encrypted volume stays encrypted, and each capture of it takes the password.
    """
    from storage.capture import capture as capture_volume
    from storage.source_nbd import NbdAccess

    passwords = PasswordSource(password_file)
    passwords.ask_before_capture(folder, volume, begins=new_base, encrypt=encrypt)
    with progress_bar(f"Capturing {volume}", quiet=as_json) as progress:
        made = capture_volume(
            source if isinstance(source, Path) else NbdAccess(source),
            folder,
            volume,
            now=datetime.now(UTC),
            new_base=new_base,
            encrypt=encrypt or passwords.given is not None,
            passwords=passwords,
            part_bytes=part_bytes,
            progress=progress,
        )
    kind = "base" if made.header.start is None else "incremental"
    if as_json:
        print_json(published_fields(made, kind))
        return
    number = made.header.end.number
    click.echo(
        f"{plain(made.path)}: {kind}, point {number}, {size_words(made.changed_bytes)} "
        f"{'used' if kind == 'base' else 'changed'}, {size_words(made.stored_bytes)} stored"
        f"{parts_words(made.parts)}"
    )
