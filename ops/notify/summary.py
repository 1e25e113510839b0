"""The daily summary: every folder, what happened in it during the last day, and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ops.notify.letter import FolderLine
from ops.observe.space import Space
from storage.catalog.folders import all_folders
from storage.catalog.models import Event, EventKind, ImageState
from storage.catalog.status import FolderCounts, counts_by_folder

FOLDERS_MAX: Final = 200
"""So many folders a summary names one by one: those in trouble, then the most important ones."""

_SPAN: Final = timedelta(days=1)
_WORDS: Final[Mapping[EventKind, str]] = {
    EventKind.LANDED: "landed",
    EventKind.VERIFIED: "verified",
    EventKind.FOUND_BAD: "found bad",
    EventKind.CONSOLIDATED: "rolled up",
    EventKind.RETIRED: "retired",
    EventKind.FAILED: "failed",
}


def folder_lines(
    session: Session, now: datetime, spaces: Mapping[str, Space]
) -> tuple[list[FolderLine], int]:
    """Tell what a summary says of the folders.

    Args:
        session: any session.
        now: calendar time.
        spaces: devices that could be measured, by folder.

    Returns:
        A line for each, `FOLDERS_MAX` at most; and how many folders there are.
    """
    happened = _happened(session, now)
    counts = counts_by_folder(session)
    folders = sorted(all_folders(session), key=lambda folder: folder.problem is None)
    lines = []
    for folder in folders[:FOLDERS_MAX]:
        held = counts.get(folder.id, FolderCounts())
        present = [
            tally
            for state, tally in held.by_state.items()
            if state not in (ImageState.MISSING, ImageState.ASIDE)
        ]
        space = spaces.get(folder.path)
        lines.append(
            FolderLine(
                path=folder.path,
                images=sum(tally.images for tally in present),
                stored_bytes=sum(tally.stored_bytes for tally in present),
                free_bytes=space.free_bytes if space else None,
                size_bytes=space.size_bytes if space else None,
                newest_at=folder.newest_image_at,
                counts=happened.get(folder.id, {}),
                problem=folder.problem or "",
            )
        )
    return lines, len(folders)


def _happened(session: Session, now: datetime) -> dict[int, dict[str, int]]:
    query = (
        select(Event.folder_id, Event.kind, func.count())
        .where(Event.at > now - _SPAN, Event.at <= now, Event.kind.in_(_WORDS))
        .group_by(Event.folder_id, Event.kind)
    )
    found: dict[int, dict[EventKind, int]] = {}
    for folder_id, kind, number in session.execute(query):
        if folder_id is not None:
            found.setdefault(folder_id, {})[kind] = number
    return {
        folder_id: {words: numbers[kind] for kind, words in _WORDS.items() if kind in numbers}
        for folder_id, numbers in found.items()
    }
