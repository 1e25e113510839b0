"""Taking one file of a managed folder into the catalogue."""

from __future__ import annotations

from sqlalchemy.orm import Session

from actors.context import AgentContext
from policies.landing import has_landed
from storage.catalog.chains import chain_for, make_due
from storage.catalog.events import Facts
from storage.catalog.images import FileStamp, ImageFacts, new_image, restart_image, set_facts, stamp_of
from storage.catalog.models import EventKind, Image, ImageState
from storage.folder import FoundImage


def take_in(
    context: AgentContext,
    session: Session,
    folder_id: int,
    image: Image | None,
    stamp: FileStamp,
    found: FoundImage | None,
) -> Image:
    """Record one file of a folder.

    Args:
        context: surroundings.
        session: of a write transaction.
        folder_id: the folder.
        image: its row; None if it is new.
        stamp: the file's size and time.
        found: its header and trailer, if they were looked at.

    Returns:
        Its row.
    """
    machine_now = context.machine_clock()
    if image is None:
        image = new_image(session, folder_id, stamp, context.clock(), machine_now)
    elif stamp_of(image) != stamp or image.state is ImageState.MISSING:
        if image.state not in (ImageState.SETTLING, ImageState.MISSING):
            context.note(session, EventKind.CHANGED, image.name, "the file changed", folder_id=folder_id)
        restart_image(image, stamp, machine_now)
    if image.state is not ImageState.SETTLING or found is None:
        return image
    image.still_since = min(image.still_since, machine_now)  # a clock that was put back
    doubted = image.reason is not None  # complete at first sight, yet verification found it bad
    if not has_landed(
        complete=found.header is not None and found.root is not None and not doubted,
        unchanged_for=machine_now - image.still_since,
        settle_time=context.pace.settle_time,
    ):
        return image
    _land(context, session, image, found)
    return image


def _land(context: AgentContext, session: Session, image: Image, found: FoundImage) -> None:
    now = context.clock()
    image.state = ImageState.LANDED
    image.reason = None
    facts: Facts = {"stored_bytes": image.stored_bytes, "kind": found.kind}
    if found.header is not None:
        header = found.header
        chain = chain_for(
            session, image.folder_id, header.chain_id, found.name.volume, found.name.base, now=now
        )
        set_facts(image, ImageFacts(chain.id, found.root, header.start, header.covers))
        make_due(session, chain.id, now)
        facts |= {"number": header.end.number, "point_time": header.end.time.isoformat()}
    context.note(
        session,
        EventKind.LANDED,
        image.name,
        f"{found.kind} of {image.stored_bytes:,} bytes landed",
        folder_id=image.folder_id,
        chain_id=image.chain_id,
        facts=facts,
    )
