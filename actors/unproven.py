"""Foreign images: what names say goes into the catalogue; what side files decide is looked at again with these."""

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
from storage.md5_check import doubt_at_first_sight, is_still_said, rests_on_side_file


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
    """Have images of a folder verified anew whose side files say something else by now than when they were judged.

    These are the unproven ones, and those that were judged bad because of what a side file said.

    Args:
        context: surroundings.
        folder_id: the folder.

    Returns:
        How many are to be verified.

    Raises:
        CatalogError: the catalogue cannot be used.

    Crash: they stay as they were judged until the next scan.
    """
    judged = (ImageState.UNPROVEN, ImageState.BAD)
    with context.catalog.read() as session:
        folder = session.get(Folder, folder_id)
        query = select(Image).where(Image.folder_id == folder_id, Image.state.in_(judged))
        images = list(session.scalars(query))
    if folder is None or not images:
        return 0
    place = Path(folder.path)
    outdated = {
        image.id: image.reason
        for image in images
        if side_files_changed(place / image.name, image.state, image.reason or "")
    }
    if outdated:
        with context.catalog.write() as session:
            for image in session.scalars(select(Image).where(Image.id.in_(outdated)).with_for_update()):
                if image.state in judged and image.reason == outdated[image.id]:
                    image.state = ImageState.LANDED
                    image.verified_at = None  # nothing rests on it before it is proven anew
                    image.hinted_at = None
    return len(outdated)


def side_files_changed(path: Path, verdict: str, reason: str) -> bool:
    """Tell whether side files say something else than what an image was judged by; looks at these alone.

    Args:
        path: the image; of a spanned set, its first part.
        verdict: what became of it: good, bad or unproven.
        reason: why, if it is not good. A medium that fails changes nothing.
    """
    try:
        if verdict == ImageState.UNPROVEN:
            return doubt_at_first_sight(path) != reason
        rests_on_it = verdict == ImageState.BAD and rests_on_side_file(reason)
        return rests_on_it and not is_still_said(path, reason)
    except StorageError:
        return False


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


def _modified_at(image: Image) -> datetime:
    """Return when a file was last written; of a set, whose number is made of all parts, when it was first seen."""
    try:
        modified_at = datetime.fromtimestamp(image.mtime_ns / 1e9, UTC)
    except (OSError, OverflowError, ValueError):
        return image.first_seen_at
    return min(modified_at, image.first_seen_at)
