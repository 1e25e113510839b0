"""What a running agent remembers of its catalogue, should somebody delete it: who it is, and what it was told.

Images are found again in the folders, and holds in their ledgers; which folders there are, and all settings, stand in
the catalogue alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from storage.catalog.agents import agent_of
from storage.catalog.folders import add_folder, all_folders, find_folder
from storage.catalog.memory_models import Agent
from storage.catalog.models import Folder, Layer

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class RememberedFolder:
    """A managed folder, as it was told to be."""

    time_zone: str
    description: str = ""
    sort_priority: int | None = None
    credentials: str | None = None
    settings: Layer = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What was told at one moment.

    Attributes:
        uid: who the agent is; None if that was not known yet.
        settings: what is set for the agent.
        credentials: its default ones, sealed.
        folders: the managed folders, by path.
    """

    uid: str | None = None
    settings: Layer = field(default_factory=dict)
    credentials: str | None = None
    folders: Mapping[str, RememberedFolder] = field(default_factory=dict)


def remember(session: Session) -> Remembered:
    """Return what is told at present."""
    agent = session.get(Agent, 1)
    folders = {folder.path: _folder(folder) for folder in all_folders(session)}
    if agent is None:
        return Remembered(folders=folders)
    return Remembered(agent.uid, agent.settings, agent.credentials, folders)


def bring_back(session: Session, known: Remembered, *, now: datetime, machine_now: datetime) -> None:
    """Tell a new catalogue what the one before it was told; one that knows any folder is left as it is.

    Args:
        session: of a write transaction.
        known: what is remembered.
        now: calendar time.
        machine_now: real time.
    """
    if known.uid is None or all_folders(session):
        return
    agent = agent_of(session, now=now, uid=known.uid)
    agent.settings = known.settings
    agent.credentials = known.credentials
    for path, told in known.folders.items():
        if find_folder(session, Path(path)) is None:
            folder = add_folder(session, Path(path), told.time_zone, now=now, machine_now=machine_now)
            folder.description = told.description
            folder.sort_priority = told.sort_priority
            folder.credentials = told.credentials
            folder.settings = told.settings


def _folder(folder: Folder) -> RememberedFolder:
    return RememberedFolder(
        folder.time_zone, folder.description, folder.sort_priority, folder.credentials, folder.settings
    )
