"""`rollforward verify`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from ops.part_size import parts_words
from ops.passwords import FolderKeys, PasswordSource, password_option
from ops.show import image_fields, plain, print_json, progress_bar, size_words
from policies.errors import StorageError
from storage.folder import FoundImage, find_image, kind_of, scan_folder, stray_images
from storage.parts import first_part_of


@click.command(
    epilog="""\b
Examples:
  rollforward verify /backup
  rollforward verify /backup/DATA-b001-i005.spi --deep
  rollforward verify /backup --json | jq 'select(.status != "good")'

\b
Exit status: 0 all good, 1 something is bad, 2 wrong usage, 10 a password is missing or wrong.
"""
)
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="PATH..."
)
@click.option("--deep", is_flag=True, help="Also check each frame by itself, and decode it.")
@password_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def verify(paths: tuple[Path, ...], deep: bool, password_file: Path | None, as_json: bool) -> None:
    """Prove images byte for byte against their own digests. PATH is an image (any part of it), or a folder of images.

    All stored data, the index, and the header are read back from the medium and held against the image's root;
    name and header must agree, and belong to the chain beside it. No password is needed, but for --deep of an
    encrypted volume: it proves, too, that nobody without the password altered anything.
    """
    keys = FolderKeys(PasswordSource(password_file)) if deep else None
    total = bad = 0
    for path in paths:
        for image, found in _images(path):
            total += 1
            bad += not _verify_one(image, found, keys, as_json)
    if not as_json:
        if total == 0:
            click.echo("No images there.")
        elif bad:
            click.echo(f"{bad} of {total} images are bad.")
        else:
            click.echo(f"All {total} good." if total > 1 else "Good.")
    sys.exit(1 if bad else 0)


def _images(path: Path) -> Iterator[tuple[Path, FoundImage | None]]:
    """Yield each image with what its folder says of it; files that are not named as images have no context."""
    if path.is_dir():
        yield from ((found.path, found) for found in scan_folder(path))
        yield from ((stray, None) for stray in stray_images(path))
    else:
        first = first_part_of(path)
        yield first, find_image(first)


def _verify_one(path: Path, found: FoundImage | None, keys: FolderKeys | None, as_json: bool) -> bool:
    from storage.verify import Verified, verify_image

    key = keys.of_image(path) if keys else None
    with progress_bar(path.name, quiet=as_json) as progress:
        try:
            result = verify_image(path, deep=keys is not None, key=key, progress=progress)
        except StorageError as error:
            result = Verified(path, "bad", error.reason, 0)
    reason = result.reason or (found.problem if found else None)
    parts = found.parts if found else 1
    kind = kind_of(found.name if found else None, result.header)
    if as_json:
        fields = image_fields(
            path,
            result.header,
            kind=kind,
            stored_bytes=result.stored_bytes,
            changed_bytes=result.changed_bytes,
            status="good" if reason is None else "bad",
            reason=reason,
            root=result.root,
            parts=parts,
        )
        print_json(fields)
    elif reason is None:
        click.echo(
            f"{click.style('good', fg='green')}  {plain(path)}  {kind}, {size_words(result.stored_bytes)}"
            f"{parts_words(parts)}"
        )
    else:
        click.echo(f"{click.style('bad', fg='red', bold=True)}   {plain(path)}: {plain(reason)}")
    return reason is None
