"""`rollforward ls` and `rollforward cp`."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.interruption import Interruption
from ops.logs import set_up_logging
from ops.point_options import ChosenPoint, choose_point, point_options
from ops.show import plain, print_json, size_words

if TYPE_CHECKING:
    from hsr.serving.file_systems import FileSystem

_KINDS = {stat.S_IFDIR: "folder", stat.S_IFREG: "file", stat.S_IFLNK: "link"}
_PARTITION = click.option(
    "--partition", type=click.IntRange(min=1), help="Number of the partition, if there are several."
)
_CACHE_BYTES = 64 << 20


@contextlib.contextmanager
def _opened(chosen: ChosenPoint, partition: int | None) -> Iterator[FileSystem]:
    from hsr.serving.file_systems import open_file_system
    from hsr.serving.mounting import looked_into
    from hsr.serving.point import PointReader

    with (
        Interruption(),
        PointReader(chosen.images, _CACHE_BYTES, key=chosen.key) as reader,
        looked_into(reader, partition=partition) as (raw, kind),
    ):
        yield open_file_system(raw, kind)


@click.command(
    epilog="""\b
Examples:
  rollforward ls /backup --volume DATA --point 17
  rollforward ls /backup --volume DATA --at "2026-11-20 08:00" "/home/me/My Documents"
  rollforward ls /backup --volume DISK --partition 2 /etc --json
"""
)
@point_options
@click.argument("path", default="/")
@_PARTITION
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def ls(
    folder: Path,
    path: str,
    volume: str,
    point: int | None,
    at: datetime | None,
    base: int | None,
    without: tuple[str, ...],
    password_file: Path | None,
    partition: int | None,
    as_json: bool,
) -> None:
    """List PATH of an ext4 or NTFS file system at a point in time, without mounting it.

    It takes FUSE and the programs of e2fsprogs or ntfs-3g, but no root.
    """
    from hsr.serving.file_systems import find

    set_up_logging("json" if as_json else "text")
    chosen = choose_point(folder, volume, point, at, base, without, password_file)
    with _opened(chosen, partition) as system:
        entry = find(system, path)
        for each in sorted(system.entries(entry), key=lambda e: e.name) if entry.is_folder else [entry]:
            kind = _KINDS.get(stat.S_IFMT(each.mode), "other")
            if as_json:
                name = each.path.encode(errors="surrogateescape").decode(errors="backslashreplace")
                fields: dict[str, object] = {"path": name, "kind": kind, "volume": chosen.chain.volume}
                fields |= {"number": chosen.point.number, "status": "listed"}
                print_json(fields | {"size_bytes": each.size_bytes, "mode": f"{stat.S_IMODE(each.mode):04o}"})
            else:
                size = "" if each.is_folder else size_words(each.size_bytes)
                click.echo(f"{stat.filemode(each.mode)}  {size:>10}  {plain(each.name)}")


@click.command(
    epilog="""\b
Examples:
  rollforward cp /backup --volume DATA --point 17 /home/me/report.odt .
  rollforward cp /backup --volume DATA --point 17 --recursive /home/me /tmp/me-as-it-was
  rollforward cp /backup --volume DATA -- "/-rf odd name" here
"""
)
@point_options
@click.argument("path")
@click.argument("dest", type=click.Path(path_type=Path))
@_PARTITION
@click.option("-r", "--recursive", is_flag=True, help="Copy a folder, with all that is in it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def cp(
    folder: Path,
    path: str,
    dest: Path,
    volume: str,
    point: int | None,
    at: datetime | None,
    base: int | None,
    without: tuple[str, ...],
    password_file: Path | None,
    partition: int | None,
    recursive: bool,
    as_json: bool,
) -> None:
    """Copy PATH out of an ext4 or NTFS file system at a point in time to DEST.

    DEST is an existing folder, or a new name; nothing is overwritten. Times and permissions are kept, set-user-id and
    owners are not. Symbolic links are copied as links, never followed; devices and pipes are left out.
    """
    from hsr.serving.copying import copy_out
    from hsr.serving.file_systems import find

    set_up_logging("json" if as_json else "text")
    chosen = choose_point(folder, volume, point, at, base, without, password_file)
    with _opened(chosen, partition) as system:
        copied = copy_out(system, find(system, path), dest, recursive=recursive)
    if as_json:
        fields: dict[str, object] = {"path": str(dest), "kind": "copy", "status": "copied"}
        counts = {"files": copied.files, "folders": copied.folders, "size_bytes": copied.size_bytes}
        print_json(fields | chosen.fields() | counts | {"skipped": [plain(each) for each in copied.skipped]})
        return
    click.echo(
        f"{plain(dest)}: {copied.files} files, {size_words(copied.size_bytes)}, from {plain(chosen.words)}"
    )
    for each in copied.skipped:
        click.echo(f"left out, since it is neither file, folder nor link: {plain(each)}", err=True)
