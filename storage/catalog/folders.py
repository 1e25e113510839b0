"""Managed folders in the catalogue."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from storage.catalog.events import record_event
from storage.catalog.models import EventKind, Folder, Image


def add_folder(
    session: Session, path: Path, time_zone: str, *, now: datetime, machine_now: datetime
) -> Folder:
    """Manage a folder, or give one that is managed already another time zone.

    Args:
        session: of a write transaction.
        path: absolute path.
        time_zone: IANA name.
        now: calendar time.
        machine_now: real time; the folder is due for a scan from then on.
    """
    folder = session.scalar(select(Folder).where(Folder.path == str(path)))
    if folder is not None:
        folder.time_zone = time_zone
        return folder
    folder = Folder(path=str(path), time_zone=time_zone, added_at=now, rescan_at=machine_now, problem=None)
    session.add(folder)
    session.flush()
    record_event(
        session,
        EventKind.FOLDER_ADDED,
        str(path),
        f"managed from now on, days follow {time_zone}",
        at=now,
        machine_now=machine_now,
        folder_id=folder.id,
    )
    return folder


def all_folders(session: Session) -> list[Folder]:
    """Return the managed folders by path."""
    return list(session.scalars(select(Folder).order_by(Folder.path)))


def folders_due(session: Session, machine_now: datetime, *, limit: int = 5_000) -> list[int]:
    """Return which folders are to be scanned again, the longest due first."""
    due = select(Folder.id).where(Folder.rescan_at <= machine_now).order_by(Folder.rescan_at).limit(limit)
    return list(session.scalars(due))


def begin_anew(session: Session, machine_now: datetime) -> None:
    """Make every folder due for a scan at once, and forget which hints were given: their messages may be lost.

    Args:
        session: of a write transaction.
        machine_now: real time.
    """
    session.execute(update(Folder).values(rescan_at=machine_now))
    session.execute(update(Image).where(Image.hinted_at.is_not(None)).values(hinted_at=None))
