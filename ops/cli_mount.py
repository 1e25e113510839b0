"""`rollforward mount` and `rollforward unmount`."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import click

from ops.interruption import Interruption
from ops.logs import set_up_logging
from ops.point_options import choose_point, point_options
from ops.show import plain, print_json


@click.command(
    epilog="""\b
Examples:
  rollforward mount /backup /mnt --volume DATA --point 17
  rollforward mount /backup /mnt --volume DISK --at "2026-11-20 08:00" --partition 2
  rollforward mount /backup ~/point --volume DATA --raw     # ~/point/disk.raw

\b
Should a mount stay behind (its processes killed with -9, all of them):
  rollforward unmount /mnt
"""
)
@point_options
@click.argument("where", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--partition", type=click.IntRange(min=1), help="Number of the partition, if there are several."
)
@click.option("--raw", is_flag=True, help="Show the raw file, disk.raw, not the files in it.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object when mounted, and log JSON lines."
)
def mount(
    folder: Path,
    where: Path,
    volume: str,
    point: int | None,
    at: datetime | None,
    base: int | None,
    without: tuple[str, ...],
    password_file: Path | None,
    partition: int | None,
    raw: bool,
    as_json: bool,
) -> None:
    """Mount a point in time at WHERE, an empty folder, read-only, until Ctrl-C or `rollforward unmount`.

    Root gets the files in it: of every file system that the kernel knows, as it was when it was captured, its
    journal not replayed. Others get the raw file, disk.raw, as --raw does; `rollforward ls` and `cp` then help.
    """
    from hsr.serving.memory import default_cache_bytes
    from hsr.serving.mounting import mounted
    from hsr.serving.point import PointReader

    chosen = choose_point(folder, volume, point, at, base, without, password_file)
    set_up_logging("json" if as_json else "text")
    raw = raw or os.geteuid() != 0
    time_s = chosen.point.time.timestamp()
    with (
        Interruption(),
        PointReader(chosen.images, default_cache_bytes(), key=chosen.key) as reader,
        mounted(reader, where, partition=partition, raw=raw, time_s=time_s) as mount_,
    ):
        if as_json:
            fields: dict[str, object] = {"path": str(where), "kind": "mount", "status": "mounted"}
            print_json(fields | chosen.fields() | {"raw": mount_.is_raw})
        else:
            what = plain(where / "disk.raw") if mount_.is_raw else plain(where)
            click.echo(f"{what}: {plain(chosen.words)}, read-only\nCtrl-C unmounts it.")
        mount_.wait()


@click.command(
    epilog="""\b
Examples:
  rollforward unmount /mnt
"""
)
@click.argument("where", type=click.Path(path_type=Path))
def unmount(where: Path) -> None:
    """Unmount a point at WHERE, whether the command that mounted it still runs or was killed."""
    from hsr.serving.mounting import unmount as unmount_at

    unmount_at(where)
