"""Rolling a chain up: what is due is planned, merged, published, recorded; then it is asked again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.orm import Session

from actors.context import AgentContext
from actors.hints import Hints
from actors.taking_in import take_in
from actors.trying import holding_chain, trying
from policies.calendar import day_bounds, day_of
from policies.errors import ChainError
from policies.merging import MergePlan, plan_merge
from policies.names import image_name
from policies.points import Span
from policies.rollup import DueRollup, due_dailies
from storage.catalog.attempts import Admission, Work, begin_attempt, end_attempt
from storage.catalog.chains import images_of_chain
from storage.catalog.images import FileStamp
from storage.catalog.leases import check_fence
from storage.catalog.models import Chain, EventKind, Folder, Image, ImageState, WorkKind
from storage.catalog.points import span_of
from storage.consolidate import consolidate
from storage.folder import look_at
from storage.writer import Published


@dataclass(frozen=True, slots=True)
class _State:
    """A chain as the catalogue knows it, loaded at one moment."""

    chain: Chain
    folder: Folder
    spans: tuple[Span, ...]
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
            if isinstance(step, _Pending):
                folder_id = _set_pending(context, chain_id, fence, step)
                if step.scan_first:
                    hints.folder_changed(folder_id)
                return
            if not _carry_out(context, hints, step):
                return


def _is_due(context: AgentContext, chain_id: int) -> bool:
    """Tell, without writing anything, whether a chain may have something due."""
    with context.catalog.read() as session:
        chain = session.get(Chain, chain_id)
        return chain is not None and chain.next_due_at <= context.clock()


def _next_step(context: AgentContext, chain_id: int, fence: int) -> _Task | _Pending:
    """Ask the planner what is due, and begin the first of it that can be done."""
    with context.catalog.write() as session:
        state = _load(context, session, chain_id, fence)
        waits: list[_Pending] = []
        for due in due_dailies(state.spans, state.now, state.zone):
            step = _try_to_begin(context, session, state, due, fence)
            if isinstance(step, _Task):
                return step
            waits.append(step)
    if waits:
        return min(waits, key=lambda pending: pending.next_due_at)
    return _Pending(_day_end(state))


def _load(context: AgentContext, session: Session, chain_id: int, fence: int) -> _State:
    chain = check_fence(session, chain_id, fence)
    folder = session.get_one(Folder, chain.folder_id)
    spans = (span_of(image) for image in images_of_chain(session, chain_id))
    return _State(chain, folder, tuple(span for span in spans if span is not None), context.clock())


def _day_end(state: _State) -> datetime:
    return day_bounds(day_of(state.now, state.zone), state.zone)[1]


def _try_to_begin(
    context: AgentContext, session: Session, state: _State, due: DueRollup, fence: int
) -> _Task | _Pending:
    try:
        plan = plan_merge(state.spans, due.after, due.upto)
    except ChainError as error:
        return _Pending(_day_end(state), str(error))
    unverified = [source.name for source in plan.sources if not source.verified]
    if unverified:
        return _Pending(state.chain.next_due_at, f"verification of {', '.join(unverified)}")
    chain = state.chain
    name = image_name(chain.volume, chain.base_number, due.upto.number, (due.tier,)).filename()
    target = Path(state.folder.path) / name
    if os.path.lexists(target):
        return _name_taken(session, state, name)
    subject = f"{target} {due.after.id.hex()} {due.upto.id.hex()}"
    work = Work(WorkKind.CONSOLIDATE, subject, context.engine_version)
    admitted = begin_attempt(session, work, context.moment())
    if admitted.admission is Admission.BEGUN:
        return _Task(state, due, plan, target, admitted.attempt_id, fence)
    if admitted.newly:
        kind = EventKind.QUARANTINED if admitted.admission is Admission.QUARANTINED else EventKind.FAILED
        context.note(session, kind, name, admitted.reason, folder_id=chain.folder_id, chain_id=chain.id)
    return _Pending(admitted.retry_at or _day_end(state), admitted.reason)


def _name_taken(session: Session, state: _State, name: str) -> _Pending:
    """A file of the result's name is there: what a crash left unrecorded, or something else."""
    image = _image_named(session, state.folder.id, name)
    if image is None or image.state in (ImageState.MISSING, ImageState.SETTLING):
        return _Pending(state.chain.next_due_at, f"a scan of {name}", scan_first=True)
    trouble = f"{name}, which is there already, to be taken away: it is {image.state.value}"
    return _Pending(_day_end(state), f"{trouble}, {image.reason}" if image.reason else trouble)


def _carry_out(context: AgentContext, hints: Hints, task: _Task) -> bool:
    """Consolidate, then record; tell whether to go on with the chain.

    Crash: bytes come first. A result that was published but not recorded is found by the next scan.
    """
    folder = task.state.folder
    sources = [Path(folder.path) / source.name for source in task.plan.sources]
    with trying(context, task.attempt_id, task.target.name, folder.id) as trial:
        published = consolidate(sources, task.target, progress=context.report_progress)
        with context.catalog.write() as session:
            image = _record(context, session, task, published)
        trial.done = True
        hints.image_landed(image.id)
    if not trial.done:
        hints.folder_changed(folder.id)
    return trial.done


def _record(context: AgentContext, session: Session, task: _Task, published: Published) -> Image:
    chain = check_fence(session, task.state.chain.id, task.fence)
    end_attempt(session, task.attempt_id, context.holder)
    status = published.path.stat()
    stamp = FileStamp(published.path.name, status.st_size, status.st_mtime_ns)
    name = image_name(chain.volume, chain.base_number, task.due.upto.number, (task.due.tier,))
    known = _image_named(session, chain.folder_id, stamp.name)
    found = look_at(published.path, name)
    image = take_in(context, session, chain.folder_id, known, stamp, found)
    image.root = published.root
    image.hinted_at = context.machine_clock()
    session.flush()
    context.note(
        session,
        EventKind.CONSOLIDATED,
        image.name,
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
    return image


def _image_named(session: Session, folder_id: int, name: str) -> Image | None:
    return session.scalar(select(Image).where(Image.folder_id == folder_id, Image.name == name))


def _listed(sources: Sequence[Span]) -> str:
    if len(sources) <= 2:
        return " and ".join(source.name for source in sources)
    return f"{sources[0].name} … {sources[-1].name} ({len(sources)} images)"


def _set_pending(context: AgentContext, chain_id: int, fence: int, pending: _Pending) -> int:
    """Record when a chain is to be planned again, and why not now; return its folder."""
    with context.catalog.write() as session:
        chain = check_fence(session, chain_id, fence)
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
        return chain.folder_id
