"""What `folder show` shows of a managed folder: whose images it holds, how large it is, what is left on its device."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops.folder_place import answered
from ops.setting_rows import SettingRow, folder_rows
from ops.setting_table import print_settings, setting_fields
from ops.show import plain, print_json, size_words
from policies.names import ImageName, Tier, parse_image_name
from storage.catalog.agents import agent_policy
from storage.catalog.chains import chains_of_folder
from storage.catalog.memory_models import Agent
from storage.catalog.models import Folder, ImageState
from storage.catalog.status import FolderCounts, counts_by_folder
from storage.credentials import user_in

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_BAR: Final = 56
_BASES_MAX: Final = 64
"""So many bases at most are asked which machine they come from."""
_PARTS: Final = (("█", "cyan", "this folder"), ("▒", "yellow", "all else"), ("·", "dim", "free"))
"""Sign, colour and word of the parts of a device, in the order of the picture."""


@dataclass(frozen=True, slots=True)
class Room:
    """How a folder fills its device.

    Attributes:
        folder_bytes: what the folder takes, everything in it together.
        image_files: files of images that lie in it, each part of a set by itself.
        device_bytes: size of the device.
        free_bytes: what is free on it for ordinary users.
        problem: why it cannot be told; None if it can.
    """

    folder_bytes: int = 0
    image_files: int = 0
    device_bytes: int = 0
    free_bytes: int = 0
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class FolderCard:
    """All that is shown of a folder.

    Attributes:
        folder: its row.
        computers: names of the machines that its images come from, as far as headers tell.
        volumes: names of volumes, each with its chains.
        counts: its images, as the catalogue knows them.
        room: how it fills its device.
        credentials: whose they are; None for none.
        rows: its settings.
    """

    folder: Folder
    computers: tuple[str, ...]
    volumes: tuple[str, ...]
    counts: FolderCounts
    room: Room
    credentials: str | None
    rows: tuple[SettingRow, ...]


def card_of(session: Session, folder: Folder) -> FolderCard:
    """Gather what is shown of a folder; looks at its files, too.

    Args:
        session: any session.
        folder: its row.

    Raises:
        ConfigurationError: what is stored of it is no setting of this version.
    """
    volumes = {
        _volume_words(chain.volume, chain.base_number) for chain in chains_of_folder(session, folder.id)
    }
    path = Path(folder.path)
    try:
        names = answered(lambda: _names(path), path)
        room = answered(lambda: _room(path, len(names)), path)
        volumes.update(_volume_words(name.volume, name.base) for name in names)
        computers = answered(lambda: _computers(path, _bases(names)), path)
    except OSError as error:
        room, computers = Room(problem=error.strerror or str(error)), ()
    return FolderCard(
        folder=folder,
        computers=computers,
        volumes=tuple(sorted(volumes)),
        counts=counts_by_folder(session).get(folder.id, FolderCounts()),
        room=room,
        credentials=_credentials(session, folder),
        rows=folder_rows(folder.settings, agent_policy(session)),
    )


def print_card(card: FolderCard, *, as_json: bool) -> None:
    """Print a card, as words and a picture or as one JSON object."""
    if as_json:
        print_json(_fields(card))
        return
    from ops.screen import screen

    console = screen()
    folder = card.folder
    console.print(Text(plain(folder.path), "bold"))
    console.print(_lines(card))
    if card.room.problem is None:
        _draw_room(card.room, console)
    console.print()
    print_settings(card.rows, console, below="agent")


def _lines(card: FolderCard) -> Table:
    folder = card.folder
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column("", no_wrap=True, style="dim")
    table.add_column("", overflow="fold")
    rows = {
        "description": folder.description,
        "source computer": ", ".join(card.computers) or "not known",
        "volumes": ", ".join(card.volumes) or "none yet",
        "image files": f"{card.room.image_files:,}" if card.room.problem is None else "not known at present",
        "of these": _tier_words(card.counts),
        "in trouble": _trouble_words(card.counts),
        "state": _state_words(card),
        "time zone": folder.time_zone,
        "sort priority": "off" if folder.sort_priority is None else str(folder.sort_priority),
        "credentials": card.credentials or "none",
    }
    for word, value in rows.items():
        if value:
            table.add_row(f"  {word}", Text(plain(value)))
    return table


def _state_words(card: FolderCard) -> str:
    folder = card.folder
    since = f"managed since {folder.added_at:%Y-%m-%d}"
    problem = card.room.problem or folder.problem
    if problem is not None:
        return f"cannot be read at present: {problem}; {since}"
    if folder.ledger_problem is not None:
        return f"its ledger cannot be used, so nothing is removed: {folder.ledger_problem}; {since}"
    return since


def _tier_words(counts: FolderCounts) -> str:
    named = [(tier, counts.by_tier[tier]) for tier in Tier if tier in counts.by_tier]
    words = (f"{tally.images:,} {tier.value} ({size_words(tally.stored_bytes)})" for tier, tally in named)
    return ", ".join(words).replace(Tier.INCREMENTAL.value, "base or incremental")


def _trouble_words(counts: FolderCounts) -> str:
    troubles = {ImageState.BAD: "bad", ImageState.MISSING: "gone"}
    found = [
        (words, counts.by_state[state].images)
        for state, words in troubles.items()
        if state in counts.by_state
    ]
    return ", ".join(f"{images:,} {words}" for words, images in found)


def _draw_room(room: Room, console: Console) -> None:
    total = max(room.device_bytes, 1)
    shares = (room.folder_bytes, max(total - room.free_bytes - room.folder_bytes, 0), room.free_bytes)
    bar, legend = Text("\n  "), Text("  ")
    for width, (sign, colour, _) in zip(_widths(shares, total), _PARTS, strict=True):
        bar.append(sign * width, colour)
    for size, (sign, colour, words) in zip(shares, _PARTS, strict=True):
        legend.append(f"{sign} ", colour)
        legend.append(f"{words} {size_words(size)}   ")
    bar.append(f"  {size_words(room.device_bytes)}")
    console.print(bar)
    console.print(legend)


def _widths(shares: Sequence[int], total: int) -> list[int]:
    """Share the bar out; what is there at all gets one column at least."""
    widths = [min(max(round(share / total * _BAR), 1 if share else 0), _BAR) for share in shares]
    widths[widths.index(max(widths))] += _BAR - sum(widths)
    return widths


def _fields(card: FolderCard) -> dict[str, object]:
    folder = card.folder
    problem = card.room.problem or folder.problem
    return {
        "path": folder.path,
        "kind": "folder",
        "status": "managed" if problem is None else "lost",
        "reason": problem,
        "description": folder.description,
        "time_zone": folder.time_zone,
        "sort_priority": folder.sort_priority,
        "credentials": card.credentials,
        "computers": list(card.computers),
        "volumes": list(card.volumes),
        "added_at": folder.added_at.isoformat(),
        "images": {state.value: tally.images for state, tally in card.counts.by_state.items()},
        "tiers": {tier.value: tally.images for tier, tally in card.counts.by_tier.items()},
        "image_files": card.room.image_files,
        "folder_bytes": card.room.folder_bytes,
        "device_bytes": card.room.device_bytes,
        "free_bytes": card.room.free_bytes,
        "settings": [setting_fields(row) for row in card.rows],
    }


def _names(path: Path) -> list[ImageName]:
    """Read the names of the image files in a folder, parts of sets among them."""
    with os.scandir(path) as entries:
        names = (parse_image_name(entry.name) for entry in entries)
        return [name for name in names if name is not None]


def _bases(names: Iterable[ImageName]) -> list[ImageName]:
    return [name for name in names if name.extension == "spf" and not name.part][:_BASES_MAX]


def _volume_words(volume: str, base: int) -> str:
    return f"{volume} b{base:03d}"


def _room(path: Path, image_files: int) -> Room:
    device = os.statvfs(path)
    return Room(
        folder_bytes=_size_of(path),
        image_files=image_files,
        device_bytes=device.f_blocks * device.f_frsize,
        free_bytes=device.f_bavail * device.f_frsize,
    )


def _size_of(path: Path) -> int:
    """Add up what all files below a folder take; what vanishes meanwhile, or may not be looked at, counts nothing."""
    size = 0
    for here, _, names in os.walk(path):
        for name in names:
            try:
                size += os.lstat(os.path.join(here, name)).st_size  # noqa: PTH118 - a Path a file is slow
            except OSError:
                continue
    return size


def _computers(path: Path, bases: Sequence[ImageName]) -> tuple[str, ...]:
    """Read from the bases which machines the images come from; encrypted ones do not tell."""
    from storage.folder import look_at

    found = set()
    for name in bases:
        header = look_at(path / name.filename(), name).header
        computer = None if header is None or header.encrypted else header.metadata.get("computer")
        if isinstance(computer, str) and computer:
            found.add(computer)
    return tuple(sorted(found))


def _credentials(session: Session, folder: Folder) -> str | None:
    if folder.credentials is not None:
        return f"{user_in(folder.credentials)} (its own)"
    agent = session.get(Agent, 1)
    return (
        None if agent is None or agent.credentials is None else f"{user_in(agent.credentials)} (the agent's)"
    )
