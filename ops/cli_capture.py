"""`rollforward capture`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ops.capture_options import Reading, reading_options
from ops.differential_options import differential_of, differential_options
from ops.interruption import Interruption
from ops.part_size import part_size_option, parts_words
from ops.passwords import PasswordSource, password_option
from ops.show import plain, print_json, progress_bar, published_fields, size_words
from policies.names import parse_image_name
from storage.folder import kind_of

if TYPE_CHECKING:
    from storage.source import Access
    from storage.writer import Published


_EXAMPLES: Final = """\b
Examples:
  rollforward capture disk.raw --into /backup --volume DATA
  rollforward capture /dev/vg/snap --into /backup --volume "Büro C" --json
  rollforward capture disk.raw --into /backup --volume DATA --differential
  rollforward capture disk.raw --into /backup --volume DATA --encrypt
  rollforward capture disk.raw --into /backup --volume DATA --part-size 4G
  rollforward capture disk.raw --into /backup --volume DATA --password-file /root/data.password
  rollforward capture nbd://server:10809/disk --into /backup --volume DATA
  rollforward capture "nbd+unix:///disk?socket=/run/nbd.sock" --into /backup --volume DATA
  rollforward capture /dev/vg/data --snapshot lvm --into /backup --volume DATA
  rollforward capture /dev/sdb1 --freeze /srv --used-only --into /backup --volume SRV
  rollforward capture /dev/vg/db --before "db stop" --after "db start" --into /b --volume DB
  rollforward capture --qmp /run/web01.qmp --node disk0 --into /backup --volume WEB01
"""


@click.command(epilog=_EXAMPLES)
@reading_options
@click.option(
    "--into",
    "folder",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The managed folder.",
)
@click.option("--volume", required=True, help="Name of the volume; images are named after it.")
@click.option("--new-base", is_flag=True, help="Begin a new chain with a new base image.")
@differential_options
@click.option("--encrypt", is_flag=True, help="Encrypt the new chain; implied by a password file.")
@password_option
@part_size_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def capture(
    reading: Reading,
    folder: Path,
    volume: str,
    new_base: bool,
    differential: bool,
    of: int | None,
    encrypt: bool,
    password_file: Path | None,
    part_bytes: int | None,
    as_json: bool,
) -> None:
    """Capture the present state of SOURCE: a raw file, a block device, or an NBD export that is read-only.

    The first capture of a volume writes a base image, NAME-b001.spf; each later one an incremental with just what
    changed, NAME-b001-i001.spi and so on.
    A differential, NAME-b001-d002.spi, needs the base and no other image; NAME-b001-d002-i003.spi goes on from it.

    A device that is mounted read-write is refused, unless it comes with --snapshot or --freeze, or with --before and
    --after: commands that run without a shell, and are trusted to keep it still between them.

    The disk of a running guest is captured through its qemu, with --qmp and --node in place of SOURCE. The guest
    writes on, while one moment of its disk is read; from the second capture on, only what a dirty bitmap marks.

    With --encrypt, or a password file, a new chain is encrypted; there is no way to its contents without the
    password. An encrypted volume stays encrypted, and each capture of it takes the password.
    """
    from storage.capture import capture as capture_volume

    access = reading.access(folder)
    passwords = PasswordSource(password_file)
    passwords.ask_before_capture(folder, volume, begins=new_base, encrypt=encrypt)
    with Interruption() as interruption, reading.hooks(volume, folder).around() as outcome:
        with progress_bar(f"Capturing {volume}", quiet=as_json) as show:
            made = capture_volume(
                access,
                folder,
                volume,
                now=datetime.now(UTC),
                new_base=new_base,
                differential_of=differential_of(differential, of),
                encrypt=encrypt or passwords.given is not None,
                passwords=passwords,
                part_bytes=part_bytes,
                progress=interruption.checking(show),
            )
        outcome.image = made.path
        _tell(made, None if isinstance(access, Path) else access, as_json=as_json)


def _tell(made: Published, access: Access | None, *, as_json: bool) -> None:
    notes = access.notes if access else []
    kind = kind_of(parse_image_name(made.path.name), made.header)
    if as_json:
        read = "marked" if access and access.reads_marked else "whole"
        print_json({**published_fields(made, kind), "read": read, "notes": notes})
        return
    number = made.header.end.number
    click.echo(
        f"{plain(made.path)}: {kind}, point {number}, {size_words(made.changed_bytes)} "
        f"{'used' if kind == 'base' else 'changed'}, {size_words(made.stored_bytes)} stored"
        f"{parts_words(made.parts)}"
    )
    for note in notes:
        click.echo(f"note: {plain(note)}", err=True)
