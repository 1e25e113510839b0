"""Managed folders in the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from policies.folder_policy import FolderPolicy, parse_folder_policy
from storage.catalog.agents import agent_policy
from storage.catalog.chains import make_folder_due
from storage.catalog.events import record_event
from storage.catalog.folder_order import in_order
from storage.catalog.freezes import drop_waivers
from storage.catalog.models import Attempt, EventKind, Folder, Image, Layer

NO_PRIORITY: Final = -1
"""Takes a folder's sort priority away."""


@dataclass(frozen=True, slots=True)
class FolderTraits:
    """What a person may say of a folder, its settings apart; None leaves it as it is.

    Attributes:
        time_zone: IANA name; days, weeks and months follow it.
        description: words on it.
        sort_priority: folders with a smaller number, 0 to 255, come first; `NO_PRIORITY` for none.
        credentials: as `Folder.credentials`; empty for none.
    """

    time_zone: str | None = None
    description: str | None = None
    sort_priority: int | None = None
    credentials: str | None = None


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
    folder = Folder(
        path=str(path),
        time_zone=time_zone,
        added_at=now,
        rescan_at=machine_now,
        description="",
        sort_priority=None,
        settings={},
        settings_revision=0,
    )
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


def find_folder(session: Session, path: Path) -> Folder | None:
    """Return the managed folder of a path; None if it is not managed."""
    return session.scalar(select(Folder).where(Folder.path == str(path)))


def describe_folder(session: Session, folder: Folder, traits: FolderTraits) -> None:
    """Record what a person says of a folder; with another time zone its chains are due for planning.

    Args:
        session: of a write transaction.
        folder: the folder.
        traits: what is said.
    """
    if traits.time_zone is not None and traits.time_zone != folder.time_zone:
        folder.time_zone = traits.time_zone
        make_folder_due(session, folder.id)
    if traits.description is not None:
        folder.description = traits.description
    if traits.sort_priority is not None:
        folder.sort_priority = None if traits.sort_priority == NO_PRIORITY else traits.sort_priority
    if traits.credentials is not None:
        folder.credentials = traits.credentials or None


def folder_policy(session: Session, folder: Folder) -> FolderPolicy:
    """Return what a folder is told to do: its own settings over the agent's over what is built in.

    Raises:
        ConfigurationError: what is stored is no setting of this version.
    """
    return parse_folder_policy(folder.settings, agent_policy(session).folders, where=folder.path)


def set_folder_settings(session: Session, folder: Folder, layer: Layer) -> FolderPolicy:
    """Replace a folder's own settings; its chains are due for planning then.

    Args:
        session: of a write transaction.
        folder: the folder.
        layer: all that is set for it alone, as `policies.folder_policy.folder_layer` writes it.

    Returns:
        What holds from now on.

    Raises:
        ConfigurationError: there is no such setting, or its value is not allowed; nothing is changed.
    """
    policy = parse_folder_policy(layer, agent_policy(session).folders, where=folder.path)
    if folder.settings != layer:
        folder.settings = layer
        folder.settings_revision += 1
        make_folder_due(session, folder.id)
    return policy


def remove_folder(session: Session, folder: Folder, *, now: datetime, machine_now: datetime) -> None:
    """Manage a folder no longer: all that is known of it is forgotten; its files and its ledger stay.

    Args:
        session: of a write transaction. Give the folder up with `ledger_owner.give_up` first.
        folder: the folder.
        now: calendar time.
        machine_now: real time.
    """
    record_event(
        session,
        EventKind.FOLDER_REMOVED,
        folder.path,
        "no longer managed; its files stay",
        at=now,
        machine_now=machine_now,
    )
    drop_waivers(session, folder.id)
    session.execute(delete(Attempt).where(Attempt.folder_id == folder.id))
    session.delete(folder)


def all_folders(session: Session) -> list[Folder]:
    """Return the managed folders in the order of `in_order`."""
    return list(session.scalars(select(Folder).order_by(*in_order())))


def folders_due(session: Session, machine_now: datetime, *, limit: int = 5_000) -> list[int]:
    """Return which folders are to be scanned again, in the order of `in_order`; of too many the longest due."""
    due = select(Folder.id).where(Folder.rescan_at <= machine_now).order_by(Folder.rescan_at).limit(limit)
    longest = due.subquery()
    return list(
        session.scalars(select(Folder.id).join(longest, longest.c.id == Folder.id).order_by(*in_order()))
    )


def begin_anew(session: Session, machine_now: datetime) -> None:
    """Make every folder due for a scan at once, and forget which hints were given: their messages may be lost.

    Args:
        session: of a write transaction.
        machine_now: real time.
    """
    session.execute(update(Folder).values(rescan_at=machine_now))
    session.execute(update(Image).where(Image.hinted_at.is_not(None)).values(hinted_at=None))
