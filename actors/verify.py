"""Verifying one image: read it back whole from its medium, and record what was found."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from actors.context import AgentContext
from actors.hints import Hints
from actors.listing import stamp_image
from actors.patience import Beat, patiently
from actors.subjects import verification_of
from actors.trying import beginning, persist, trying
from actors.unproven import note_assumed_way, note_unproven, side_files_changed
from policies.landing import has_landed
from policies.names import parse_image_name
from storage.catalog.attempts import Admission, Admitted, Work, begin_attempt, end_attempt, pause_attempt
from storage.catalog.chains import base_identity, chain_for, lock_chain, make_due
from storage.catalog.folders import folder_policy
from storage.catalog.images import FileStamp, ImageFacts, set_facts, set_found_good, stamp_of
from storage.catalog.models import Attempt, Chain, EventKind, Folder, Image, ImageState, WorkKind
from storage.folder import disagreement, find_image
from storage.verify import Verified
from storage.verify import verify_image as read_back

_QUARANTINE_REST: Final = timedelta(days=1)
"""An image in quarantine is not asked for again before."""

_TO_VERIFY: Final = (ImageState.LANDED, ImageState.VERIFYING)


SMALL_BYTES: Final = 4 << 20
"""Images up to this size are verified together, so that recording them takes no longer than reading them."""

TOGETHER: Final = 32
"""So many at most."""


@dataclass(frozen=True, slots=True)
class _Task:
    """One verification that was begun."""

    image_id: int
    folder_id: int
    attempt_id: int
    path: Path
    stamp: FileStamp
    cpu_percent: float | None
    again: bool = False


@dataclass(frozen=True, slots=True)
class _Reading:
    """What reading an image back gave."""

    task: _Task
    verified: Verified
    is_unchanged: bool
    intrusion: str | None
    begun_at: datetime
    seconds: float


@dataclass(slots=True)
class _Outcome:
    """What was recorded: chains to be planned at once, and soon; whether the folder is to be looked at again."""

    chain_ids: set[int] = field(default_factory=set)
    due_ids: set[int] = field(default_factory=set)
    is_open: bool = False


def verify_image(context: AgentContext, hints: Hints, image_id: int) -> None:
    """Verify an image that landed, unless another worker does or it has to wait; small ones of its folder with it.

    Args:
        context: surroundings.
        hints: where to say what is to be done next.
        image_id: the image; one that is judged already, or gone, is passed over.

    Raises:
        CatalogError: the catalogue cannot be used.

    Crash: the images stay unverified, each attempt counts as a crash, and each is tried again by itself.
    """
    with context.catalog.read() as session:
        image = session.get(Image, image_id)
        if image is None or image.state not in _TO_VERIFY:
            return
    begun: list[int] = []
    with beginning(context, begun) as session:
        tasks = _begin(context, session, image_id)
        begun.extend(task.attempt_id for task in tasks)
    _verify(context, hints, tasks)


def reverify_image(context: AgentContext, hints: Hints, image_id: int) -> None:
    """Verify an image again that was found good; it counts as good until something else is found.

    New images of its folder come first: while one waits, nothing is done, and the image is named again later.

    Args:
        context: surroundings.
        hints: where to say what is to be done next.
        image_id: the image; one that is not good, gone, or no longer asked for is passed over: it may have been
            named twice.

    Raises:
        CatalogError: the catalogue cannot be used.

    Crash: the image stays as it was, the attempt counts as a crash, and it is tried again by itself.
    """
    with context.catalog.read() as session:
        image = session.get(Image, image_id)
        if image is None or not _is_due_again(image) or _new_ones_wait(context, session, image):
            return
    begun: list[int] = []
    with beginning(context, begun) as session:
        task = _begin_again(context, session, image_id)
        begun.extend([] if task is None else [task.attempt_id])
    _verify(context, hints, [] if task is None else [task])


def _verify(context: AgentContext, hints: Hints, tasks: Sequence[_Task]) -> None:
    """Carry out verifications that were begun, and record them together."""
    waiting, readings = list(reversed(tasks)), []
    try:
        while waiting and not context.stopping.is_set():
            reading = _read_back(context, waiting.pop())
            if reading is not None:
                readings.append(reading)
    finally:
        outcome = _finish(context, readings, waiting)
    for chain_id in sorted(outcome.chain_ids):
        hints.chain_due(chain_id)
    if tasks and (outcome.is_open or len(readings) < len(tasks)):
        hints.folder_changed(tasks[0].folder_id)


def _begin(context: AgentContext, session: Session, image_id: int) -> list[_Task]:
    """Begin the verification of an image and, if it is small, of others that are small and never gave trouble."""
    image = session.get(Image, image_id, with_for_update=True)
    if image is None or image.state not in _TO_VERIFY:
        return []
    folder = session.get_one(Folder, image.folder_id)
    policy = folder_policy(session, folder).verification
    if folder.problem is not None or not (policy.verify_new or _is_asked_for(image)):
        return []  # named again when the folder is back, or when something rests on it
    admitted = begin_attempt(session, _work(context, folder, image), context.moment())
    if admitted.admission is not Admission.BEGUN:
        _held_back(context, session, image, admitted)
        return []
    tasks = [_task(folder, image, admitted, policy.cpu_percent)]
    is_small = image.stored_bytes <= SMALL_BYTES and policy.verify_new
    if is_small and not _had_trouble(session, admitted):
        for other in _small_ones(context, session, folder, image):
            admitted = begin_attempt(session, _work(context, folder, other), context.moment())
            if admitted.admission is Admission.BEGUN:
                tasks.append(_task(folder, other, admitted, policy.cpu_percent))
    return tasks


def _is_asked_for(image: Image) -> bool:
    """Tell whether a plan asks for an image, and nobody has read it back since."""
    return image.asked_at is not None


def _is_due_again(image: Image) -> bool:
    return image.state is ImageState.GOOD and _is_asked_for(image)


def _new_ones_wait(context: AgentContext, session: Session, image: Image) -> bool:
    """Tell whether an image of the same folder was never tried, and waits for its first verification."""
    folder = session.get_one(Folder, image.folder_id)
    if not folder_policy(session, folder).verification.verify_new:
        return False
    query = select(Image.id).where(
        Image.folder_id == folder.id, Image.state == ImageState.LANDED, Image.reason.is_(None)
    )
    return session.scalar(query.limit(1)) is not None


def _begin_again(context: AgentContext, session: Session, image_id: int) -> _Task | None:
    image = session.get(Image, image_id, with_for_update=True)
    if image is None or not _is_due_again(image):
        return None
    folder = session.get_one(Folder, image.folder_id)
    if folder.problem is not None:
        return None
    admitted = begin_attempt(session, _work(context, folder, image), context.moment())
    if admitted.admission is Admission.BEGUN:
        cpu_percent = folder_policy(session, folder).verification.cpu_percent
        path = Path(folder.path) / image.name
        return _Task(image.id, folder.id, admitted.attempt_id, path, stamp_of(image), cpu_percent, again=True)
    if admitted.admission is Admission.QUARANTINED:
        _held_back(context, session, image, admitted)  # what cannot be verified is not built upon
    elif admitted.newly:
        context.note(session, EventKind.FAILED, image.name, admitted.reason, folder_id=image.folder_id)
    return None


def _task(folder: Folder, image: Image, admitted: Admitted, cpu_percent: float | None) -> _Task:
    image.state = ImageState.VERIFYING
    path = Path(folder.path) / image.name
    return _Task(image.id, folder.id, admitted.attempt_id, path, stamp_of(image), cpu_percent)


def _work(context: AgentContext, folder: Folder, image: Image) -> Work:
    return verification_of(folder, image, context.engine_version)


def _had_trouble(session: Session, admitted: Admitted) -> bool:
    row = session.get_one(Attempt, admitted.attempt_id)
    return bool(row.crashes or row.failures)


def _small_ones(context: AgentContext, session: Session, folder: Folder, image: Image) -> list[Image]:
    """Choose others to be verified together with a small image: none that was tried before, for it may be poison."""
    query = select(Image).where(
        Image.folder_id == folder.id,
        Image.state == ImageState.LANDED,
        Image.stored_bytes <= SMALL_BYTES,
        Image.id != image.id,
    )
    others = list(
        session.scalars(query.order_by(Image.id).limit(TOGETHER - 1).with_for_update(skip_locked=True))
    )
    works = {_work(context, folder, other).subject: other for other in others}
    tried = select(Attempt.subject).where(Attempt.kind == WorkKind.VERIFY, Attempt.subject.in_(works))
    for subject in session.scalars(tried):
        works.pop(subject, None)
    return list(works.values())


def _read_back(context: AgentContext, task: _Task) -> _Reading | None:
    """Read an image back; what goes wrong is recorded, and None returned.

    Crash: the attempt counts as a crash.
    """
    begun_at, begun_s = context.machine_clock(), time.monotonic()
    reading: _Reading | None = None
    with trying(context, task.attempt_id, task.path.name, task.folder_id, is_recorded_later=True) as trial:

        def read(answered: Beat) -> tuple[Verified, bool, str | None]:
            throttled = replace(context, answered=answered)

            def progress(_done_bytes: int, _total_bytes: int) -> None:
                throttled.pause(task.cpu_percent)

            verified = read_back(task.path, progress=progress)
            return verified, _unchanged(task, verified), _intrusion(task.path, verified)

        silence_s = context.pace.silence.total_seconds()
        verified, is_unchanged, intrusion = patiently(str(task.path.parent), silence_s, read)
        reading = _Reading(task, verified, is_unchanged, intrusion, begun_at, time.monotonic() - begun_s)
        trial.done = True
    if not trial.done:
        _let_go(context, task, trial.reason)
    return reading


def _finish(context: AgentContext, readings: Sequence[_Reading], waiting: Sequence[_Task]) -> _Outcome:
    """Record what was read, and let go of what was not begun.

    Crash: nothing is recorded; each attempt counts as a crash.
    """
    outcomes: list[_Outcome] = []

    def record(session: Session) -> None:
        outcome = _Outcome()
        _lock_in_order(session, [task.image_id for task in (*[one.task for one in readings], *waiting)])
        for reading in readings:
            _record(context, session, reading, outcome)
        for chain_id in sorted(outcome.due_ids):
            make_due(session, chain_id, context.clock())
        for task in waiting:
            pause_attempt(session, task.attempt_id, context.holder)
            image = session.get(Image, task.image_id)
            if image is not None and image.state is ImageState.VERIFYING:
                image.state = ImageState.LANDED
        outcomes.append(outcome)

    if readings or waiting:
        persist(context, record)
        context.at_work.end([task.attempt_id for task in (*[one.task for one in readings], *waiting)])
    return outcomes[-1] if outcomes else _Outcome()


def _lock_in_order(session: Session, image_ids: Sequence[int]) -> None:
    """Lock chains, then images, each in order: whoever locks several does so, and none waits for the other for ever."""
    chains = select(Image.chain_id).where(Image.id.in_(image_ids), Image.chain_id.is_not(None)).distinct()
    for chain_id in sorted(chain_id for chain_id in session.scalars(chains) if chain_id is not None):
        lock_chain(session, chain_id)
    images = select(Image).where(Image.id.in_(image_ids)).order_by(Image.id).with_for_update()
    session.scalars(images.execution_options(populate_existing=True)).all()


def _held_back(context: AgentContext, session: Session, image: Image, admitted: Admitted) -> None:
    if admitted.admission is Admission.RUNNING:
        return
    image.state = ImageState.LANDED
    image.reason = admitted.reason
    quarantined = admitted.admission is Admission.QUARANTINED
    if quarantined:
        image.hinted_at = context.machine_clock() + _QUARANTINE_REST
    if admitted.newly:
        kind = EventKind.QUARANTINED if quarantined else EventKind.FAILED
        context.note(session, kind, image.name, admitted.reason, folder_id=image.folder_id)


def _record(context: AgentContext, session: Session, reading: _Reading, outcome: _Outcome) -> None:
    """Record what was found, unless the file or the attempt is no longer the same."""
    if not end_attempt(session, reading.task.attempt_id, context.holder):
        outcome.is_open = True
        return
    image = session.get(Image, reading.task.image_id, with_for_update=True)
    if image is not None and stamp_of(image) != reading.task.stamp:
        outcome.is_open = True  # another file has its place by now, and somebody else may be at that
        return
    expected = ImageState.GOOD if reading.task.again else ImageState.VERIFYING
    if image is None or image.state is not expected or not reading.is_unchanged:
        if image is not None and image.state is ImageState.VERIFYING:
            image.state = ImageState.LANDED
        outcome.is_open = True
        return
    reason = _fault(session, image, reading.verified) or reading.intrusion
    if reading.verified.is_foreign:
        note_assumed_way(context, session, image)
    if reading.verified.status == "unproven":
        note_unproven(context, session, image, reason or "cannot be proven")
    elif reason is None:
        _found_good(context, session, image, reading)
    elif has_landed(
        complete=False,
        unchanged_for=context.machine_clock() - image.still_since,
        settle_time=context.pace.settle_time,
    ):
        _found_bad(context, session, image, reason)
    else:  # it may still be written to, though its end is there already
        image.state = ImageState.SETTLING
        image.reason = reason
        outcome.is_open = True
        return
    _plan_again(session, image, reading, outcome)


def _plan_again(session: Session, image: Image, reading: _Reading, outcome: _Outcome) -> None:
    """Have the chain planned again: at once if the verdict changes what can be done, else by the next tick."""
    chain = session.get(Chain, image.chain_id) if image.chain_id is not None else None
    if chain is None:
        return
    outcome.due_ids.add(chain.id)
    if image.state is not ImageState.GOOD or chain.waits_for is not None or reading.task.again:
        outcome.chain_ids.add(chain.id)


def _unchanged(task: _Task, verified: Verified) -> bool:
    """Tell whether the image, and what side files say of it, are still what the verdict was made of."""
    try:
        if stamp_image(task.path) != task.stamp:
            return False
    except OSError:
        return False
    return not side_files_changed(task.path, verified.status, verified.reason or "")


def _intrusion(path: Path, verified: Verified) -> str | None:
    """Tell whether a plain image stands in an encrypted volume: somebody exchanged it, or slipped it in."""
    if verified.header is None or verified.header.encrypted:
        return None
    found = find_image(path, among_all=verified.header.start is None)
    return found.problem if found is not None and found.stands_out else None


def _fault(session: Session, image: Image, verified: Verified) -> str | None:
    """Tell what is wrong with an image: its bytes, its place, or its identity."""
    name = parse_image_name(image.name)
    if verified.is_foreign and verified.status == "good":
        return None
    if verified.status == "bad" or verified.header is None or name is None:
        return verified.reason or "cannot be read"
    if image.root is not None and image.root != verified.root:
        return "its root is not the one that was recorded for it"
    strange = disagreement(name, verified.header)
    if strange is not None:
        return strange
    base = base_identity(session, image.folder_id, name.volume, name.base)
    if base is not None and base != verified.header.chain_id:
        return "belongs to another chain than the base of this name"
    return None


def _found_good(context: AgentContext, session: Session, image: Image, reading: _Reading) -> None:
    now, verified = context.clock(), reading.verified
    name = parse_image_name(image.name)
    header = verified.header
    if header is not None and name is not None:
        chain = chain_for(session, image.folder_id, header.chain_id, name.volume, name.base, now=now)
        facts = ImageFacts(chain.id, verified.root, header.start, header.covers, verified.changed_bytes)
        set_facts(image, facts)
    set_found_good(image, now)
    root = verified.root.hex() if verified.root is not None else None
    context.note(
        session,
        EventKind.VERIFIED_AGAIN if reading.task.again else EventKind.VERIFIED,
        image.name,
        "read back again and still good"
        if reading.task.again
        else "read back from its medium and found good",
        folder_id=image.folder_id,
        chain_id=image.chain_id,
        facts={
            "stored_bytes": image.stored_bytes,
            "root": root,
            "begun_at": reading.begun_at.isoformat(),
            "seconds": round(reading.seconds, 3),
        },
    )


def _found_bad(context: AgentContext, session: Session, image: Image, reason: str) -> None:
    image.state = ImageState.BAD
    image.reason = reason
    context.note(
        session,
        EventKind.FOUND_BAD,
        image.name,
        reason,
        folder_id=image.folder_id,
        chain_id=image.chain_id,
        facts={"stored_bytes": image.stored_bytes},
    )


def _let_go(context: AgentContext, task: _Task, reason: str | None) -> None:
    """Give back an image whose verification did not end, and say why if it failed."""
    with context.catalog.write() as session:
        image = session.get(Image, task.image_id)
        if image is not None and image.state is ImageState.VERIFYING:
            image.state = ImageState.LANDED
            image.reason = reason
