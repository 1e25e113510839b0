"""Taking one file of a managed folder into the catalogue."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from actors.context import AgentContext
from actors.returned import remember_or_set_aside
from policies.landing import has_landed
from storage.catalog.chains import chain_for, make_due
from storage.catalog.events import Facts
from storage.catalog.images import FileStamp, ImageFacts, new_image, restart_image, set_facts, stamp_of
from storage.catalog.models import EventKind, Folder, Image, ImageState
from storage.folder import FoundImage


class KnownChains:
    """Chains that one transaction has looked up and made due, so that each is so but once.

    Args:
        session: of a write transaction.
        folder_id: folder of the chains.
        now: calendar time.
    """

    def __init__(self, session: Session, folder_id: int, now: datetime) -> None:
        self._session = session
        self._folder_id = folder_id
        self._now = now
        self._ids: dict[tuple[bytes, str, int], int] = {}

    def due_id(self, chain_uid: bytes, volume: str, base_number: int) -> int:
        """Return the catalogue id of a chain, which is made if it is new, and due for planning from now on."""
        key = (chain_uid, volume, base_number)
        if key not in self._ids:
            chain = chain_for(self._session, self._folder_id, *key, now=self._now)
            make_due(self._session, chain.id, self._now)
            self._ids[key] = chain.id
        return self._ids[key]


def take_in(
    context: AgentContext,
    session: Session,
    folder_id: int,
    image: Image | None,
    stamp: FileStamp,
    found: FoundImage | None,
    *,
    chains: KnownChains | None = None,
) -> Image:
    """Record one file of a folder.

    Args:
        context: surroundings.
        session: of a write transaction.
        folder_id: the folder.
        image: its row; None if it is new.
        stamp: the file's size and time.
        found: its header and trailer, if they were looked at.
        chains: of this transaction, where it takes in many files.

    Returns:
        Its row.
    """
    machine_now = context.machine_clock()
    if image is None:
        image = new_image(session, folder_id, stamp, context.clock(), machine_now)
    elif stamp_of(image) != stamp or image.state is ImageState.MISSING:
        if image.state not in (ImageState.SETTLING, ImageState.MISSING):
            context.note(session, EventKind.CHANGED, image.name, "the file changed", folder_id=folder_id)
            if image.chain_id is not None:
                make_due(session, image.chain_id, context.clock())  # what was planned with it is out of date
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
    _land(context, session, image, found, chains or KnownChains(session, folder_id, context.clock()))
    return image


def _land(
    context: AgentContext, session: Session, image: Image, found: FoundImage, chains: KnownChains
) -> None:
    image.state = ImageState.LANDED
    image.reason = None
    session.get_one(Folder, image.folder_id).newest_image_at = context.clock()
    facts: Facts = {"stored_bytes": image.stored_bytes, "kind": found.kind}
    if found.header is not None:
        header = found.header
        chain_id = chains.due_id(header.chain_id, found.name.volume, found.name.base)
        plain_bytes = found.plain_bytes if found.root is not None else None
        set_facts(image, ImageFacts(chain_id, found.root, header.start, header.covers, plain_bytes))
        facts |= {"number": header.end.number, "point_time": header.end.time.isoformat()}
        if remember_or_set_aside(context, session, image):
            return
    context.note(
        session,
        EventKind.LANDED,
        image.name,
        f"{found.kind} of {image.stored_bytes:,} bytes landed",
        folder_id=image.folder_id,
        chain_id=image.chain_id,
        facts=facts,
    )
