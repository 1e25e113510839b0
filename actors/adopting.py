"""Making a folder ours before anything is done in it, and bringing back what its ledger remembers."""

from __future__ import annotations

from pathlib import Path

from actors.context import AgentContext
from actors.presence import is_marked
from policies.errors import FormatError, StorageError
from storage.catalog.mirroring import Adopted, adopt_folder, mirror_ledger
from storage.catalog.models import EventKind, Folder
from storage.ledger_owner import Ownership


def take_possession(context: AgentContext, folder_id: int, place: Path, *, has_images: bool) -> None:
    """Make a folder this catalogue's, take in what its ledger says, and write into it what it lacks.

    A directory without an image and without our mark may be a mount point whose drive is to come: it is left alone. A
    folder that cannot be written to is read, and its images are verified; nothing is rolled up or removed in it.

    Args:
        context: surroundings.
        folder_id: the folder.
        place: its path.
        has_images: whether an image lies in it.

    Raises:
        OwnershipError: another catalogue's agent looks after it.
        CatalogError: the catalogue cannot be used.

    Crash: it is ours, and its ledger is read again.
    """
    now = context.clock()
    try:
        if not has_images and not is_marked(place):
            return
        adopted = adopt_folder(context.catalog, folder_id, now=now)
    except (StorageError, FormatError, OSError) as error:
        _note_problem(context, folder_id, str(error))
        return
    if adopted is not None:
        _note_adopted(context, folder_id, adopted)
    mirror_ledger(context.catalog, folder_id, now=now)


def _note_problem(context: AgentContext, folder_id: int, problem: str) -> None:
    """Say once why a folder cannot be made ours."""
    with context.catalog.write() as session:
        folder = session.get(Folder, folder_id, with_for_update=True)
        if folder is None or folder.ledger_problem == problem:
            return
        folder.ledger_problem = problem
        text = f"its ledger cannot be used, so that nothing is rolled up or removed in it: {problem}"
        context.note(session, EventKind.FAILED, folder.path, text, folder_id=folder_id)


def _note_adopted(context: AgentContext, folder_id: int, adopted: Adopted) -> None:
    with context.catalog.write() as session:
        folder = session.get(Folder, folder_id)
        if folder is None:
            return
        if adopted.ownership is Ownership.TAKEN_OVER:
            context.note(
                session,
                EventKind.OWNERSHIP,
                folder.path,
                "taken over from another agent",
                folder_id=folder_id,
            )
        if adopted.holds or adopted.tombstones or adopted.faults:
            text = (
                f"its ledger brought back {adopted.holds} holds and {adopted.tombstones} removed images; "
                f"{adopted.faults} of its lines cannot be read"
            )
            context.note(session, EventKind.REBUILT, folder.path, text, folder_id=folder_id)
        if adopted.freeze is not None:
            text = f"{adopted.freeze.reason}; nothing is removed, which ends {adopted.freeze.ends}"
            context.note(session, EventKind.FROZEN, folder.path, text, folder_id=folder_id)
