"""Rolling a chain up: what is due is planned, merged, published, recorded; then it is asked again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.orm import Session

from actors.context import AgentContext
from actors.hints import Hints
from actors.listing import list_images, stamp_image
from actors.taking_in import take_in
from actors.trying import holding_chain, trying
from policies.calendar import day_bounds, day_of
from policies.differentials import differential_below_merged
from policies.errors import ChainError, FormatError, StorageError
from policies.merging import MergePlan, plan_merge
from policies.names import ImageName, image_name, parse_image_name
from policies.points import Span
from policies.rollup import DueRollup, due_dailies
from storage.catalog.attempts import Admission, Work, begin_attempt, end_attempt
from storage.catalog.chains import images_of_chain
from storage.catalog.images import FileStamp, images_in_folder, stamp_of
from storage.catalog.leases import check_fence
from storage.catalog.models import Chain, EventKind, Folder, Image, ImageState, WorkKind
from storage.catalog.points import span_of
from storage.consolidate import consolidate
from storage.folder import look_at
from storage.parts import first_part_of, part_bytes_of, part_numbers_beside
from storage.publish import storage_errors
from storage.sweep import sweep_partials
from storage.writer import Published


@dataclass(frozen=True, slots=True)
class _State:
    """A chain as the catalogue knows it, loaded at one moment; and all files of its folder, if anything is due."""

    chain: Chain
    folder: Folder
    spans: tuple[Span, ...]
    dues: tuple[DueRollup, ...]
    known: Mapping[str, tuple[FileStamp, ImageState]]
    roots: Mapping[str, bytes | None]
    now: datetime

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.folder.time_zone)


@dataclass(frozen=True, slots=True)
class _Task:
    """One consolidation that was begun."""

    state: _State
    due: DueRollup
    plan: MergePlan
    target: Path
    attempt_id: int
    fence: int


@dataclass(frozen=True, slots=True)
class _Pending:
    """Why nothing more can be done for a chain now, when to ask again (calendar), whether to scan first."""

    state: _State
    next_due_at: datetime
    waits_for: str | None = None
    scan_first: bool = False


def consolidate_chain(context: AgentContext, hints: Hints, chain_id: int) -> None:
    """Do what is due for a chain, unless another worker does.

    Args:
        context: surroundings.
        hints: where to say what is to be done next.
        chain_id: the chain; one that is no longer catalogued is passed over.

    Raises:
        CatalogError: the catalogue cannot be used.

    Crash: a consolidation is there whole or not at all; the next try finds which, and goes on.
    """
    if not _is_due(context, chain_id):
        return
    with holding_chain(context, chain_id) as fence:
        if fence is None:
            return
        while not context.stopping.is_set():
            step = _next_step(context, chain_id, fence)
            if isinstance(step, _Task):
                if not _carry_out(context, hints, step):
                    return
            elif _set_pending(context, chain_id, fence, step):
                if step.scan_first:
                    hints.folder_changed(step.state.folder.id)
                return


def _is_due(context: AgentContext, chain_id: int) -> bool:
    """Tell, without writing anything, whether a chain may have something due."""
    with context.catalog.read() as session:
        chain = session.get(Chain, chain_id)
        return chain is not None and chain.next_due_at <= context.clock()


def _next_step(context: AgentContext, chain_id: int, fence: int) -> _Task | _Pending:
    """Ask the planner what is due, and begin the first of it that can be done."""
    state = _load(context, chain_id)
    if not state.dues:
        return _Pending(state, _day_end(state))
    unseen = _not_yet_taken_in(state, state.dues[-1].upto.number)
    if unseen is not None:
        return _Pending(state, state.chain.next_due_at, f"a scan of {unseen}", scan_first=True)
    waits: list[_Pending] = []
    with context.catalog.write() as session:
        check_fence(session, chain_id, fence)
        for due in state.dues:
            step = _try_to_begin(context, session, state, due, fence)
            if isinstance(step, _Task):
                return step
            waits.append(step)
    return min(waits, key=lambda pending: pending.next_due_at)


def _load(context: AgentContext, chain_id: int) -> _State:
    now = context.clock()
    with context.catalog.read() as session:
        chain = session.get_one(Chain, chain_id)
        folder = session.get_one(Folder, chain.folder_id)
        images = images_of_chain(session, chain_id)
        spans = tuple(span for span in map(span_of, images) if span is not None)
        dues = due_dailies(spans, now, ZoneInfo(folder.time_zone))
        files = images_in_folder(session, chain.folder_id) if dues else {}
        known = {name: (stamp_of(image), image.state) for name, image in files.items()}
        roots = {image.name: image.root for image in images}
    return _State(chain, folder, spans, dues, known, roots, now)


def _not_yet_taken_in(state: _State, last_number: int) -> str | None:
    """Name a file of the chain that the catalogue does not know as it is.

    A day is summed up only from all that lies in the folder: after a pause its last images may have landed
    without being catalogued, or may be on their way. What is numbered past the day's next point can wait.

    Args:
        state: the chain.
        last_number: number of the last point that is to be rolled up.

    Returns:
        A file's name, or the folder's path if it cannot be read; None if all are known.
    """
    try:
        stamps = list_images(Path(state.folder.path))
    except OSError:
        return state.folder.path
    for file_name, stamp in stamps.items():
        name = parse_image_name(file_name)
        if name is None or (name.volume, name.base) != (state.chain.volume, state.chain.base_number):
            continue
        known_stamp, known_state = state.known.get(file_name, (None, ImageState.MISSING))
        arriving = known_state in (ImageState.SETTLING, ImageState.MISSING) or known_stamp != stamp
        if arriving and name.point_number <= last_number + 1:
            return file_name
    return None


def _day_end(state: _State) -> datetime:
    return day_bounds(day_of(state.now, state.zone), state.zone)[1]


def _try_to_begin(
    context: AgentContext, session: Session, state: _State, due: DueRollup, fence: int
) -> _Task | _Pending:
    try:
        plan = plan_merge(state.spans, due.after, due.upto)
    except ChainError as error:
        return _Pending(state, _day_end(state), str(error))
    unverified = [source.name for source in plan.sources if not source.verified]
    if unverified:
        return _Pending(state, state.chain.next_due_at, f"verification of {', '.join(unverified)}")
    chain = state.chain
    name = _name_of(state, due, plan).filename()
    target = Path(state.folder.path) / name
    try:
        if _is_taken(target):
            return _name_taken(session, state, name)
    except StorageError as error:
        return _Pending(state, state.chain.next_due_at, str(error))
    work = Work(WorkKind.CONSOLIDATE, _subject(state, plan, target), context.engine_version)
    admitted = begin_attempt(session, work, context.moment())
    if admitted.admission is Admission.BEGUN:
        return _Task(state, due, plan, target, admitted.attempt_id, fence)
    if admitted.newly:
        kind = EventKind.QUARANTINED if admitted.admission is Admission.QUARANTINED else EventKind.FAILED
        context.note(session, kind, name, admitted.reason, folder_id=chain.folder_id, chain_id=chain.id)
    return _Pending(state, admitted.retry_at or _day_end(state), admitted.reason)


def _name_of(state: _State, due: DueRollup, plan: MergePlan) -> ImageName:
    below = differential_below_merged(plan.sources)
    chain = state.chain
    return image_name(chain.volume, chain.base_number, due.upto.number, (due.tier,), differential=below)


def _is_taken(target: Path) -> bool:
    """Tell whether a result's name is in use, if only by further parts; those of a writer that crashed are removed."""
    if part_numbers_beside(target):
        with storage_errors(target.parent):
            sweep_partials(target.parent)
    return os.path.lexists(target) or bool(part_numbers_beside(target))


def _subject(state: _State, plan: MergePlan, target: Path) -> str:
    """Name the work by its result and its source files as they are: with a source replaced it is new work."""
    sources = hashlib.sha256()
    for source in plan.sources:
        sources.update(repr(state.known[source.name][0]).encode())
    return f"{target} {sources.hexdigest()[:32]}"


def _name_taken(session: Session, state: _State, name: str) -> _Pending:
    """A file of the result's name is there: what a crash left unrecorded, or something else."""
    image = _image_named(session, state.folder.id, name)
    if image is None or image.state in (ImageState.MISSING, ImageState.SETTLING):
        return _Pending(state, state.chain.next_due_at, f"a scan of {name}", scan_first=True)
    trouble = f"{name}, which is there already, to be taken away: it is {image.state.value}"
    return _Pending(state, _day_end(state), f"{trouble}, {image.reason}" if image.reason else trouble)


def _carry_out(context: AgentContext, hints: Hints, task: _Task) -> bool:
    """Consolidate, then record; tell whether to go on with the chain.

    Crash: bytes come first. A result that was published but not recorded is found by the next scan.
    """
    folder = task.state.folder
    sources = [Path(folder.path) / source.name for source in task.plan.sources]
    with trying(context, task.attempt_id, task.target.name, folder.id) as trial:
        try:
            roots = [task.state.roots[source.name] for source in task.plan.sources]
            published = consolidate(
                sources,
                task.target,
                roots=roots,
                part_bytes=part_bytes_of(sources),
                progress=context.report_progress,
            )
        except FormatError as error:
            _doubt(context, folder, error)
            raise
        with context.catalog.write() as session:
            image = _record(context, session, task, published)
        trial.done = True
        hints.image_landed(image.id)
    if not trial.done:
        hints.folder_changed(folder.id)
    return trial.done


def _doubt(context: AgentContext, folder: Folder, error: FormatError) -> None:
    """Have a source that was good and now is not verified again, so that it is known for what it is."""
    if error.path is None or Path(error.path).parent != Path(folder.path):
        return
    with context.catalog.write() as session:
        image = _image_named(session, folder.id, first_part_of(Path(error.path)).name)
        if image is not None and image.state is ImageState.GOOD:
            image.state = ImageState.LANDED
            image.verified_at = image.hinted_at = None


def _record(context: AgentContext, session: Session, task: _Task, published: Published) -> Image:
    chain = check_fence(session, task.state.chain.id, task.fence)
    end_attempt(session, task.attempt_id, context.holder)
    context.note(
        session,
        EventKind.CONSOLIDATED,
        published.path.name,
        f"{_listed(task.plan.sources)} rolled up: {task.due.reason}",
        folder_id=chain.folder_id,
        chain_id=chain.id,
        facts={
            "sources": len(task.plan.sources),
            "day": task.due.day.isoformat(),
            "stored_bytes": published.stored_bytes,
            "root": published.root.hex(),
        },
    )
    stamp = stamp_image(published.path)
    if stamp is None:
        raise StorageError("is gone as soon as it was published", path=str(published.path))
    name = _name_of(task.state, task.due, task.plan)
    known = _image_named(session, chain.folder_id, stamp.name)
    image = take_in(context, session, chain.folder_id, known, stamp, look_at(published.path, name))
    image.root = published.root
    image.hinted_at = context.machine_clock()
    session.flush()
    return image


def _image_named(session: Session, folder_id: int, name: str) -> Image | None:
    return session.scalar(select(Image).where(Image.folder_id == folder_id, Image.name == name))


def _listed(sources: Sequence[Span]) -> str:
    if len(sources) <= 2:
        return " and ".join(source.name for source in sources)
    return f"{sources[0].name} … {sources[-1].name} ({len(sources)} images)"


def _set_pending(context: AgentContext, chain_id: int, fence: int, pending: _Pending) -> bool:
    """Record when a chain is to be planned again, and why not now.

    Returns:
        False if the chain changed since it was loaded: then it is to be planned anew.
    """
    with context.catalog.write() as session:
        chain = check_fence(session, chain_id, fence)
        if chain.revision != pending.state.chain.revision:
            return False
        chain.next_due_at = pending.next_due_at
        if pending.waits_for is not None and pending.waits_for != chain.waits_for:
            context.note(
                session,
                EventKind.WAITING,
                f"{chain.volume}-b{chain.base_number:03d}",
                f"what is due waits for {pending.waits_for}",
                folder_id=chain.folder_id,
                chain_id=chain.id,
            )
        chain.waits_for = pending.waits_for
        return True
