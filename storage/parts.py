"""The files of one image: the first part, which the image is known by, and the further ones of a spanned set.

The byte stream of an image is cut, and nothing is added: the parts one after the other are the image. All parts but
the last have the size of the first; the last one is not larger, and not empty.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from policies.errors import StorageError
from policies.names import PART_NUMBER_MAX, ImageName, parse_image_name


def part_path(path: Path, part: int) -> Path:
    """Return the path of another part of an image.

    Args:
        path: the image's first part; its name is that of an image.
        part: 0 for the first part, N for the one that ends in .spN.

    Raises:
        ValueError: the name is not that of an image.
    """
    name = parse_image_name(path.name)
    if name is None:
        raise ValueError(f"{path.name} is not the name of an image")
    return path.with_name(name.of_part(part).filename())


def first_part_of(path: Path) -> Path:
    """Return the path that the image is known by, given any of its parts; other paths as they are."""
    name = parse_image_name(path.name)
    return path if name is None or name.part == 0 else path.with_name(name.of_part(0).filename())


def following_parts(path: Path) -> list[Path]:
    """Return the parts that follow an image's first one without a gap, whatever kind of files they are."""
    name = parse_image_name(path.name)
    found: list[Path] = []
    if name is None or name.part:
        return found
    while len(found) < PART_NUMBER_MAX:
        part = path.with_name(name.of_part(len(found) + 1).filename())
        if not os.path.lexists(part):
            break
        found.append(part)
    return found


def image_files(path: Path) -> list[Path]:
    """Return all files of an image, first part first: what is copied, moved or removed together."""
    return [path, *following_parts(path)]


def stored_bytes_of(path: Path) -> int:
    """Return the size of an image, all parts that are there together, in bytes.

    Raises:
        StorageError: a part cannot be looked at.
    """
    try:
        there = [part for part in image_files(path) if os.path.lexists(part)] or [path]
        return sum(part.lstat().st_size for part in there)
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", path=str(path)) from error


def part_bytes_of(sources: Sequence[Path]) -> int | None:
    """Return the part size of the newest of some images that is in several files; None if none is.

    What is made of them without being told a part size is cut the same way: whatever asked for it then, a file
    system or a person, is likely to ask for it still.

    Args:
        sources: images, oldest first.

    Raises:
        StorageError: one cannot be looked at.
    """
    for path in reversed(sources):
        if following_parts(path):
            try:
                return path.lstat().st_size
            except OSError as error:
                raise StorageError(f"cannot be read: {error.strerror}", path=str(path)) from error
    return None


def part_numbers_beside(path: Path) -> tuple[int, ...]:
    """List the numbers of all further parts that lie in the folder for an image, gaps or not, ascending.

    Raises:
        StorageError: the folder cannot be read.
    """
    name = parse_image_name(path.name)
    if name is None:
        return ()
    try:
        names = os.listdir(path.parent)  # noqa: PTH208 - names alone: paths of very many files cost time
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", path=str(path.parent)) from error
    first = name.of_part(0)
    stem = first.filename().rpartition(".")[
        0
    ]  # which all its parts share: a folder may hold very many others
    return group_parts(each for each in names if each.startswith(stem)).get(first, ())


def group_parts(file_names: Iterable[str]) -> Mapping[ImageName, tuple[int, ...]]:
    """Group file names by the image that they are parts of.

    Args:
        file_names: names without a folder; those of other files are passed over.

    Returns:
        For each image, by the name of its first part, the numbers of its further parts, ascending; also for images
        whose first part is not among the names.
    """
    groups: dict[ImageName, list[int]] = {}
    for file_name in file_names:
        name = parse_image_name(file_name)
        if name is not None:
            group = groups.setdefault(name.of_part(0), [])
            if name.part:
                group.append(name.part)
    return {name: tuple(sorted(numbers)) for name, numbers in groups.items()}


def first_gap(numbers: Sequence[int]) -> int | None:
    """Return the smallest number that is missing among those of further parts; None if they leave no gap."""
    return next((wanted for wanted, number in enumerate(numbers, 1) if number != wanted), None)
