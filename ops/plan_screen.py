"""What `rollforward plan` prints of a chain: what is due, what waits, what is frozen, what comes next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, tzinfo

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ops.chain_views import ChainView
from ops.show import plain, print_json
from ops.words import age_words, moment_words
from policies.consolidating import PlannedConsolidation
from policies.retention import PlannedRetirement

_ROWS = 8
"""So many lines of a kind are shown unless all are asked for."""

_Line = tuple[str, str, str]
"""What is done, with which file, and why."""


def print_plan(view: ChainView, console: Console, *, every: bool) -> None:
    """Print what is to be done with a chain.

    Args:
        view: the chain.
        console: where to.
        every: every line, not just the first of each kind.
    """
    plan = view.plan
    lines = [
        *_shortened([("verify", one.name, one.reason) for one in plan.verifications], every),
        *_shortened([_rollup_line(one) for one in plan.consolidations], every),
        *_shortened([_removal_line(one) for one in plan.retirements], every),
        *_shortened([("waits", one.subject, one.reason) for one in plan.waits], every),
    ]
    heading = Text(f"  {plain(view.title)}", "bold")
    heading.append(f"   {_summary(view)}", "dim")
    console.print(heading)
    if lines:
        console.print(Padding(_table(lines), (0, 0, 0, 4)))
    for freeze in plan.freezes:
        words = (
            f"frozen since {moment_words(freeze.since, view.facts.zone)}: {freeze.reason}; ends {freeze.ends}"
        )
        console.print(Padding(Text(plain(words), "yellow"), (0, 0, 0, 4)))
    console.print(Padding(Text(_next_words(view), "dim"), (0, 0, 0, 4)))


def print_plan_lines(view: ChainView) -> None:
    """Print what is to be done with a chain as JSON, one object a line."""
    common: dict[str, object] = {
        "path": view.folder.path,
        "volume": view.chain.volume,
        "base": view.chain.base_number,
    }
    for fields in _lines_of(view):
        print_json(common | fields)


def suspended_words(view: ChainView) -> str | None:
    """Say why the daily work is not done by itself; None if it is."""
    if not view.control.enabled:
        return "the daily work is switched off (control.enabled); `rollforward start` does it once"
    if not view.policy.consolidation.enabled:
        return "nothing is rolled up or removed here (consolidation.enabled is off)"
    return None


def _lines_of(view: ChainView) -> Iterator[dict[str, object]]:
    plan = view.plan
    for check in plan.verifications:
        yield _due("verify", check.name, check.reason)
    for made in plan.consolidations:
        further = {"sources": list(made.sources), "tier": made.tier.value, "points": len(made.covers)}
        yield {**_due("consolidate", made.name, made.reason), **further}
    for gone in plan.retirements:
        further = {"covered_by": gone.covered_by, "to_incrementals": gone.to_incrementals}
        yield {**_due("retire", gone.name, gone.reason), **further}
    for wait in plan.waits:
        yield {**_due("wait", wait.subject, wait.reason), "status": "waiting", "until": _iso(wait.until)}
    for freeze in plan.freezes:
        yield {
            "kind": "freeze",
            "status": "frozen",
            "freeze": freeze.kind.value,
            "reason": freeze.reason,
            "since": _iso(freeze.since),
            "ends": freeze.ends,
            "until": _iso(freeze.ends_at),
        }
    yield {
        "kind": "next",
        "status": "idle" if plan.is_idle else "due",
        "next_due_at": _iso(plan.next_due_at),
        "started": view.chain.started_at is not None,
        "reason": suspended_words(view),
    }


def _due(kind: str, file: str, reason: str) -> dict[str, object]:
    return {"kind": kind, "status": "due", "file": file, "reason": reason}


def _rollup_line(made: PlannedConsolidation) -> _Line:
    count = len(made.sources)
    images = "1 image" if count == 1 else f"{count:,} images"
    return "roll up", made.name, f"from {images}: {made.reason}"


def _removal_line(gone: PlannedRetirement) -> _Line:
    return ("move" if gone.to_incrementals else "remove"), gone.name, gone.reason


def _shortened(lines: Sequence[_Line], every: bool) -> Iterable[_Line]:
    if every or len(lines) <= _ROWS:
        return lines
    rest = len(lines) - _ROWS + 1
    return [*lines[: _ROWS - 1], (lines[0][0], f"… {rest:,} more", "--all shows them")]


def _table(lines: Iterable[_Line]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("file", overflow="fold", min_width=20)
    table.add_column("why", overflow="fold", min_width=30)
    before, reason = "", ""
    for what, name, why in lines:
        first = Text(what if what != before else "", _COLOURS[what])
        table.add_row(first, Text(plain(name)), Text(plain(why) if why != reason else '"', "dim"))
        before, reason = what, why
    return table


_COLOURS = {"verify": "cyan", "roll up": "green", "remove": "red", "move": "red", "waits": "yellow"}


def _summary(view: ChainView) -> str:
    plan = view.plan
    counted = (
        (len(plan.verifications), "to verify"),
        (len(plan.consolidations), "to roll up"),
        (len(plan.retirements), "to remove"),
        (len(plan.waits), "waiting"),
    )
    words = [f"{count:,} {what}" for count, what in counted if count]
    return ", ".join(words) or "nothing is due"


def _next_words(view: ChainView) -> str:
    suspended = suspended_words(view)
    if suspended is not None and view.chain.started_at is None:
        return suspended
    if view.plan.next_due_at is None:
        return "nothing becomes due by time alone"
    return f"next: {_when(view.plan.next_due_at, view.now, view.facts.zone)}"


def _when(moment: datetime, now: datetime, zone: tzinfo) -> str:
    return f"{moment_words(moment, zone)}, in {age_words(moment - now)}"


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def no_folder_yet() -> None:
    """Say that no folder is managed."""
    click.echo("No folder is managed yet: rollforward folder add PATH")
