"""Building a lost catalogue anew from the folders and their ledgers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from sqlalchemy import func, select

from actors.context import AgentContext
from actors.hints import Hints, Job
from actors.listing import list_images
from actors.presence import is_marked
from actors.reconcile import reconcile_folder
from ops.agent_identity import settle_identity
from ops.clock import Clock, machine_now, parse_clock
from ops.folder_place import refuse_overlap
from ops.settings import Settings
from ops.state_dir import clock_of_running_agent, make_state_dir, prepare_catalogue
from policies.errors import BusyError, ConfigurationError, RollforwardError, StorageError
from storage.catalog.database import Catalog
from storage.catalog.events import record_event
from storage.catalog.folders import add_folder, all_folders, find_folder
from storage.catalog.mirroring import Adopted, adopt_folder, mirror_ledger
from storage.catalog.models import EventKind, Folder, Image, ImageState
from storage.ledger_owner import refuse_another
from storage.publish import storage_errors, sync_folder

_BESIDE: Final = ("", "-wal", "-shm")
"""What SQLite's files end in."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What became of a folder.

    Attributes:
        path: the folder.
        adopted: what its ledger said; None if it was taken in before, or an error was in the way.
        images: how many images were found in it.
        ledger_problem: why its ledger cannot be written; None if it can.
        error: why it was not taken in; None if it was.
    """

    path: str
    adopted: Adopted | None = None
    images: int = 0
    ledger_problem: str | None = None
    error: RollforwardError | None = None


class _Silence(Hints):
    """Sends nothing: the agent looks at everything when it starts."""

    def __init__(self) -> None:
        self._reaches = True

    def _send(self, job: Job, subject_id: int) -> bool:
        return True


def set_catalogue_aside(settings: Settings, clock: Clock) -> Path | None:
    """Give an old catalogue another name, so that a new one begins; nothing of it is deleted.

    Args:
        settings: say where it is.
        clock: calendar time, part of the new name.

    Returns:
        Where it is now; None if there was none.

    Raises:
        ConfigurationError: it is not a file.
        StorageError: the state directory refuses.

    Crash: it has the one name or the other, perhaps without what was written last: SQLite keeps that beside it.
    """
    path = Catalog(settings.catalogue_url).path
    if path is None:
        raise ConfigurationError(
            "only a catalogue in a file can be set aside",
            hint="Make an empty database, and name it with ROLLFORWARD_CATALOGUE.",
        )
    if not os.path.lexists(path):
        return None
    aside = path.with_name(f"{path.name}.before-{clock():%Y%m%dT%H%M%SZ}")
    with storage_errors(path):
        if os.path.lexists(aside):
            raise StorageError("is there already", path=str(aside))
        for ending in reversed(
            _BESIDE
        ):  # what was written last goes first: the file alone is never mistaken for whole
            with suppress(FileNotFoundError):
                Path(f"{path}{ending}").rename(f"{aside}{ending}")
        sync_folder(path.parent)
    return aside


def rebuild(settings: Settings, folders: Sequence[Path], *, take_over: bool = False) -> Iterator[Rebuilt]:
    """Take folders into the catalogue: what their ledgers say, and the images that lie in them.

    Args:
        settings: say where the catalogue is, and which time zone new folders follow.
        folders: folders to be managed, besides those that the catalogue knows.
        take_over: whether folders that are another agent's become ours.

    Yields:
        What became of each folder, by path.

    Raises:
        BusyError: the agent runs.
        ConfigurationError: a folder lies in a managed one, or holds one.
        CatalogError: the catalogue cannot be used.

    Crash: folders that were not reached are taken in the next time.
    """
    make_state_dir(settings.state_dir)
    refuse_while_running(settings)
    clock = parse_clock(settings.clock)
    catalog = prepare_catalogue(settings.catalogue_url)
    try:
        uid = settle_identity(catalog, settings.state_dir, clock())
        for path in folders:
            try:
                refuse_another(path, uid, take_over=take_over)
            except RollforwardError as error:
                yield Rebuilt(str(path), error=error)
                continue
            with catalog.write() as session:
                if find_folder(session, path) is None:
                    refuse_overlap(path, [Path(folder.path) for folder in all_folders(session)])
                    add_folder(session, path, settings.time_zone, now=clock(), machine_now=machine_now())
        with catalog.read() as session:
            found = all_folders(session)
        context = AgentContext(catalog, clock, machine_now, version("rollforward"))
        for folder in found:
            yield _rebuild_folder(context, folder, take_over=take_over)
    finally:
        catalog.close()


def refuse_while_running(settings: Settings) -> None:
    """Make sure that no agent works with the catalogue.

    Raises:
        BusyError: one runs on this state directory.
    """
    if clock_of_running_agent(settings.state_dir) is not None:
        raise BusyError(
            "the agent runs, and does this by itself when its catalogue is lost",
            path=str(settings.state_dir),
            hint="Stop it first, or let it go on.",
        )


def _refuse_if_away(path: Path) -> None:
    """Make sure that a folder is there: an empty directory may be a mount point whose drive is to come."""
    with storage_errors(path):
        images = list_images(path)
    if not images and not is_marked(path):
        raise StorageError(
            "holds no image, and no mark of ours",
            path=str(path),
            hint="Is its drive, or share, mounted? Build it anew once it is.",
        )


def _rebuild_folder(context: AgentContext, folder: Folder, *, take_over: bool) -> Rebuilt:
    try:
        _refuse_if_away(Path(folder.path))
        adopted = adopt_folder(context.catalog, folder.id, now=context.clock(), take_over=take_over)
    except RollforwardError as error:
        return Rebuilt(folder.path, error=error)
    reconcile_folder(context, _Silence(), folder.id)
    if adopted is not None:
        with context.catalog.write() as session:
            record_event(
                session,
                EventKind.REBUILT,
                folder.path,
                f"taken into the catalogue with {adopted.holds} holds and {adopted.tombstones} removed images",
                at=context.clock(),
                machine_now=context.machine_clock(),
                folder_id=folder.id,
                facts={"ownership": adopted.ownership.value, "faults": adopted.faults},
            )
    problem = mirror_ledger(context.catalog, folder.id, now=context.clock())
    with context.catalog.read() as session:
        there = (Image.folder_id == folder.id, Image.state != ImageState.MISSING)
        images = session.scalar(select(func.count()).select_from(Image).where(*there)) or 0
    return Rebuilt(folder.path, adopted, images, problem)
