"""Retiring images, in an order that loses nothing wherever it is stopped.

    commit *retiring*, with the root ─▶ ledger ─▶ move the files, each if it is the marked one ─▶ commit the tombstone
        ─▶ 24 hours of grace, less if room is short ─▶ delete the files ─▶ commit that

What was begun and must not be, because deletion was frozen meanwhile, is undone. What lies in its grace comes back if
what covers it is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from actors.chain_view import ChainView
from actors.consolidate import AGAIN_AFTER, Blocked, doubt
from actors.context import AgentContext
from actors.hints import Hints
from actors.trying import beginning, trying
from policies.errors import FormatError, StorageError
from policies.lifecycle import PlannedRetirement
from storage.catalog.attempts import Admission, Work, begin_attempt, end_attempt
from storage.catalog.leases import check_fence
from storage.catalog.memory_models import Tombstone
from storage.catalog.mirroring import mirror_ledger
from storage.catalog.models import Chain, EventKind, Folder, Image, ImageState, WorkKind
from storage.catalog.tombstones import (
    GRACE,
    Removal,
    begin_retirements,
    in_grace,
    is_covered,
    marks_of,
    record_brought_back,
    record_deleted,
    record_moved,
    retiring_tombstones,
)
from storage.retired import MoveOutcome, Place, bring_back, delete_aside, identify, move_aside
from storage.room import free_percent

AT_ONCE: Final = 50
"""So many images are retired in one transaction at most."""

_UNPROVEN: Final = (ImageState.SETTLING, ImageState.LANDED, ImageState.VERIFYING)


@dataclass(slots=True)
class Progress:
    """What came of a step.

    Attributes:
        done: how many images were dealt with.
        blocked: those that are not to be tried again in this run.
        next_at: when there is more to do by time alone (calendar); None for never.
    """

    done: int = 0
    blocked: list[Blocked] = field(default_factory=list)
    next_at: datetime | None = None


def begin_removals(
    context: AgentContext, view: ChainView, fence: int, given_up: Collection[str] = ()
) -> Progress:
    """Commit to removing what a plan retires, as much as is taken in one go; nothing is moved by this.

    Args:
        context: surroundings.
        view: the chain and its plan.
        fence: of the lease.
        given_up: images that are not to be tried in this run.

    Returns:
        How many removals were begun; none if the chain changed since it was planned.

    Raises:
        CatalogError: the catalogue cannot be used.

    Crash: nothing happened, or the removals are begun, and the next run finishes them.
    """
    progress = Progress()
    removals = []
    for planned in [one for one in view.plan.retirements if one.name not in given_up][:AT_ONCE]:
        found = _removal(context, view, planned)
        if isinstance(found, Removal):
            removals.append(found)
        else:
            progress.blocked.append(found)
    if removals:
        progress.done = _commit(context, view, fence, removals)
    return progress


def _removal(context: AgentContext, view: ChainView, planned: PlannedRetirement) -> Removal | Blocked:
    """Look at the image once more; one that is not what was verified is doubted, and stays."""
    path = view.path / planned.name
    try:
        found = identify(path)
    except StorageError as error:
        return Blocked(planned.name, str(error), view.now + AGAIN_AFTER)
    except FormatError as error:
        doubt(context, view.folder, path)
        return Blocked(planned.name, str(error))
    if found.root != view.files[planned.name].root:
        doubt(context, view.folder, path)
        return Blocked(planned.name, "is not the image that was verified")
    return Removal(planned, found.root, found.files)


def _commit(context: AgentContext, view: ChainView, fence: int, removals: list[Removal]) -> int:
    folder_id, chain_id = view.folder.id, view.chain.id
    with context.catalog.write() as session:
        if session.get_one(Folder, folder_id).ledger_problem is not None:
            return 0
        stones = begin_retirements(
            session, chain_id, removals, fence=fence, revision=view.chain.revision, now=view.now
        )
        for stone in stones:
            context.note(
                session,
                EventKind.RETIRING,
                stone.name,
                stone.reason,
                folder_id=folder_id,
                chain_id=chain_id,
                facts={"stored_bytes": stone.stored_bytes, "root": stone.root.hex()},
            )
        return len(stones)


def finish_removals(context: AgentContext, hints: Hints, view: ChainView, fence: int) -> Progress | None:
    """Move away what is to be removed; or undo that, if deletion is frozen by now.

    Args:
        context: surroundings.
        hints: where to say that a folder is to be looked at.
        view: the chain.
        fence: of the lease.

    Returns:
        What came of it; None if no removal was under way.

    Raises:
        CatalogError: the catalogue cannot be used.

    Crash: some are moved, some not; the next run finishes the rest, and finds what was moved already.
    """
    with context.catalog.read() as session:
        stones = retiring_tombstones(session, chain_id=view.chain.id)
    if not stones:
        return None
    problem = mirror_ledger(context.catalog, view.folder.id, now=view.now)
    progress = Progress()
    for stone in stones:
        if context.stopping.is_set():
            break
        is_undone = bool(view.plan.freezes)
        if problem is not None and not is_undone:
            reason = f"the folder's ledger: {problem}"
            progress.blocked.append(Blocked(stone.name, reason, view.now + AGAIN_AFTER))
            continue
        step = _undo if is_undone else _move
        blocked = _attempt(context, view, fence, WorkKind.RETIRE, stone, step)
        progress.done += blocked is None
        progress.blocked.extend([] if blocked is None else [blocked])
    mirror_ledger(context.catalog, view.folder.id, now=view.now)
    if progress.done:
        hints.folder_changed(view.folder.id)
    return progress


_Step = Callable[[AgentContext, Place, Tombstone], Callable[[Session], None]]
"""Does something with files, and returns what records it."""


def _attempt(
    context: AgentContext, view: ChainView, fence: int, kind: WorkKind, stone: Tombstone, step: _Step
) -> Blocked | None:
    """Do a step under an attempt, and record it; tell what keeps it from being done."""
    folder = view.folder
    work = Work(
        kind,
        f"{folder.path} {stone.token}",
        context.engine_version,
        folder_id=folder.id,
        title=f"{stone.name} in {folder.path}",
    )
    begun: list[int] = []
    with beginning(context, begun) as session:
        check_fence(session, view.chain.id, fence)
        admitted = begin_attempt(session, work, context.moment())
        if admitted.admission is Admission.BEGUN:
            begun.append(admitted.attempt_id)
        if admitted.admission is not Admission.BEGUN and admitted.newly:
            kind_of_event = (
                EventKind.QUARANTINED if admitted.admission is Admission.QUARANTINED else EventKind.FAILED
            )
            context.note(session, kind_of_event, stone.name, admitted.reason, folder_id=folder.id)
    if admitted.admission is not Admission.BEGUN:
        return Blocked(stone.name, admitted.reason, admitted.retry_at)
    with trying(context, admitted.attempt_id, stone.name, folder.id) as trial:
        record = step(context, Place(Path(folder.path), stone.token, stone.to_incrementals), stone)
        with context.catalog.write() as session:
            check_fence(session, view.chain.id, fence)
            end_attempt(session, admitted.attempt_id, context.holder)
            record(session)
        trial.done = True
    if trial.done:
        return None
    return Blocked(stone.name, trial.reason or "the agent was asked to stop", trial.again_at)


def _move(context: AgentContext, place: Place, stone: Tombstone) -> Callable[[Session], None]:
    outcome = move_aside(place, marks_of(stone))

    def record(session: Session) -> None:
        now = context.clock()
        if outcome is MoveOutcome.DONE:
            if record_moved(session, stone.id, now=now) is not None:
                where = (
                    "into Incrementals"
                    if stone.to_incrementals
                    else "out of the folder; deleted after a grace"
                )
                _note(context, session, EventKind.RETIRED, stone, f"moved {where}: {stone.reason}")
            return
        if record_brought_back(session, stone.id, now=now) is not None:
            found = {
                MoveOutcome.CHANGED: "another file has its name: it is left as it is",
                MoveOutcome.GONE: "it is gone already, and nobody of ours took it away",
            }[outcome]
            _note(context, session, EventKind.BROUGHT_BACK, stone, f"not retired: {found}")

    return record


def _undo(context: AgentContext, place: Place, stone: Tombstone) -> Callable[[Session], None]:
    return _brought_back(context, place, stone, "not retired: deletion is frozen")


def _return(context: AgentContext, place: Place, stone: Tombstone) -> Callable[[Session], None]:
    return _brought_back(context, place, stone, f"brought back: {stone.covered_by}, which holds it, is lost")


def _brought_back(
    context: AgentContext, place: Place, stone: Tombstone, text: str
) -> Callable[[Session], None]:
    outcome = bring_back(place, marks_of(stone))
    if outcome is MoveOutcome.CHANGED:
        raise StorageError(
            "is not all there any more, and cannot be brought back",
            path=str(place.folder.joinpath(*place.way)),
            hint="Look what became of its parts.",
        )

    def record(session: Session) -> None:
        if record_brought_back(session, stone.id, now=context.clock()) is not None:
            gone = "; it is gone already" if outcome is MoveOutcome.GONE else ""
            _note(context, session, EventKind.BROUGHT_BACK, stone, text + gone)

    return record


def _note(context: AgentContext, session: Session, kind: EventKind, stone: Tombstone, text: str) -> None:
    context.note(
        session,
        kind,
        stone.name,
        text,
        folder_id=stone.folder_id,
        chain_id=stone.chain_id,
        facts={"stored_bytes": stone.stored_bytes, "root": stone.root.hex()},
    )


# --- when the grace has ended


def delete_retired(context: AgentContext, hints: Hints, view: ChainView, fence: int) -> Progress:
    """Delete what was retired, once its grace has ended, or sooner if room is short; bring back what is needed again.

    Of an image that no chain is known for, because the catalogue was built anew, any chain of its folder takes care.

    Args:
        context: surroundings.
        hints: where to say that a folder is to be looked at.
        view: the chain; while deletion is frozen, nothing is deleted.
        fence: of the lease.

    Returns:
        What came of it, and when the next grace ends.

    Raises:
        CatalogError: the catalogue cannot be used.

    Crash: fewer files of an image are left; the next run deletes the rest.
    """
    progress = Progress()
    with context.catalog.read() as session:
        stones = [
            stone for stone in in_grace(session, view.folder.id) if stone.chain_id in (None, view.chain.id)
        ]
    if not stones:
        return progress
    is_short = _is_short(view)
    for stone in stones:
        ends_at = (stone.retired_at or view.now) + GRACE
        is_due = is_short or ends_at <= view.now
        if not is_due:
            progress.next_at = min(progress.next_at or ends_at, ends_at)
        if context.stopping.is_set() or not (is_due or view.is_in_trouble):
            continue
        step = _what_to_do(context, view, stone, is_due=is_due)
        if step is None:
            continue
        kind = WorkKind.DELETE if step is _delete else WorkKind.RETIRE
        blocked = _attempt(context, view, fence, kind, stone, step)
        progress.done += blocked is None
        progress.blocked.extend([] if blocked is None else [blocked])
    if progress.done:
        mirror_ledger(context.catalog, view.folder.id, now=view.now)
        hints.folder_changed(view.folder.id)
    return progress


def _what_to_do(context: AgentContext, view: ChainView, stone: Tombstone, *, is_due: bool) -> _Step | None:
    """Choose between deleting an image, bringing it back, and leaving it where it is."""
    with context.catalog.read() as session:
        if is_covered(session, stone):
            return _delete if is_due and not view.plan.freezes else None
        chains = select(Chain.id).where(Chain.folder_id == stone.folder_id)
        unproven = (
            select(func.count())
            .select_from(Image)
            .where(Image.chain_id.in_(chains), Image.state.in_(_UNPROVEN))
        )
        return None if session.scalar(unproven) else _return


def _delete(context: AgentContext, place: Place, stone: Tombstone) -> Callable[[Session], None]:
    freed_bytes = delete_aside(place, marks_of(stone))

    def record(session: Session) -> None:
        if record_deleted(session, stone.id, now=context.clock()) is not None:
            _note(context, session, EventKind.DELETED, stone, f"{freed_bytes:,} bytes freed: {stone.reason}")

    return record


def _is_short(view: ChainView) -> bool:
    """Tell whether room is short where a folder lies; what cannot be told is not."""
    limit_percent = view.policy.notices.low_space_percent
    if limit_percent is None:
        return False
    try:
        return free_percent(view.path) < limit_percent
    except StorageError:
        return False
