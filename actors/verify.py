"""Verifying one image: read it back whole from its medium, and record what was found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy.orm import Session

from actors.context import AgentContext
from actors.hints import Hints
from actors.listing import stamp_image
from actors.trying import trying
from policies.landing import has_landed
from policies.names import parse_image_name
from storage.catalog.attempts import Admission, Admitted, Work, begin_attempt, end_attempt
from storage.catalog.chains import base_identity, chain_for, make_due
from storage.catalog.images import FileStamp, ImageFacts, set_facts, stamp_of
from storage.catalog.models import Chain, EventKind, Folder, Image, ImageState, WorkKind
from storage.folder import disagreement
from storage.verify import Verified
from storage.verify import verify_image as read_back

_QUARANTINE_REST: Final = timedelta(days=1)
"""An image in quarantine is not asked for again before."""

_TO_VERIFY: Final = (ImageState.LANDED, ImageState.VERIFYING)


@dataclass(frozen=True, slots=True)
class _Task:
    """One verification that was begun."""

    image_id: int
    folder_id: int
    attempt_id: int
    path: Path
    stamp: FileStamp
    begun_at: datetime


@dataclass(frozen=True, slots=True)
class _Result:
    """What was recorded: whether the image is judged, and which chain waited for it, if one did."""

    judged: bool = False
    waiting_chain_id: int | None = None


def verify_image(context: AgentContext, hints: Hints, image_id: int) -> None:
    """Verify an image that landed, unless another worker does or it has to wait.

    Args:
        context: surroundings.
        hints: where to say what is to be done next.
        image_id: the image; one that is judged already, or gone, is passed over.

    Raises:
        CatalogError: the catalogue cannot be used.

    Crash: the image stays unverified, the attempt counts as a crash, and it is tried again.
    """
    with context.catalog.write() as session:
        task = _begin(context, session, image_id)
    if task is None:
        return
    result = _Result()
    with trying(context, task.attempt_id, task.path.name, task.folder_id) as trial:
        verified = read_back(task.path, progress=context.report_progress)
        with context.catalog.write() as session:
            result = _record(context, session, task, verified)
        trial.done = True
    if not trial.done:
        _let_go(context, task, trial.reason)
    if result.waiting_chain_id is not None:
        hints.chain_due(result.waiting_chain_id)
    if not result.judged:
        hints.folder_changed(task.folder_id)


def _begin(context: AgentContext, session: Session, image_id: int) -> _Task | None:
    image = session.get(Image, image_id, with_for_update=True)
    if image is None or image.state not in _TO_VERIFY:
        return None
    folder = session.get_one(Folder, image.folder_id)
    stamp = stamp_of(image)
    subject = f"{folder.path}/{stamp.name} {stamp.size_bytes} {stamp.mtime_ns}"
    work = Work(WorkKind.VERIFY, subject, context.engine_version)
    admitted = begin_attempt(session, work, context.moment())
    if admitted.admission is not Admission.BEGUN:
        _held_back(context, session, image, admitted)
        return None
    image.state = ImageState.VERIFYING
    path = Path(folder.path) / image.name
    return _Task(image.id, folder.id, admitted.attempt_id, path, stamp, context.machine_clock())


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


def _record(context: AgentContext, session: Session, task: _Task, verified: Verified) -> _Result:
    """Record what was found, unless the file or the attempt is no longer the same."""
    if not end_attempt(session, task.attempt_id, context.holder):
        return _Result()
    image = session.get(Image, task.image_id, with_for_update=True)
    if image is None or image.state is not ImageState.VERIFYING:
        return _Result()
    if not _unchanged(task):
        image.state = ImageState.LANDED
        return _Result()
    reason = _fault(session, image, verified)
    if reason is None:
        seconds = (context.machine_clock() - task.begun_at).total_seconds()
        _found_good(context, session, image, verified, seconds)
    elif has_landed(
        complete=False,
        unchanged_for=context.machine_clock() - image.still_since,
        settle_time=context.pace.settle_time,
    ):
        _found_bad(context, session, image, reason)
    else:  # it may still be written to, though its end is there already
        image.state = ImageState.SETTLING
        image.reason = reason
        return _Result()
    return _Result(True, _chain_that_waits(context, session, image))


def _chain_that_waits(context: AgentContext, session: Session, image: Image) -> int | None:
    """Make the image's chain due if the verdict changes what can be done for it; return it then."""
    chain = session.get(Chain, image.chain_id) if image.chain_id is not None else None
    if chain is None or (image.state is ImageState.GOOD and chain.waits_for is None):
        return None
    make_due(session, chain.id, context.clock())
    return chain.id


def _unchanged(task: _Task) -> bool:
    try:
        return stamp_image(task.path) == task.stamp
    except OSError:
        return False


def _fault(session: Session, image: Image, verified: Verified) -> str | None:
    """Tell what is wrong with an image: its bytes, its place, or its identity."""
    name = parse_image_name(image.name)
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


def _found_good(
    context: AgentContext, session: Session, image: Image, verified: Verified, seconds: float
) -> None:
    now = context.clock()
    name = parse_image_name(image.name)
    header = verified.header
    if header is not None and name is not None:
        chain = chain_for(session, image.folder_id, header.chain_id, name.volume, name.base, now=now)
        set_facts(image, ImageFacts(chain.id, verified.root, header.start, header.covers))
    image.state = ImageState.GOOD
    image.reason = None
    image.verified_at = now
    root = verified.root.hex() if verified.root is not None else None
    context.note(
        session,
        EventKind.VERIFIED,
        image.name,
        "read back from its medium and found good",
        folder_id=image.folder_id,
        chain_id=image.chain_id,
        facts={"stored_bytes": image.stored_bytes, "root": root, "seconds": round(seconds, 3)},
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
