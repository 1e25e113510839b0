"""`rollforward verify`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.part_size import parts_words
from ops.passwords import FolderKeys, PasswordSource, password_option
from ops.show import image_fields, plain, print_json, progress_bar, size_words
from policies.errors import StorageError
from storage.folder import FoundImage, find_image, kind_of, scan_folder, stray_images
from storage.parts import first_part_of

if TYPE_CHECKING:
    from storage.verify import Verified


@click.command(
    epilog="""\b
Examples:
  rollforward verify /backup
  rollforward verify /backup/DATA-b001-i005.spi --deep
  rollforward verify /backup --json | jq 'select(.status != "good")'

\b
Exit status: 0 all good, 1 something is bad or cannot be verified, 2 wrong usage,
10 a password is missing or wrong.
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

    Files in ShadowProtect's own container are held against the .md5 side files beside them. Where there is none, such a
    file cannot be verified, and says so. An image of ours has to fit its side file too, if it has one.
    """
    keys = FolderKeys(PasswordSource(password_file)) if deep else None
    counts = Counter(
        _verify_one(image, found, keys, as_json) for path in paths for image, found in _images(path)
    )
    if not as_json:
        click.echo(_summary(counts))
    sys.exit(0 if counts.total() == counts["good"] else 1)


def _summary(counts: Counter[str]) -> str:
    total, bad, unproven = counts.total(), counts["bad"], counts["unproven"]
    if total == 0:
        return "No images there."
    words = [f"{bad} of {total} images are bad."] if bad else []
    if unproven:
        words.append(f"{unproven} of {total} images cannot be verified.")
    return " ".join(words) or (f"All {total} good." if total > 1 else "Good.")


def _images(path: Path) -> Iterator[tuple[Path, FoundImage | None]]:
    """Yield each image with what its folder says of it; files that are not named as images have no context."""
    if path.is_dir():
        yield from ((found.path, found) for found in scan_folder(path))
        yield from ((stray, None) for stray in stray_images(path))
    else:
        first = first_part_of(path)
        yield first, find_image(first)


def _verify_one(path: Path, found: FoundImage | None, keys: FolderKeys | None, as_json: bool) -> str:
    """Verify an image and say what was found; return its status."""
    from storage.verify import Verified, verify_image

    is_foreign = found is not None and found.is_foreign
    key = keys.of_image(path) if keys and not is_foreign else None
    with progress_bar(path.name, quiet=as_json) as progress:
        try:
            result = verify_image(path, deep=keys is not None, key=key, progress=progress)
        except StorageError as error:
            result = Verified(path, "bad", error.reason, 0)
    if result.reason is None and found is not None and not is_foreign and found.problem is not None:
        result = replace(result, status="bad", reason=found.problem)
    kind = kind_of(found.name if found else None, result.header)
    parts = found.parts if found else 1
    if as_json:
        _print_line(result, kind, parts)
    else:
        _print_words(result, kind, parts)
    return result.status


def _print_line(result: Verified, kind: str, parts: int) -> None:
    fields = image_fields(
        result.path,
        result.header,
        kind=kind,
        stored_bytes=result.stored_bytes,
        changed_bytes=result.changed_bytes,
        status=result.status,
        reason=result.reason,
        root=result.root,
        parts=parts,
    )
    print_json(
        fields | {"foreign": result.is_foreign, "side_files": list(result.side_files), "note": result.note}
    )


def _print_words(result: Verified, kind: str, parts: int) -> None:
    path = plain(result.path)
    if result.status == "good":
        proof = f", by {plain(', '.join(result.side_files))}" if result.side_files and not result.note else ""
        size = f"{size_words(result.stored_bytes)}{parts_words(parts)}"
        click.echo(f"{click.style('good', fg='green')}  {path}  {kind}, {size}{proof}")
        if result.note:
            click.echo(f"      side file: {plain(result.note)}")
    elif result.status == "unproven":
        click.echo(f"{click.style('unproven', fg='yellow')}  {path}: {plain(result.reason)}")
    else:
        click.echo(f"{click.style('bad', fg='red', bold=True)}   {path}: {plain(result.reason)}")
