"""What commands print: JSON lines for scripts, words and progress bars for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.words import plain as plain
from ops.words import size_words as size_words
from policies.assuming import AssumedGap
from policies.errors import RollforwardError
from policies.names import ImageName, parse_image_name
from policies.points import Point, PointId, Span
from policies.reach import Fork, Gap
from storage.header import ImageHeader
from storage.pipeline import Progress, no_progress

if TYPE_CHECKING:
    from storage.writer import Published

_LINE_KEYS = (
    "path",
    "kind",
    "volume",
    "number",
    "point",
    "parent",
    "time",
    "volume_bytes",
    "stored_bytes",
    "changed_bytes",
    "status",
    "reason",
    "root",
    "parts",
    "encrypted",
)
"""Every line of JSON has these keys, in this order; null where they say nothing."""


def image_fields(
    path: Path,
    header: ImageHeader | None,
    *,
    kind: str,
    stored_bytes: int,
    changed_bytes: int,
    status: str,
    reason: str | None = None,
    root: bytes | None = None,
    parts: int = 1,
) -> dict[str, object]:
    """Gather what `--json` says of an image, in its stable order.

    Args:
        path: the file; of a spanned set, its first part.
        header: its header, if it could be read.
        kind: base, full, incremental, differential, consolidated, daily, weekly, monthly, rolling or unknown.
        stored_bytes: its size, all its parts together.
        changed_bytes: plain size of its granules.
        status: good, bad, written, ….
        reason: why it is bad.
        root: its identity.
        parts: how many files it is in.
    """
    name = parse_image_name(path.name)
    return {
        "path": str(path),
        "kind": kind,
        "volume": volume_of(name, header),
        "number": header.end.number if header else (name.point_number if name else None),
        "point": header.end.id.hex() if header else None,
        "parent": header.start.id.hex() if header and header.start else None,
        "time": header.end.time.isoformat() if header else None,
        "volume_bytes": header.end.volume_bytes if header else None,
        "stored_bytes": stored_bytes,
        "changed_bytes": changed_bytes,
        "status": status,
        "reason": reason,
        "root": root.hex() if root else None,
        "parts": parts,
        "encrypted": header.encrypted if header else None,
    }


def published_fields(made: Published, kind: str) -> dict[str, object]:
    """Gather what `--json` says of an image that was just written; see `image_fields`."""
    return image_fields(
        made.path,
        made.header,
        kind=kind,
        stored_bytes=made.stored_bytes,
        changed_bytes=made.changed_bytes,
        status="written",
        root=made.root,
        parts=made.parts,
    )


def volume_of(name: ImageName | None, header: ImageHeader | None) -> str | None:
    """Return the volume of an image: the header's word, else the name's."""
    if header is not None and header.volume:
        return header.volume
    return name.volume if name else None


def gap_words(gap: Gap) -> str:
    """Say what a gap means."""
    after = (
        "nothing before it can be restored"
        if gap.after is None
        else f"the last one before is {gap.after.number}"
    )
    bridged = "; an image passes over it" if gap.bridged else ""
    return f"nothing leads to point {gap.missing.number} ({after}){bridged}"


def assumed_gap_words(gap: AssumedGap) -> str:
    """Say what a gap among names means; the names of files are all that is known of it."""
    return f"no file's name leads to the point that {', '.join(gap.waiting)} should lead on from"


def way_words(span: Span) -> str:
    """Say where a span leads: "→ 0" for a base, "4 → 5" for others."""
    return f"→ {span.end.number}" if span.start is None else f"{span.start.number} → {span.end.number}"


def fork_words(fork: Fork) -> str:
    """Say where lines part."""
    children = " and ".join(str(child.number) for child in fork.children)
    return f"the line parts after point {fork.point.number}: {children}"


def print_json(fields: dict[str, object]) -> None:
    """Print one JSON object on one line: the common keys first, then those of its own."""
    whole = dict.fromkeys(_LINE_KEYS) | fields
    line = json.dumps(whole, ensure_ascii=False)
    click.echo(line if plain(line) == line else json.dumps(whole).replace("\x7f", "\\u007f"))


def show_error(error: RollforwardError, *, as_json: bool) -> None:
    """Print an error: in words on standard error, or as a JSON line on standard output."""
    if as_json:
        print_json(
            {
                "path": error.path,
                "kind": "error",
                "status": "error",
                "reason": str(error),
                "hint": error.hint,
                "error": type(error).__name__,
            }
        )
        return
    click.echo(f"{click.style('error:', fg='red', bold=True)} {plain(error)}", err=True)
    if error.hint:
        click.echo(f"       {plain(error.hint)}", err=True)


@contextmanager
def progress_bar(words: str, *, quiet: bool) -> Iterator[Progress]:
    """Show a progress bar on standard error while a person watches.

    Args:
        words: what is under way.
        quiet: show none (for `--json`).

    Yields:
        What to call with (done_bytes, total_bytes).
    """
    if quiet or not sys.stderr.isatty():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(plain(words), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def points_of(spans: Sequence[Span]) -> list[Point]:
    """List the points that images lead from and to, by number."""
    known: dict[PointId, Point] = {}
    for span in spans:
        if span.start is not None:
            known.setdefault(span.start.id, span.start)
        known.update({point.id: point for point in span.covers})
    return sorted(known.values(), key=lambda point: (point.number, point.time, point.id))
