"""`rollforward restore`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.passwords import PasswordSource, key_of, password_option
from ops.point_options import TimeType
from ops.show import plain, print_json, progress_bar, size_words
from policies.errors import FormatError
from policies.points import Point
from storage.chain import Chain, load_chain
from storage.parts import first_part_of, stored_bytes_of

if TYPE_CHECKING:
    from hsr.restore import Restored


def _choose(chain: Chain, number: int | None, at: datetime | None) -> Point:
    if number is not None:
        return chain.point(number)
    return chain.newest() if at is None else chain.point_at(at)


def _show_way_round(error: FormatError, chain: Chain, point: Point) -> None:
    """Where other images lead to the point too, say so in the error's hint."""
    bad = first_part_of(Path(error.path or "")).name
    if bad in {image.path.name for image in chain.images} and chain.without({bad}).leads_to(point):
        from hsr.targets import HOLDS_PART

        left = f" {HOLDS_PART}" if HOLDS_PART in (error.hint or "") else ""
        error.hint = f"Other images lead to point {point.number} too: say --without {bad!r}.{left}"


def _print_line(chain: Chain, done: Restored, images: Sequence[Path]) -> None:
    print_json(
        {
            "path": str(done.target),
            "kind": "restore",
            "volume": chain.volume,
            "number": done.point.number,
            "point": done.point.id.hex(),
            "time": done.point.time.isoformat(),
            "volume_bytes": done.volume_bytes,
            "stored_bytes": sum(map(stored_bytes_of, images)),
            "written_bytes": done.written_bytes,
            "status": "restored",
            "images": [image.name for image in images],
        }
    )


@click.command(
    epilog="""\b
Examples:
  rollforward restore /backup --volume DATA --to /tmp/data.raw
  rollforward restore /backup --volume DATA --without DATA-b001-i005-cd.spi --to data.raw
  rollforward restore /backup --volume DATA --point 17 --to /dev/vg/data
  rollforward restore /backup --volume DATA --at "2026-11-20 08:00" --to data.raw --json
"""
)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--volume", required=True, help="Name of the volume.")
@click.option("--point", type=click.IntRange(min=0), help="Number of the point; the newest if not given.")
@click.option(
    "--at", type=TimeType(), help="The newest point at or before this time (ISO 8601, local if no zone)."
)
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    help="A file to be made, or a block device.",
)
@click.option("--base", type=click.IntRange(min=1), help="Number of the base; the latest if not given.")
@click.option(
    "--without", multiple=True, metavar="FILE", help="Do not use this image; may be given several times."
)
@click.option("--overwrite", is_flag=True, help="Replace the target, if it is an existing file.")
@password_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def restore(
    folder: Path,
    volume: str,
    point: int | None,
    at: datetime | None,
    target: Path,
    base: int | None,
    without: tuple[str, ...],
    overwrite: bool,
    password_file: Path | None,
    as_json: bool,
) -> None:
    """Restore a point in time of a volume to a raw file (sparse), or to a block device that nobody uses.

    Everything read is checked: a damaged image is refused by name. A file appears under its name whole, or not at
    all; a device is written in place, whatever it held, and holds a part if an image turns out to be damaged.
    """
    if point is not None and at is not None:
        raise click.UsageError("Give --point or --at, not both.")
    from hsr.restore import restore as restore_path

    chain = load_chain(folder, volume, base).without(without)
    chosen = _choose(chain, point, at)
    path = chain.path_to(chosen)
    key = key_of(chain, PasswordSource(password_file))
    with progress_bar(f"Restoring point {chosen.number}", quiet=as_json) as progress:
        try:
            done = restore_path(path, target, key=key, overwrite=overwrite, progress=progress)
        except FormatError as error:
            _show_way_round(error, chain, chosen)
            raise
    if as_json:
        _print_line(chain, done, path)
        return
    files = f"{len(path)} images" if len(path) > 1 else "one image"
    when = chosen.time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    click.echo(
        f"{plain(target)}: point {chosen.number} of {plain(chain.volume)} ({when}), "
        f"{size_words(done.volume_bytes)}, from {files}"
    )
