"""Reconciling a managed folder with the catalogue: the scan that makes everything right in the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy.orm import Session

from actors.context import AgentContext
from actors.hints import Hints
from actors.listing import list_images
from actors.taking_in import take_in
from policies.names import parse_image_name
from storage.catalog.chains import make_due
from storage.catalog.images import FileStamp, images_in_folder, stamp_of
from storage.catalog.models import EventKind, Folder, Image, ImageState
from storage.folder import FoundImage, look_at
from storage.parts import group_parts

_TO_VERIFY: Final = (ImageState.LANDED, ImageState.VERIFYING)
_SHORTEST_PAUSE: Final = timedelta(milliseconds=200)
_HINTS_AGAIN: Final = 20
"""So many images at most are named again in one scan: a long queue needs no reminding of all of it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a scan saw of a folder.

    Attributes:
        stamps: image files that are there, by name.
        found: headers and trailers of those that are new, changed or not settled.
        problem: why the folder could not be read; None if it was.
    """

    stamps: Mapping[str, FileStamp]
    found: Mapping[str, FoundImage]
    problem: str | None = None


def reconcile_folder(context: AgentContext, hints: Hints, folder_id: int) -> None:
    """Bring the catalogue in line with what lies in a folder, then have new images verified.

    Args:
        context: surroundings.
        hints: where to say what is to be done next.
        folder_id: the folder; one that is no longer managed is passed over.

    Raises:
        CatalogError: the catalogue cannot be used.

    Crash: the catalogue is as before, or in line; scanning again completes it.
    """
    with context.catalog.read() as session:
        folder = session.get(Folder, folder_id)
        if folder is None:
            return
        images = images_in_folder(session, folder_id)
    known = {name: (stamp_of(image), image.state) for name, image in images.items()}
    seen = _look(Path(folder.path), known)
    with context.catalog.write() as session:
        folder = session.get(Folder, folder_id)
        if folder is None:
            return
        to_verify = _record(context, session, folder, seen)
    for image_id in to_verify:
        hints.image_landed(image_id)


def _look(folder: Path, known: Mapping[str, tuple[FileStamp, ImageState]]) -> Seen:
    """List a folder; open only what the catalogue does not know as it is."""
    try:
        stamps = list_images(folder)
        parts = group_parts(entry.name for entry in folder.iterdir())
    except OSError as error:
        return Seen({}, {}, error.strerror or str(error))
    unknown = [
        name
        for name, stamp in stamps.items()
        if name not in known
        or known[name][0] != stamp
        or known[name][1] in (ImageState.SETTLING, ImageState.MISSING)
    ]
    found = {}
    for name in unknown:
        parsed = parse_image_name(name)
        if parsed is not None:
            found[name] = look_at(folder / name, parsed, parts.get(parsed, ()))
    return Seen(stamps, found)


def _record(context: AgentContext, session: Session, folder: Folder, seen: Seen) -> list[int]:
    """Write down what was seen; return the images that a worker is to be told to verify."""
    machine_now = context.machine_clock()
    if seen.problem is not None:
        _folder_lost(context, session, folder, seen.problem)
        return []
    if folder.problem is not None:
        context.note(session, EventKind.FOLDER_BACK, folder.path, "can be read again", folder_id=folder.id)
        folder.problem = None
    images = images_in_folder(session, folder.id)
    for name, image in images.items():
        if name not in seen.stamps and image.state is not ImageState.MISSING:
            _gone(context, session, image)
    for name, stamp in seen.stamps.items():
        images[name] = take_in(context, session, folder.id, images.get(name), stamp, seen.found.get(name))
    session.flush()
    hinted = _choose_to_verify(context, images.values(), machine_now)
    folder.rescan_at = _next_scan(context, images.values(), machine_now)
    return hinted


def _folder_lost(context: AgentContext, session: Session, folder: Folder, problem: str) -> None:
    """A folder that cannot be read says nothing of its images: they stay as they are."""
    folder.rescan_at = context.machine_clock() + context.pace.settle_time
    if folder.problem != problem:
        context.note(session, EventKind.FOLDER_LOST, folder.path, problem, folder_id=folder.id)
        folder.problem = problem


def _gone(context: AgentContext, session: Session, image: Image) -> None:
    image.state = ImageState.MISSING
    image.reason = "the file is gone"
    context.note(
        session,
        EventKind.MISSING,
        image.name,
        "the file is gone",
        folder_id=image.folder_id,
        chain_id=image.chain_id,
    )
    if image.chain_id is not None:
        make_due(session, image.chain_id, context.clock())


def _choose_to_verify(context: AgentContext, images: Iterable[Image], machine_now: datetime) -> list[int]:
    """Choose the images to be verified that no worker was told of, or that none has begun for long."""
    waiting = [image for image in images if image.state in _TO_VERIFY]
    fresh = [image for image in waiting if image.hinted_at is None]
    stale = [
        image
        for image in waiting
        if image.hinted_at is not None and image.hinted_at + context.pace.hint_again <= machine_now
    ]
    chosen = fresh + sorted(stale, key=lambda image: image.still_since)[:_HINTS_AGAIN]
    for image in chosen:
        image.hinted_at = machine_now
    return [image.id for image in chosen]


def _next_scan(context: AgentContext, images: Iterable[Image], machine_now: datetime) -> datetime:
    """Choose when to scan again without an event: soon while something is under way."""
    pace = context.pace
    times = [machine_now + pace.rescan_interval]
    for image in images:
        if image.state is ImageState.SETTLING:
            times.append(image.still_since + pace.settle_time)
        elif image.state in _TO_VERIFY:
            times.append((image.hinted_at or machine_now) + pace.hint_again)
    return max(min(times), machine_now + _SHORTEST_PAUSE)
