"""The list of holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from rich.table import Table
from rich.text import Text

from ops.show import plain, print_json
from ops.words import moment_words
from storage.catalog.memory_models import StoredHold
from storage.catalog.models import Folder


@dataclass(frozen=True, slots=True)
class Held:
    """A hold as it is shown.

    Attributes:
        stored: its row.
        what: the file's name, or the point in words.
    """

    stored: StoredHold
    what: str


def print_holds(
    found: Sequence[Held], folders: Mapping[int, Folder], status: str, now: datetime, *, as_json: bool
) -> None:
    """Print holds.

    Args:
        found: the holds.
        folders: all managed folders, by number.
        status: what became of them, in a word.
        now: calendar time.
        as_json: one JSON object a hold.
    """
    if as_json:
        for held in found:
            print_json(_fields(held, folders[held.stored.folder_id], status, now))
        return
    from ops.screen import screen

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("no.", justify="right", no_wrap=True)
    for heading in (status, "until", "by, since, why"):
        table.add_column(heading, overflow="fold")
    for held in found:
        stored = held.stored
        folder = folders[stored.folder_id]
        zone = ZoneInfo(folder.time_zone)
        what = Text(plain(held.what))
        what.append(f"\n{plain(folder.path)}", "dim")
        why = Text(plain(f"{stored.placed_by}, {moment_words(stored.placed_at, zone)}"))
        why.append(f"\n{plain(stored.reason)}", "dim")
        table.add_row(str(stored.id), what, _until(stored, zone, now), why)
    screen().print(table)


def _until(stored: StoredHold, zone: ZoneInfo, now: datetime) -> str:
    if stored.until is None:
        return "it is released"
    return f"{moment_words(stored.until, zone)}{'' if stored.until > now else ' (over)'}"


def _fields(held: Held, folder: Folder, status: str, now: datetime) -> dict[str, object]:
    stored = held.stored
    is_over = stored.until is not None and stored.until <= now
    return {
        "path": folder.path,
        "kind": "hold",
        "point": stored.point,
        "status": "over" if is_over else status,
        "reason": stored.reason,
        "hold": stored.id,
        "held": held.what,
        "file": stored.name,
        "by": stored.placed_by,
        "since": stored.placed_at.isoformat(),
        "until": None if stored.until is None else stored.until.isoformat(),
    }
