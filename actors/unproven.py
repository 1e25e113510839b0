"""Foreign images: what their names say goes into the catalogue, and those that could not be proven get another look."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from actors.context import AgentContext
from policies.assuming import NamedFile, assume_spans, assumed_chain_id
from policies.errors import StorageError
from policies.names import parse_image_name
from storage.catalog.chains import chain_for
from storage.catalog.images import ImageFacts, set_facts
from storage.catalog.models import EventKind, Folder, Image, ImageState
from storage.md5_check import doubt_at_first_sight


def note_assumed_way(context: AgentContext, session: Session, image: Image) -> None:
    """Put into the catalogue where a foreign image leads by its name; it is marked, and nothing rests on it.

    Args:
        context: surroundings.
        session: of a write transaction.
        image: an image in ShadowProtect's own container.
    """
    name = parse_image_name(image.name)
    if name is None:
        return
    start = f"{name.volume}-b{name.base:03d}"
    beside = session.scalars(
        select(Image).where(
            Image.folder_id == image.folder_id,
            Image.name.startswith(start, autoescape=True),
            Image.state != ImageState.MISSING,
        )
    )
    files = {
        each.name: NamedFile(each.name, _modified_at(each), each.stored_bytes) for each in (*beside, image)
    }
    span = next(span for span in assume_spans(files.values()) if span.name == image.name)
    uid = assumed_chain_id(name.volume, name.base)
    chain = chain_for(session, image.folder_id, uid, name.volume, name.base, now=context.clock())
    image.assumed = True
    set_facts(image, ImageFacts(chain.id, None, span.start, span.covers))


def look_again(context: AgentContext, folder_id: int) -> int:
    """Have those unproven images of a folder verified whose side files say something else by now.

    Args:
        context: surroundings.
        folder_id: the folder.

    Returns:
        How many are to be verified.

    Raises:
        CatalogError: the catalogue cannot be used.

    Crash: they stay unproven until the next scan.
    """
    with context.catalog.read() as session:
        folder = session.get(Folder, folder_id)
        query = select(Image).where(Image.folder_id == folder_id, Image.state == ImageState.UNPROVEN)
        unproven = list(session.scalars(query))
    if folder is None or not unproven:
        return 0
    changed = [image.id for image in unproven if _doubt(Path(folder.path) / image.name) != image.reason]
    if changed:
        with context.catalog.write() as session:
            for image in session.scalars(select(Image).where(Image.id.in_(changed)).with_for_update()):
                if image.state is ImageState.UNPROVEN:
                    image.state = ImageState.LANDED
                    image.hinted_at = None
    return len(changed)


def note_unproven(context: AgentContext, session: Session, image: Image, reason: str) -> None:
    """Record that an image can be called neither good nor bad.

    Args:
        context: surroundings.
        session: of a write transaction.
        image: the image.
        reason: what is missing, in words.
    """
    image.state = ImageState.UNPROVEN
    image.reason = reason
    context.note(
        session,
        EventKind.UNPROVEN,
        image.name,
        reason,
        folder_id=image.folder_id,
        chain_id=image.chain_id,
        facts={"stored_bytes": image.stored_bytes},
    )


def _doubt(path: Path) -> str | None:
    """Say why an image cannot be verified now; a medium that fails changes nothing."""
    try:
        return doubt_at_first_sight(path)
    except StorageError as error:
        return error.message


def _modified_at(image: Image) -> datetime:
    """Return when a file was last written; of a set, whose number is made of all parts, when it was first seen."""
    try:
        modified_at = datetime.fromtimestamp(image.mtime_ns / 1e9, UTC)
    except (OSError, OverflowError, ValueError):
        return image.first_seen_at
    return min(modified_at, image.first_seen_at)
