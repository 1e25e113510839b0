"""Images that were retired and lie in their folder again: they are not taken for new.

Somebody copied them back, or a backup was restored over the folder. They stay where they are, and count for nothing, as
long as what covers them is there; once that is lost they are images like any others.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from actors.context import AgentContext
from storage.catalog.facts import remember_sights
from storage.catalog.first_sights import settle_first_sight
from storage.catalog.images import restart_image, stamp_of
from storage.catalog.memory_models import Tombstone, TombstoneState
from storage.catalog.models import EventKind, Image, ImageState
from storage.catalog.tombstones import tombstone_of


def remember_or_set_aside(context: AgentContext, session: Session, image: Image) -> bool:
    """Have an image that landed count as first seen when it was; or set it aside, if it was retired before.

    Args:
        context: surroundings.
        session: of a write transaction.
        image: an image whose header and root have just become known.

    Returns:
        Whether it was set aside.
    """
    stone = tombstone_of(session, image.folder_id, image.root)
    if stone is None:
        settle_first_sight(session, image)
        remember_sights(session, image)
        return False
    image.state = ImageState.ASIDE
    retired = f"it was retired on {stone.retiring_at:%Y-%m-%d}"
    image.reason = f"{retired}, lies here again, and counts for nothing: {stone.reason}"
    if stone.state is not TombstoneState.RETIRING:
        context.note(
            session,
            EventKind.CAME_BACK,
            image.name,
            image.reason,
            folder_id=image.folder_id,
            chain_id=image.chain_id,
            facts={"stored_bytes": image.stored_bytes},
        )
    return True


def look_at_returned(context: AgentContext, folder_id: int, there: Collection[str]) -> None:
    """Forget returned images that are gone again, and welcome those whose cover was lost.

    Args:
        context: surroundings.
        folder_id: the folder.
        there: names of the images that lie in it.

    Raises:
        CatalogError: the catalogue cannot be used.

    Crash: the next scan does it.
    """
    under_way = select(Tombstone.name).where(
        Tombstone.folder_id == folder_id, Tombstone.state == TombstoneState.RETIRING
    )
    query = select(Image).where(
        Image.folder_id == folder_id, Image.state == ImageState.ASIDE, Image.name.not_in(under_way)
    )
    with context.catalog.read() as session:
        changed = [image.id for image in session.scalars(query) if _is_changed(session, image, there)]
    if not changed:
        return
    with context.catalog.write() as session:
        for image in session.scalars(query.where(Image.id.in_(changed)).with_for_update()):
            if image.name not in there:
                session.delete(image)
            elif tombstone_of(session, folder_id, image.root) is None:
                restart_image(image, stamp_of(image), context.machine_clock())


def _is_changed(session: Session, image: Image, there: Collection[str]) -> bool:
    return image.name not in there or tombstone_of(session, image.folder_id, image.root) is None
