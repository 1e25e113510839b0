"""Rolling images up into one: begun under an attempt, merged, published, recorded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from actors.chain_view import ChainView
from actors.context import AgentContext
from actors.hints import Hints
from actors.listing import stamp_image
from actors.taking_in import take_in
from actors.trying import beginning, trying
from policies.errors import FormatError, StorageError
from policies.lifecycle import PlannedConsolidation
from policies.names import parse_image_name
from storage.catalog.attempts import Admission, Work, begin_attempt, end_attempt
from storage.catalog.leases import check_fence
from storage.catalog.models import EventKind, Folder, Image, ImageState, WorkKind
from storage.catalog.tombstones import lift_tombstones
from storage.consolidate import consolidate
from storage.folder import look_at
from storage.parts import first_part_of, part_bytes_of, part_numbers_beside
from storage.publish import storage_errors
from storage.sweep import sweep_partials
from storage.writer import Published

AGAIN_AFTER: Final = timedelta(minutes=5)
"""What could not be looked at is tried again after so long."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """Something that is not to be tried at present.

    Attributes:
        name: the file that it is about.
        reason: why, in words.
        until: when to try again (calendar); None if that is not known.
    """

    name: str
    reason: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    """One consolidation that was begun."""

    view: ChainView
    planned: PlannedConsolidation
    attempt_id: int
    fence: int

    @property
    def target(self) -> Path:
        return self.view.path / self.planned.name


def roll_up(
    context: AgentContext, hints: Hints, view: ChainView, planned: PlannedConsolidation, fence: int
) -> Blocked | None:
    """Carry a planned consolidation out, unless something stands in the way.

    Args:
        context: surroundings.
        hints: where to say what is to be done next.
        view: the chain that it was planned for.
        planned: what is to be rolled up.
        fence: of the lease.

    Returns:
        Why it was not done, and is not to be tried again in this run; None if it was done, or the chain is to be
        planned anew.

    Raises:
        CatalogError: the catalogue cannot be used.

    Crash: the result is there whole or not at all; the next scan finds which.
    """
    try:
        if _is_taken(view.path / planned.name):
            reason = f"{planned.name}, which is there already, to be taken away"
            return Blocked(planned.name, reason, view.now + AGAIN_AFTER)
    except StorageError as error:
        return Blocked(planned.name, str(error), view.now + AGAIN_AFTER)
    begun = _begin(context, view, planned, fence)
    if not isinstance(begun, _Task):
        return begun
    return _carry_out(context, hints, begun)


def _begin(
    context: AgentContext, view: ChainView, planned: PlannedConsolidation, fence: int
) -> _Task | Blocked | None:
    """Record that it begins; None if the chain changed since it was planned."""
    folder, chain = view.folder, view.chain
    begun: list[int] = []
    with beginning(context, begun) as session:
        if check_fence(session, chain.id, fence).revision != chain.revision:
            return None
        work = Work(
            WorkKind.CONSOLIDATE,
            _subject(view, planned),
            context.engine_version,
            folder_id=folder.id,
            title=f"{planned.name} in {folder.path}",
        )
        admitted = begin_attempt(session, work, context.moment())
        if admitted.admission is Admission.BEGUN:
            begun.append(admitted.attempt_id)
            lift_tombstones(session, folder.id, planned.name)
            return _Task(view, planned, admitted.attempt_id, fence)
        if admitted.newly:
            kind = EventKind.QUARANTINED if admitted.admission is Admission.QUARANTINED else EventKind.FAILED
            context.note(session, kind, planned.name, admitted.reason, folder_id=folder.id, chain_id=chain.id)
    return Blocked(planned.name, admitted.reason, admitted.retry_at)


def _is_taken(target: Path) -> bool:
    """Tell whether a result's name is in use, if only by further parts; those of a writer that crashed are removed."""
    if part_numbers_beside(target):
        with storage_errors(target.parent):
            sweep_partials(target.parent)
    return os.path.lexists(target) or bool(part_numbers_beside(target))


def _subject(view: ChainView, planned: PlannedConsolidation) -> str:
    """Name the work by its result and its source files as they are: with a source replaced it is new work."""
    sources = hashlib.sha256()
    for source in planned.sources:
        sources.update(repr(view.files[source].stamp).encode())
    return f"{view.path / planned.name} {sources.hexdigest()[:32]}"


def _carry_out(context: AgentContext, hints: Hints, task: _Task) -> Blocked | None:
    """Consolidate, then record.

    Crash: bytes come first. A result that was published but not recorded is found by the next scan.
    """
    view = task.view
    sources = [view.path / source for source in task.planned.sources]
    with trying(context, task.attempt_id, task.target.name, view.folder.id) as trial:
        try:
            published = consolidate(
                sources,
                task.target,
                roots=[view.files[source].root for source in task.planned.sources],
                part_bytes=part_bytes_of(sources),
                progress=context.report_progress,
            )
        except FormatError as error:
            if error.path is not None:
                doubt(context, view.folder, Path(error.path))
            raise
        with context.catalog.write() as session:
            image = _record(context, session, task, published)
        trial.done = True
        hints.image_landed(image.id)
    if trial.done:
        return None
    hints.folder_changed(view.folder.id)
    return Blocked(task.planned.name, trial.reason or "the agent was asked to stop", trial.again_at)


def doubt(context: AgentContext, folder: Folder, path: Path) -> None:
    """Have an image that was good and now is not verified again, so that it is known for what it is.

    Args:
        context: surroundings.
        folder: its folder.
        path: a file of it; one that does not lie in the folder is passed over.

    Crash: it is doubted or not; whoever meets it next doubts it again.
    """
    if path.parent != Path(folder.path):
        return
    with context.catalog.write() as session:
        image = _image_named(session, folder.id, first_part_of(path).name)
        if image is not None and image.state is ImageState.GOOD:
            image.state = ImageState.LANDED
            image.verified_at = image.checked_at = image.hinted_at = None


def _record(context: AgentContext, session: Session, task: _Task, published: Published) -> Image:
    chain = check_fence(session, task.view.chain.id, task.fence)
    end_attempt(session, task.attempt_id, context.holder)
    planned = task.planned
    context.note(
        session,
        EventKind.CONSOLIDATED,
        published.path.name,
        f"{_listed(planned.sources)} rolled up: {planned.reason}",
        folder_id=chain.folder_id,
        chain_id=chain.id,
        facts={
            "sources": len(planned.sources),
            "day": planned.day.isoformat(),
            "tier": planned.tier.value,
            "stored_bytes": published.stored_bytes,
            "root": published.root.hex(),
        },
    )
    stamp = stamp_image(published.path)
    name = parse_image_name(published.path.name)
    if stamp is None or name is None:
        raise StorageError("is gone as soon as it was published", path=str(published.path))
    known = _image_named(session, chain.folder_id, stamp.name)
    image = take_in(context, session, chain.folder_id, known, stamp, look_at(published.path, name))
    image.root = published.root
    image.hinted_at = context.machine_clock()
    session.flush()
    return image


def _image_named(session: Session, folder_id: int, name: str) -> Image | None:
    return session.scalar(select(Image).where(Image.folder_id == folder_id, Image.name == name))


def _listed(sources: Sequence[str]) -> str:
    if len(sources) <= 2:
        return " and ".join(sources)
    return f"{sources[0]} … {sources[-1]} ({len(sources)} images)"
