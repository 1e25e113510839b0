"""The picture that `rollforward chain` draws: points downward, images as bars beside them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ops.part_size import parts_words
from ops.show import (
    assumed_gap_words,
    fork_words,
    gap_words,
    plain,
    points_of,
    size_words,
    way_words,
)
from ops.words import VERDICT_COLOURS
from policies.assuming import assumed_gaps
from policies.points import Point, PointId, Span
from policies.reach import forks, gaps, reachable
from storage.chain import Chain
from storage.folder import FoundImage
from storage.ledger_entries import RestoreTestEntry

_LANES_MAX = 8
_PLAIN_WIDTH = 400
"""Columns where nobody watches: enough for any name."""


def draw_chain(
    chain: Chain,
    rows: int | None,
    console: Console | None = None,
    *,
    tests: Mapping[str, RestoreTestEntry] | None = None,
) -> None:
    """Draw a chain.

    Args:
        chain: what to draw.
        rows: how many of the newest points; None for all.
        console: where to; standard output if not given.
        tests: the last restore test of each point that was tested, by its identity.
    """
    out = console or Console(highlight=False, emoji=False)
    if not out.is_terminal:
        out.width = _PLAIN_WIDTH
    points = points_of(chain.spans)
    total = size_words(sum(image.stored_bytes for image in chain.images))
    kind = ", encrypted" if any(image.header and image.header.encrypted for image in chain.images) else ""
    out.print(
        f"[bold]{escape(plain(chain.volume))}[/bold]  chain b{chain.base:03d}: {len(points)} points in time, "
        f"{len(chain.images)} images, {total}{kind}"
    )
    first = 0 if rows is None else max(len(points) - rows, 0)
    if first:
        out.print(f"  … {first} earlier points; --all shows them")
    if points:
        out.print(_table(chain, points, first, tests or {}))
    for gap in gaps(chain.spans):
        out.print(f"[yellow]gap:[/yellow]  {gap_words(gap)}")
    for fork in forks(chain.spans):
        out.print(f"[yellow]fork:[/yellow] {fork_words(fork)}")
    if chain.foreign:
        out.print("in ShadowProtect's own container, known by name alone; the ways are assumed:")
        out.print(_foreign_table(chain))
        for found in assumed_gaps(chain.assumed_spans):
            out.print(f"[yellow]gap by name:[/yellow]  {escape(plain(assumed_gap_words(found)))}")
    for image in chain.unusable:
        if image.is_foreign:
            continue
        words = plain(f"{image.path.name}: {image.problem}")
        out.print(f"[red]bad:[/red]  {escape(words)}")


def _table(chain: Chain, points: Sequence[Point], first: int, tests: Mapping[str, RestoreTestEntry]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    shown = any(point.id.hex() in tests for point in points[first:])
    for heading in ("", "point", "taken", *(["tested"] if shown else []), ""):
        table.add_column(heading, no_wrap=True)
    table.add_column("image", overflow="fold")
    table.add_column("kind", no_wrap=True)
    table.add_column("stored", justify="right", no_wrap=True)
    reached = reachable(chain.spans)
    lanes = _lanes(chain.spans, points)
    ending: dict[PointId, list[FoundImage]] = defaultdict(list)
    for image in chain.images:
        if image.usable and image.header is not None:
            ending[image.header.end.id].append(image)
    for row, point in list(enumerate(points))[first:]:
        mark = Text("●", "green") if point.id in reached else Text("○", "red")
        taken = point.time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        images = sorted(ending[point.id], key=lambda image: (len(image.span().covers), image.path.name))
        tested = [_tested(tests.get(point.id.hex()))] if shown else []
        table.add_row(mark, str(point.number), taken, *tested, Text(lanes[row], "cyan"), *_cells(images[:1]))
        for image in images[1:]:
            table.add_row("", "", "", *([""] if shown else []), "", *_cells([image]))
    return table


def _tested(entry: RestoreTestEntry | None) -> Text:
    if entry is None:
        return Text("")
    when = entry.tested_at.astimezone().strftime("%Y-%m-%d")
    return Text(f"{entry.verdict} {when}", VERDICT_COLOURS[entry.verdict])


def _foreign_table(chain: Chain) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("image", overflow="fold")
    for heading in ("kind", "assumed way", "side file"):
        table.add_column(heading, no_wrap=True)
    table.add_column("stored", justify="right", no_wrap=True)
    for image, span in zip(chain.foreign, chain.assumed_spans, strict=True):
        there = Text("none", "yellow") if not image.side_files else Text(plain(", ".join(image.side_files)))
        size = size_words(image.stored_bytes) + parts_words(image.parts)
        table.add_row(Text(plain(image.path.name)), image.kind, way_words(span), there, size)
    return table


def _cells(images: Sequence[FoundImage]) -> tuple[str | Text, str, str]:
    if not images:
        return "", "", ""
    image = images[0]
    return Text(plain(image.path.name)), image.kind, size_words(image.stored_bytes) + parts_words(image.parts)


def _lanes(spans: Sequence[Span], points: Sequence[Point]) -> list[str]:
    """For each point, the bars of the images that pass it: short ones left, those that fit no lane left out."""
    place = {point.id: row for row, point in enumerate(points)}
    columns: list[list[str]] = []
    for first, last in sorted(_stretches(spans, place), key=lambda rows: (rows[1] - rows[0], rows)):
        free = (lane for lane in columns if all(mark == " " for mark in lane[first : last + 1]))
        lane = next(free, None)
        if lane is None:
            if len(columns) == _LANES_MAX:
                continue
            lane = [" "] * len(points)
            columns.append(lane)
        lane[first : last + 1] = ["┐", *"│" * (last - first - 1), "┘"]
    return ["".join(marks) for marks in zip(*columns, strict=True)] if columns else [""] * len(points)


def _stretches(spans: Sequence[Span], place: dict[PointId, int]) -> list[tuple[int, int]]:
    """Rows (first, last) of the images that reach over more than one point."""
    rows = ((0 if span.start is None else place[span.start.id] + 1, place[span.end.id]) for span in spans)
    return [(first, last) for first, last in rows if last > first]
