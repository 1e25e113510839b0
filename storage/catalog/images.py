"""Image files in the catalogue: what a scan found, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from policies.names import Tier, parse_image_name
from policies.points import Point
from storage.catalog.models import Image, ImageState
from storage.catalog.points import pack_point


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells one content of a file from another without reading it.

    Attributes:
        name: file name; of a spanned set, that of its first part.
        size_bytes: its size, all its parts together.
        mtime_ns: its modification time, nanoseconds since 1970; of a spanned set, a number that changes with the
            size, time or place of any part.
    """

    name: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What an image's own header and trailer say.

    Attributes:
        chain_id: catalogue id of its chain.
        root: 32 bytes; None where the trailer could not be read.
        start: the from point; None for a base.
        covers: covered points, oldest first.
        plain_bytes: how many bytes of the volume it holds, before compression; None if unknown.
    """

    chain_id: int
    root: bytes | None
    start: Point | None
    covers: tuple[Point, ...]
    plain_bytes: int | None = None


def images_in_folder(session: Session, folder_id: int) -> dict[str, Image]:
    """Return the catalogued images of a folder by file name."""
    return {image.name: image for image in session.scalars(select(Image).where(Image.folder_id == folder_id))}


def stamp_of(image: Image) -> FileStamp:
    """Return the file stamp that an image had when it was last seen."""
    return FileStamp(image.name, image.stored_bytes, image.mtime_ns)


def new_image(
    session: Session, folder_id: int, stamp: FileStamp, now: datetime, machine_now: datetime
) -> Image:
    """Add an image that was noticed for the first time; it is settling until more is known."""
    image = Image(
        folder_id=folder_id,
        name=stamp.name,
        state=ImageState.SETTLING,
        stored_bytes=stamp.size_bytes,
        mtime_ns=stamp.mtime_ns,
        still_since=machine_now,
        first_seen_at=now,
        covers=[],
        tier=tier_by_name(stamp.name),
        assumed=False,
    )
    session.add(image)
    return image


def restart_image(image: Image, stamp: FileStamp, machine_now: datetime) -> None:
    """Forget what was known of an image whose file is another one now."""
    image.state = ImageState.SETTLING
    image.reason = None
    image.stored_bytes = stamp.size_bytes
    image.mtime_ns = stamp.mtime_ns
    image.still_since = machine_now
    image.verified_at = None
    image.checked_at = None
    image.asked_at = None
    image.gone_since = None
    image.hinted_at = None
    image.assumed = False
    image.plain_bytes = None
    image.chain_id = None
    image.root = None
    image.start = None
    image.covers = []


def set_facts(image: Image, facts: ImageFacts) -> None:
    """Record what an image says of itself."""
    image.chain_id = facts.chain_id
    image.root = facts.root
    image.start = pack_point(facts.start) if facts.start is not None else None
    image.covers = [pack_point(point) for point in facts.covers]
    image.plain_bytes = facts.plain_bytes if facts.plain_bytes is not None else image.plain_bytes


def set_found_good(image: Image, now: datetime) -> None:
    """Record that an image was read back and found good.

    Times that have not come yet were told by a clock that was wrong: it has been there, and good, since now at the
    latest.
    """
    image.state = ImageState.GOOD
    image.reason = None
    image.first_seen_at = min(image.first_seen_at, now)
    image.verified_at = now if image.verified_at is None else min(image.verified_at, now)
    image.checked_at = now
    image.asked_at = None


def set_gone(image: Image, now: datetime) -> None:
    """Record that an image's file is gone, and that nobody of ours took it away."""
    image.state = ImageState.MISSING
    image.reason = "the file is gone"
    image.gone_since = now


def tier_by_name(name: str) -> Tier:
    """Tell what an image was rolled up as, by its file name; incremental if that says nothing."""
    parsed = parse_image_name(name)
    return parsed.tiers[-1] if parsed is not None and parsed.tiers else Tier.INCREMENTAL


def names_by_state(images: Iterable[Image], *states: ImageState) -> list[str]:
    """Return the names of the images that are in one of the states, sorted."""
    return sorted(image.name for image in images if image.state in states)
