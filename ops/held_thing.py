"""What a person names to be held: an image file of a managed folder, or one of its points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from ops.keeping import find_managed
from policies.errors import ConfigurationError
from policies.names import parse_image_name
from policies.points import Point
from storage.catalog.chains import chains_of_folder
from storage.catalog.images import images_in_folder
from storage.catalog.models import Chain, Folder, Image
from storage.catalog.points import span_of
from storage.parts import first_part_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image file of a managed folder.

    Attributes:
        folder: its folder.
        name: its file name.
        image: its row; None if the catalogue knows none of that name.
    """

    folder: Folder
    name: str
    image: Image | None


def named_image(session: Session, path: Path) -> NamedImage:
    """Find the image that a path names.

    Args:
        session: any session.
        path: of the file, which need not be there any more; of a spanned set, of any of its parts.

    Raises:
        ConfigurationError: its folder is not managed, or that is no name of an image.
    """
    first = first_part_of(path).name
    if parse_image_name(first) is None:
        is_folder = path.is_dir()
        raise ConfigurationError(
            "is a folder, not an image" if is_folder else "is not named as an image is",
            path=str(path),
            hint="Name an image in it; `rollforward hold FOLDER --point N` keeps a point."
            if is_folder
            else None,
        )
    folder = find_managed(session, path.parent)
    return NamedImage(folder, first, images_in_folder(session, folder.id).get(first))


def named_point(
    session: Session, folder: Folder, number: int, volume: str | None, base: int | None
) -> tuple[Chain, Point]:
    """Find the point that a person names.

    Args:
        session: any session.
        folder: its folder.
        number: its number in the chain.
        volume: of which volume; None where there is one only.
        base: on which base; None where there is one only.

    Returns:
        Its chain, and the point.

    Raises:
        ConfigurationError: there is no such point, or more than one.
    """
    found: dict[bytes, tuple[Chain, Point]] = {}
    for chain in chains_of_folder(session, folder.id):
        if volume in (None, chain.volume) and base in (None, chain.base_number):
            for point in _points_of(session, chain):
                if point.number == number:
                    found[point.id] = (chain, point)
    if len(found) == 1:
        return next(iter(found.values()))
    named = sorted(
        f"{chain.volume} b{chain.base_number:03d} of {point.time:%Y-%m-%d %H:%M} UTC"
        for chain, point in found.values()
    )
    if named:
        raise ConfigurationError(
            f"has {len(found)} points {number}: {', '.join(named)}",
            path=folder.path,
            hint="Say which with --volume and --base; where a chain forks, hold an image that ends there.",
        )
    raise ConfigurationError(
        f"has no point {number} that is known",
        path=folder.path,
        hint="`rollforward chain` shows the points of a folder.",
    )


def point_words(session: Session, folder_id: int, identity: str) -> str:
    """Say which point it is: its number and its volume, as far as they are known.

    Args:
        session: any session.
        folder_id: its folder.
        identity: of the point, hexadecimal.
    """
    for chain in chains_of_folder(session, folder_id):
        for point in _points_of(session, chain):
            if point.id.hex() == identity:
                return f"point {point.number} of {chain.volume} b{chain.base_number:03d}"
    return f"point {identity[:16]}…, which is gone"


def _points_of(session: Session, chain: Chain) -> list[Point]:
    images = session.scalars(select(Image).where(Image.chain_id == chain.id, Image.assumed.is_(False)))
    spans = [span for span in map(span_of, images) if span is not None]
    return [point for span in spans for point in (*span.covers, *((span.start,) if span.start else ()))]
