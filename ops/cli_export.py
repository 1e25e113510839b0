"""`rollforward export`."""

from __future__ import annotations

import signal
from datetime import datetime
from functools import partial
from pathlib import Path

import click

from ops.interruption import Interruption
from ops.point_options import choose_point, point_options
from ops.show import plain, print_json, progress_bar, size_words
from ops.tether import tethered

_FORMATS = ("raw", "qcow2", "vhd", "vhdx", "vmdk")


@click.command(
    epilog="""\b
Examples:
  rollforward export /backup --volume WEB01 --to web01.qcow2 --format qcow2
  rollforward export /backup --volume DATA --point 17 --to data.vhdx --format vhdx
  rollforward export /backup --volume DATA --at "2026-11-20 08:00" --to data.vmdk --format vmdk --json
"""
)
@point_options
@click.option("--to", "target", required=True, type=click.Path(path_type=Path), help="The file to be made.")
@click.option("--format", "told", required=True, type=click.Choice(_FORMATS), help="Format of that file.")
@click.option("--overwrite", is_flag=True, help="Replace the file, if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def export(
    folder: Path,
    volume: str,
    point: int | None,
    at: datetime | None,
    base: int | None,
    without: tuple[str, ...],
    password_file: Path | None,
    target: Path,
    told: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write a point in time of a volume as a disk image for virtual machines: raw, qcow2, VHD, VHDX or VMDK.

    qemu-img writes it, reading the point straight from its images, so that no raw copy is made on the way. The file
    appears under its name whole, or not at all. Where a format cannot say the volume's very size, the disk is a
    little larger, and the rest of it zero. VHD holds at most 2,040 GiB.
    """
    from hsr.exchange.export import export as export_point
    from hsr.exchange.formats import DiskFormat

    chosen = choose_point(folder, volume, point, at, base, without, password_file)
    with Interruption(), progress_bar(f"Exporting point {chosen.point.number}", quiet=as_json) as progress:
        done = export_point(
            chosen.images,
            target,
            DiskFormat(told),
            tethered=partial(tethered, end=signal.SIGTERM),
            key=chosen.key,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        fields = {"path": str(done.target), "kind": "export", "status": "exported", "format": told}
        sizes = {"disk_bytes": done.disk_bytes, "stored_bytes": done.stored_bytes}
        print_json(fields | chosen.fields() | sizes)
        return
    larger = done.disk_bytes - done.volume_bytes
    click.echo(
        f"{plain(done.target)}: {plain(chosen.words)} as {told}, {size_words(done.volume_bytes)}, "
        f"{size_words(done.stored_bytes)} stored"
        + (f"; the disk is {larger:,} bytes larger than the volume, all zero" if larger else "")
    )
