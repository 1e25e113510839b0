"""The list of managed folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import click
from rich.table import Table
from rich.text import Text

from ops.show import plain, print_json, size_words
from ops.words import age_words
from storage.catalog.models import Folder, ImageState
from storage.catalog.status import FolderCounts, Tally


def print_folders(
    folders: Sequence[Folder], counts: Mapping[int, FolderCounts], now: datetime, *, as_json: bool
) -> None:
    """Print the managed folders.

    Args:
        folders: the folders, in their order.
        counts: what each holds.
        now: calendar time, for ages.
        as_json: one JSON object a folder.
    """
    if as_json:
        for folder in folders:
            print_json(_fields(folder, counts.get(folder.id, FolderCounts())))
        return
    if not folders:
        click.echo("No folder is managed yet: rollforward folder add PATH")
        return
    from ops.screen import screen

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("prio", justify="right", no_wrap=True)
    table.add_column("folder", overflow="fold", min_width=20)
    for word in ("images", "size", "newest"):
        table.add_column(word, justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    for folder in folders:
        table.add_row(*_cells(folder, counts.get(folder.id, FolderCounts()), now))
    screen().print(table)


def _cells(folder: Folder, counts: FolderCounts, now: datetime) -> tuple[Text, ...]:
    there = _there(counts)
    newest = "-" if folder.newest_image_at is None else age_words(now - folder.newest_image_at)
    name = Text(plain(folder.path))
    if folder.description:
        name.append(f"\n{plain(folder.description)}", "dim")
    state = Text(_state(folder, counts), "" if _is_well(folder, counts) else "red")
    priority = "" if folder.sort_priority is None else str(folder.sort_priority)
    return (
        Text(priority),
        name,
        Text(f"{there.images:,}"),
        Text(size_words(there.stored_bytes)),
        Text(newest),
        state,
    )


def _there(counts: FolderCounts) -> Tally:
    return sum(counts.by_tier.values(), Tally())


def _is_well(folder: Folder, counts: FolderCounts) -> bool:
    return folder.problem is None and folder.ledger_problem is None and ImageState.BAD not in counts.by_state


def _state(folder: Folder, counts: FolderCounts) -> str:
    if folder.problem is not None:
        return plain(f"cannot be read: {folder.problem}")
    if folder.ledger_problem is not None:
        return plain(f"its ledger cannot be used: {folder.ledger_problem}")
    bad = counts.by_state.get(ImageState.BAD)
    return "good" if bad is None else f"{bad.images:,} bad"


def _fields(folder: Folder, counts: FolderCounts) -> dict[str, object]:
    there = _there(counts)
    return {
        "path": folder.path,
        "kind": "folder",
        "status": "managed" if folder.problem is None else "lost",
        "reason": folder.problem or folder.ledger_problem,
        "description": folder.description,
        "time_zone": folder.time_zone,
        "sort_priority": folder.sort_priority,
        "images": there.images,
        "stored_bytes": there.stored_bytes,
        "bad": counts.by_state.get(ImageState.BAD, Tally()).images,
        "newest_image_at": None if folder.newest_image_at is None else folder.newest_image_at.isoformat(),
    }
