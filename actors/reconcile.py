"""Reconciling a managed folder with the catalogue: the scan that makes everything right in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from actors.adopting import take_possession
from actors.context import AgentContext
from actors.hints import Hints
from actors.listing import list_images
from actors.moot import forget_moot_work
from actors.patience import Beat, Result, patiently
from actors.presence import absence, mark
from actors.returned import look_at_returned
from actors.taking_in import KnownChains, take_in
from actors.unproven import look_again
from policies.errors import OwnershipError, StorageError
from policies.names import ImageName, parse_image_name
from storage.catalog.chains import make_due
from storage.catalog.images import FileStamp, set_gone, stamp_of
from storage.catalog.models import EventKind, Folder, Image, ImageState
from storage.folder import FoundImage, look_at
from storage.parts import group_parts

BATCH_IMAGES: Final = 300
"""So many images are looked at, then recorded in one transaction: others write between two of them."""

_TO_VERIFY: Final = (ImageState.LANDED, ImageState.VERIFYING)
_THERE: Final = (ImageState.SETTLING, *_TO_VERIFY, ImageState.GOOD, ImageState.BAD, ImageState.UNPROVEN)
_SHORTEST_PAUSE: Final = timedelta(milliseconds=200)
_HINTS_AGAIN: Final = 20
"""So many images at most are named again in one scan: a long queue needs no reminding of all of it."""

_Known = Mapping[str, tuple[FileStamp, ImageState]]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a scan saw of a folder.

    Attributes:
        stamps: image files that are there, by name.
        parts: numbers of the further parts of each image.
    """

    stamps: Mapping[str, FileStamp]
    parts: Mapping[ImageName, Sequence[int]]


def reconcile_folder(context: AgentContext, hints: Hints, folder_id: int) -> None:
    """Bring the catalogue in line with what lies in a folder, then have new images verified.

    Args:
        context: surroundings.
        hints: where to say what is to be done next.
        folder_id: the folder; one that is no longer managed is passed over.

    Raises:
        CatalogError: the catalogue cannot be used.

    Crash: what was recorded so far is in line; scanning again completes it.
    """
    with context.catalog.read() as session:
        folder = session.get(Folder, folder_id)
        if folder is None:
            return
        known = _known_in(session, folder_id)
    try:
        _reconcile(context, hints, folder, known)
    except (StorageError, OwnershipError) as error:
        _lose(context, folder_id, error.message)


def _reconcile(context: AgentContext, hints: Hints, folder: Folder, known: _Known) -> None:
    """Scan a folder.

    Raises:
        StorageError: it cannot be read, does not answer, or is not the one that is managed.
        OwnershipError: it is another agent's.
    """
    folder_id, place = folder.id, Path(folder.path)
    seen = _look(context, place, known)
    has_images = bool(seen.stamps)
    _ask(context, place, lambda _: take_possession(context, folder_id, place, has_images=has_images))
    if folder.problem is not None:
        _find_again(context, folder_id)
    is_outdated = False
    for names in _batches(_gone_names(seen, known)):
        with context.catalog.write() as session:
            is_outdated |= _record_gone(context, session, folder_id, names, known)
    for names in _batches(_new_names(seen, known)):
        found = _look_inside(context, place, names, seen)
        is_outdated |= len(found) < len(names)
        with context.catalog.write() as session:
            to_verify, passed_over = _record_found(context, session, folder_id, found, seen, known)
        is_outdated |= passed_over
        for image_id in to_verify:
            hints.image_landed(image_id)
        if context.stopping.is_set():
            return
    _ask(context, place, lambda _: look_again(context, folder_id))
    look_at_returned(context, folder_id, seen.stamps)
    forget_moot_work(context, folder_id)
    for image_id in _plan_next(context, folder_id, at_once=is_outdated):
        hints.image_landed(image_id)


def _known_in(session: Session, folder_id: int) -> dict[str, tuple[FileStamp, ImageState]]:
    query = select(Image.name, Image.stored_bytes, Image.mtime_ns, Image.state)
    rows = session.execute(query.where(Image.folder_id == folder_id))
    return {name: (FileStamp(name, size, mtime), state) for name, size, mtime, state in rows}


# --- looking


def _ask(context: AgentContext, folder: Path, work: Callable[[Beat], Result]) -> Result:
    """Touch a folder as long as it answers.

    Raises:
        StorageError: it does not; and whatever the work raises.
    """
    return patiently(str(folder), context.pace.silence.total_seconds(), work)


def _look(context: AgentContext, folder: Path, known: _Known) -> _Seen:
    """List a folder.

    Raises:
        StorageError: it cannot be read, does not answer, or is not the one that is managed.
    """
    expected = [name for name, (_, state) in known.items() if state in _THERE]

    def look(answered: Beat) -> _Seen:
        stamps = list_images(folder, answered=answered)
        parts = group_parts(entry.name for entry in folder.iterdir())
        answered()
        missing = absence(folder, stamps, expected)
        if missing is not None:
            raise StorageError(missing, path=str(folder))
        if stamps:  # an empty directory may be a mount point whose drive is to come
            mark(folder)
        return _Seen(stamps, parts)

    try:
        return _ask(context, folder, look)
    except OSError as error:
        raise StorageError(error.strerror or str(error), path=str(folder)) from error


def _look_inside(
    context: AgentContext, folder: Path, names: Sequence[str], seen: _Seen
) -> dict[str, FoundImage]:
    """Read the headers and trailers of some images; those are left out that grew complete since they were listed.

    Raises:
        StorageError: the folder does not answer.
    """

    def look(answered: Beat) -> dict[str, FoundImage]:
        found = {}
        for name in names:
            parsed = parse_image_name(name)
            if parsed is not None:
                image = look_at(folder / name, parsed, seen.parts.get(parsed, ()))
                if image.root is None or _is_as_listed(image, seen.stamps[name]):
                    found[name] = image
            answered()
        return found

    return _ask(context, folder, look)


def _is_as_listed(image: FoundImage, stamp: FileStamp) -> bool:
    """Tell whether a complete image is what was listed: a copy may have ended between listing and reading."""
    if image.stored_bytes != stamp.size_bytes:
        return False
    try:
        return image.parts > 1 or image.path.stat().st_mtime_ns == stamp.mtime_ns
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(error.strerror or str(error), path=str(image.path)) from error


def _gone_names(seen: _Seen, known: _Known) -> list[str]:
    return [name for name, (_, state) in known.items() if name not in seen.stamps and state in _THERE]


def _new_names(seen: _Seen, known: _Known) -> list[str]:
    """Name what the catalogue does not know as it is; only that is opened."""
    unknown = (None, ImageState.MISSING)
    return [
        name
        for name, stamp in seen.stamps.items()
        if known.get(name, unknown)[0] != stamp or known[name][1] in (ImageState.SETTLING, ImageState.MISSING)
    ]


def _batches(names: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(names)
    while batch := list(islice(rest, BATCH_IMAGES)):
        yield batch


# --- recording


def _rows(session: Session, folder_id: int, names: Sequence[str]) -> dict[str, Image]:
    """Load images by name, after the folder was locked: two scans of it do not record at once."""
    session.get(Folder, folder_id, with_for_update=True)
    query = select(Image).where(Image.folder_id == folder_id, Image.name.in_(names))
    return {image.name: image for image in session.scalars(query)}


def _record_gone(
    context: AgentContext, session: Session, folder_id: int, names: Sequence[str], known: _Known
) -> bool:
    """Record that files are gone; tell whether somebody else recorded something of one of them meanwhile."""
    rows = _rows(session, folder_id, names)
    is_outdated = False
    for name in names:
        image = rows.get(name)
        if image is None or image.state not in _THERE:
            continue
        if stamp_of(image) != known[name][0]:
            is_outdated = True
            continue
        _gone(context, session, image)
    return is_outdated


def _gone(context: AgentContext, session: Session, image: Image) -> None:
    set_gone(image, context.clock())
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


def _record_found(
    context: AgentContext,
    session: Session,
    folder_id: int,
    found: Mapping[str, FoundImage],
    seen: _Seen,
    known: _Known,
) -> tuple[list[int], bool]:
    """Record what was looked at; return whom to verify, and whether somebody else recorded something meanwhile."""
    if session.get(Folder, folder_id) is None:
        return [], False
    rows = _rows(session, folder_id, list(found))
    taken, is_outdated = [], False
    chains = KnownChains(session, folder_id, context.clock())
    for name, image_found in found.items():
        row, stamp = rows.get(name), seen.stamps[name]
        if row is not None and stamp_of(row) not in (stamp, known[name][0] if name in known else stamp):
            is_outdated = True
            continue
        taken.append(take_in(context, session, folder_id, row, stamp, image_found, chains=chains))
    session.flush()
    fresh = [image for image in taken if image.state in _TO_VERIFY and image.hinted_at is None]
    for image in fresh:
        image.hinted_at = context.machine_clock()
    return [image.id for image in fresh], is_outdated


def _lose(context: AgentContext, folder_id: int, problem: str) -> None:
    """A folder that cannot be read says nothing of its images: they stay as they are. It is told once."""
    with context.catalog.write() as session:
        folder = session.get(Folder, folder_id, with_for_update=True)
        if folder is None:
            return
        folder.rescan_at = context.machine_clock() + context.pace.settle_time
        if folder.problem is None:
            context.note(session, EventKind.FOLDER_LOST, folder.path, problem, folder_id=folder.id)
        folder.problem = problem


def _find_again(context: AgentContext, folder_id: int) -> None:
    with context.catalog.write() as session:
        folder = session.get(Folder, folder_id, with_for_update=True)
        if folder is None or folder.problem is None:
            return
        folder.problem = None
        context.note(session, EventKind.FOLDER_BACK, folder.path, "can be read again", folder_id=folder.id)


# --- what is next


def _plan_next(context: AgentContext, folder_id: int, *, at_once: bool) -> list[int]:
    """Set when to scan again; return the images that no worker has begun to verify for long, to be named again."""
    machine_now = context.machine_clock()
    with context.catalog.write() as session:
        folder = session.get(Folder, folder_id)
        if folder is None:
            return []
        again = _to_verify_again(context, session, folder_id, machine_now)
        soonest = machine_now if at_once else _next_scan(context, session, folder_id, machine_now)
        folder.rescan_at = max(soonest, machine_now + _SHORTEST_PAUSE)
    return again


def _to_verify_again(
    context: AgentContext, session: Session, folder_id: int, machine_now: datetime
) -> list[int]:
    since = machine_now - context.pace.hint_again
    query = select(Image).where(Image.folder_id == folder_id, Image.state.in_(_TO_VERIFY))
    never = list(session.scalars(query.where(Image.hinted_at.is_(None))))
    late = query.where(Image.hinted_at <= since).order_by(Image.still_since).limit(_HINTS_AGAIN)
    chosen = never + list(session.scalars(late))
    for image in chosen:
        image.hinted_at = machine_now
    return [image.id for image in chosen]


def _next_scan(context: AgentContext, session: Session, folder_id: int, machine_now: datetime) -> datetime:
    """Choose when to scan again without an event: soon while something is under way."""
    pace = context.pace
    times = [machine_now + pace.rescan_interval]
    waiting = (ImageState.SETTLING, *_TO_VERIFY)
    query = select(Image.state, Image.still_since, Image.hinted_at)
    rows = session.execute(query.where(Image.folder_id == folder_id, Image.state.in_(waiting)))
    for state, still_since, hinted_at in rows:
        if state is ImageState.SETTLING:
            times.append(still_since + pace.settle_time)
        else:
            times.append((hinted_at or machine_now) + pace.hint_again)
    return min(times)
