"""The picture of days to come that `rollforward plan --days` draws: files, bytes and points, stacked by tier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops.show import size_words
from policies.forecast import Tally
from policies.names import Tier

Tallies = Mapping[Tier | None, Tally]
"""What there is, by tier; the base, and full images, under None."""

_HEIGHT: Final = 7
_MARGIN: Final = 12
"""Columns left of a chart: a number of the scale, a blank, the axis."""

_LOOKS: Final[Mapping[Tier | None, tuple[str, str, str]]] = {
    None: ("█", "grey62", "base, full"),
    Tier.ROLLING: ("▓", "magenta", "rolling"),
    Tier.MONTHLY: ("▒", "blue", "monthly"),
    Tier.WEEKLY: ("#", "cyan", "weekly"),
    Tier.DAILY: ("+", "green", "daily"),
    Tier.INCREMENTAL: (":", "yellow", "incremental"),
}
"""Sign, colour and word of each tier, from the bottom up: what stays longest lies lowest."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """What there is on one day.

    Attributes:
        day: the local day.
        tallies: what there is as it begins; on the first, what there is now.
    """

    day: date
    tallies: Tallies


_Measure = Callable[[Tally], int]

_CHARTS: Final[tuple[tuple[str, _Measure, bool], ...]] = (
    ("bytes", lambda tally: tally.stored_bytes, True),
    ("files", lambda tally: tally.files, False),
    ("points", lambda tally: tally.points, False),
)


def draw_forecast(sheets: Sequence[Sheet], console: Console) -> None:
    """Draw what there will be.

    Args:
        sheets: day after day; the first is what there is now. At least two.
        console: where to; charts are as wide as it is, up to one column a day.
    """
    tiers = [tier for tier in _LOOKS if any(tier in sheet.tallies for sheet in sheets)]
    width = max(min(console.width - _MARGIN - 2, 100), 10)
    columns = [sheets[round(step * (len(sheets) - 1) / (width - 1))] for step in range(width)]
    for title, measure, is_size in _CHARTS:
        console.print(Text(title, "bold"))
        for line in _chart(columns, tiers, measure, is_size):
            console.print(line, soft_wrap=True)
    console.print(_days_line(columns))
    console.print()
    console.print(_table(sheets, tiers))


def _chart(
    columns: Sequence[Sheet], tiers: Sequence[Tier | None], measure: _Measure, is_size: bool
) -> list[Text]:
    heights = [[_measured(sheet, tier, measure) for tier in tiers] for sheet in columns]
    top = max(max(sum(height) for height in heights), 1)
    stacks = [_stack(height, tiers, top) for height in heights]
    lines = []
    for row in reversed(range(_HEIGHT)):
        label = {_HEIGHT - 1: _scale_words(top, is_size), 0: "0"}.get(row, "")
        line = Text(f"{label:>{_MARGIN - 3}} ")
        line.append("┤" if label else "│", "dim")
        looks = (_LOOKS[stack[row]][:2] if row < len(stack) else (" ", "") for stack in stacks)
        for (sign, colour), run in groupby(looks):
            line.append(sign * sum(1 for _ in run), colour)
        lines.append(line)
    return lines


def _stack(heights: Sequence[int], tiers: Sequence[Tier | None], top: int) -> list[Tier | None]:
    """Give the tier of each row of a column, from the bottom up.

    A row belongs to the tier that its middle lies in; what is there at all is never shorter than one row in all.
    """
    total = sum(heights)
    rows: list[Tier | None] = []
    for row in range(_HEIGHT):
        middle = (row + 0.5) / _HEIGHT * top
        below = 0
        for tier, height in zip(tiers, heights, strict=True):
            below += height
            if middle < below:
                rows.append(tier)
                break
    if not rows and total:
        largest = max(range(len(heights)), key=heights.__getitem__)
        rows.append(tiers[largest])
    return rows


def _days_line(columns: Sequence[Sheet]) -> Text:
    """Name the months, or in a short picture the days, below their first column."""
    places = [" "] * (len(columns) + 8)
    free_from = 0
    is_long = (columns[-1].day - columns[0].day).days > 60
    for place, sheet in enumerate(columns):
        before = columns[place - 1].day if place else None
        if before is not None and (before.month == sheet.day.month if is_long else before == sheet.day):
            continue
        words = _day_words(sheet.day, is_first=place == 0, is_long=is_long)
        if place >= free_from and place + len(words) <= len(columns) + 1:
            places[place : place + len(words)] = words
            free_from = place + len(words) + 1
    return Text(" " * (_MARGIN - 1) + "".join(places).rstrip(), "dim")


def _day_words(day: date, *, is_first: bool, is_long: bool) -> str:
    if not is_long:
        return f"{day:%d %b}"
    return f"{day:%b %Y}" if is_first or day.month == 1 else f"{day:%b}"


def _table(sheets: Sequence[Sheet], tiers: Sequence[Tier | None]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for when in ("now", f"{sheets[-1].day:%Y-%m-%d}"):
        for title, _, _ in (_CHARTS[1], _CHARTS[0], _CHARTS[2]):
            words = f"{when}\n{title}" if title == "files" else f"\n{title}"
            table.add_column(words, justify="right", no_wrap=True)
    ends = (sheets[0], sheets[-1])
    for tier in reversed(tiers):
        sign, colour, words = _LOOKS[tier]
        row: list[str | Text] = [Text(f"{sign} {words}", colour)]
        row.extend(cell for sheet in ends for cell in _cells(sheet.tallies.get(tier, Tally())))
        table.add_row(*row)
    totals = [_total(sheet.tallies) for sheet in ends]
    table.add_row(Text("  all", "bold"), *(Text(cell, "bold") for total in totals for cell in _cells(total)))
    return table


def _cells(tally: Tally) -> tuple[str, str, str]:
    if not tally.files:
        return "-", "", ""
    return f"{tally.files:,}", size_words(tally.stored_bytes), f"{tally.points:,}"


def _total(tallies: Tallies) -> Tally:
    held = tallies.values()
    return Tally(
        sum(one.files for one in held), sum(one.stored_bytes for one in held), sum(one.points for one in held)
    )


def _measured(sheet: Sheet, tier: Tier | None, measure: _Measure) -> int:
    return measure(sheet.tallies[tier]) if tier in sheet.tallies else 0


def _scale_words(top: int, is_size: bool) -> str:
    return size_words(top) if is_size else f"{top:,}"
