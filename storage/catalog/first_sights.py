"""When images were first noticed, also by an earlier catalogue, and also if they were removed in between."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from storage.catalog.ledger_lines import add_line
from storage.catalog.memory_models import SeenBefore, Tombstone
from storage.catalog.models import Image
from storage.ledger_entries import SeenEntry


def settle_first_sight(session: Session, image: Image) -> None:
    """Have an image that landed count as noticed when it first was, and the ledger remember that.

    Args:
        session: of a write transaction.
        image: an image whose root has just become known.
    """
    if image.root is None:
        return
    earlier = first_seen_before(session, image.folder_id, image.root)
    if earlier is not None:
        image.first_seen_at = min(image.first_seen_at, earlier)
        session.execute(
            delete(SeenBefore).where(
                SeenBefore.folder_id == image.folder_id, SeenBefore.root == image.root.hex()
            )
        )
    add_line(session, image.folder_id, SeenEntry(image.root.hex(), image.name, image.first_seen_at))


def first_seen_before(session: Session, folder_id: int, root: bytes) -> datetime | None:
    """Tell when an image was first noticed that this catalogue has no row of; None if it never was.

    Args:
        session: any session.
        folder_id: its folder.
        root: its identity.
    """
    known = session.get(SeenBefore, (folder_id, root.hex()))
    query = select(Tombstone.first_seen_at).where(Tombstone.folder_id == folder_id, Tombstone.root == root)
    moments = list(session.scalars(query))
    return min(moments if known is None else [*moments, known.seen_at], default=None)
