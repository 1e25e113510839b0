"""Recorded work that nobody asks for any more: a file that is gone or was exchanged, a result that another one took in.

Work that went wrong is remembered until it is done. What is never to be done again would be trouble for ever.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from actors.context import AgentContext
from actors.subjects import verification_of
from policies.names import ImageName, Tier, parse_image_name
from storage.catalog.images import tier_by_name
from storage.catalog.leases import is_alive
from storage.catalog.models import Attempt, Folder, Image, ImageState, WorkKind
from storage.catalog.points import span_of

_KINDS = (WorkKind.VERIFY, WorkKind.CONSOLIDATE)
_GONE = (ImageState.MISSING, ImageState.ASIDE)


def forget_moot_work(context: AgentContext, folder_id: int) -> int:
    """Forget recorded work of a folder that is not to be done any more, whatever became of it.

    Args:
        context: surroundings.
        folder_id: the folder, just scanned.

    Returns:
        How much was forgotten.

    Raises:
        CatalogError: the catalogue cannot be used.

    Crash: nothing is forgotten; the next scan does it.
    """
    query = select(Attempt).where(
        Attempt.folder_id == folder_id,
        Attempt.kind.in_(_KINDS),
        Attempt.dropped_by.is_(None),
    )
    now = context.machine_clock()
    with context.catalog.read() as session:
        if all(_is_held(row, now) for row in session.scalars(query)):
            return 0
    with context.catalog.write() as session:
        folder = session.get(Folder, folder_id)
        if folder is None:
            return 0
        rows = list(session.scalars(query.with_for_update(skip_locked=True)))
        over = [row for row in rows if not _is_held(row, now)]
        moot = [row for row in over if _is_moot(session, folder, row)]
        for row in moot:
            session.delete(row)
        return len(moot)


def _is_held(row: Attempt, machine_now: datetime) -> bool:
    return row.holder is not None and is_alive(row.holder, row.expires_at, machine_now)


def _is_moot(session: Session, folder: Folder, row: Attempt) -> bool:
    name = row.title.removesuffix(f" in {folder.path}")
    image = session.scalar(select(Image).where(Image.folder_id == folder.id, Image.name == name))
    if row.kind is WorkKind.VERIFY:
        if image is None or image.state in _GONE:
            return True
        return verification_of(folder, image, row.engine_version).subject != row.subject
    parsed = parse_image_name(name)
    return parsed is not None and _is_taken_in(session, row, parsed, tier_by_name(name))


def _is_taken_in(session: Session, row: Attempt, name: ImageName, tier: Tier) -> bool:
    """Tell whether a good image of the same tier, proven since, holds the point at which a result was to end.

    An older one ends its periods elsewhere, as a folder's settings said then: the work is still to be done.
    """
    query = select(Image).where(
        Image.folder_id == row.folder_id,
        Image.state == ImageState.GOOD,
        Image.tier == tier,
        Image.verified_at >= row.started_at,
    )
    for image in session.scalars(query):
        found, span = parse_image_name(image.name), span_of(image)
        if found is None or span is None or (found.volume, found.base) != (name.volume, name.base):
            continue
        if name.point_number in {point.number for point in span.covers}:
            return True
    return False
