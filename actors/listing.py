"""What lies in a folder at this moment, before anything is opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from policies.names import ImageName, parse_image_name
from storage.catalog.images import FileStamp
from storage.sweep import unpublished_parts

_Parts = Mapping[int, tuple[int, int]]
"""Size in bytes and modification time in nanoseconds of each file of an image, by the number of the part."""


def _nothing() -> None:
    """Take no notice."""


def list_images(folder: Path, *, answered: Callable[[], None] = _nothing) -> dict[str, FileStamp]:
    """List the images of a folder, each volume's in the order of its points.

    A spanned set is one image, by the name of its first part, be that there or not.

    Args:
        folder: the managed folder; its sub-folders are left alone.
        answered: called whenever the folder has told something.

    Returns:
        Stamps by file name.

    Raises:
        OSError: the folder cannot be read.
    """
    found = _look(folder, answered=answered)
    names = sorted(found, key=lambda name: (name.volume, name.base, name.point_number, name.filename()))
    return {name.filename(): _stamp(name.filename(), found[name]) for name in names}


def stamp_image(path: Path) -> FileStamp | None:
    """Return the stamp of one image, as `list_images` gives it; None if nothing of it is there.

    Args:
        path: the image; of a spanned set, its first part.

    Raises:
        OSError: its folder cannot be read.
    """
    name = parse_image_name(path.name)
    found = {} if name is None else _look(path.parent, name)
    return _stamp(path.name, found[name]) if name in found else None


def _look(
    folder: Path, wanted: ImageName | None = None, *, answered: Callable[[], None] = _nothing
) -> dict[ImageName, dict[int, tuple[int, int]]]:
    """See what files there are of each image, or of the one that is wanted."""
    found: dict[ImageName, dict[int, tuple[int, int]]] = {}
    stem = "" if wanted is None else wanted.filename().rpartition(".")[0]
    with os.scandir(folder) as scan:
        entries = list(scan)
    answered()
    early = unpublished_parts(folder, [entry.name for entry in entries])
    for entry in entries:
        name = parse_image_name(entry.name) if entry.name.startswith(stem) else None
        if name is None or wanted not in (None, name.of_part(0)) or entry.name in early:
            continue
        try:
            if entry.is_file(follow_symlinks=False) or entry.is_symlink():
                status = entry.stat(follow_symlinks=False)  # a link is no image: it is told so, not followed
                found.setdefault(name.of_part(0), {})[name.part] = (status.st_size, status.st_mtime_ns)
        except FileNotFoundError:
            continue  # gone between listing and looking
        answered()
    return found


def _stamp(name: str, parts: _Parts) -> FileStamp:
    """Make the stamp of an image; that of a set changes with any of its parts, or their places."""
    size_bytes = sum(size for size, _ in parts.values())
    if parts.keys() == {0}:
        return FileStamp(name, size_bytes, parts[0][1])
    digest = hashlib.blake2b(repr(sorted(parts.items())).encode(), digest_size=8).digest()
    return FileStamp(name, size_bytes, int.from_bytes(digest) >> 1)
