"""What tells the files of an image from any others that may come to bear their names."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policies.errors import StorageError
from policies.names import SideFile, parse_image_name
from storage.parts import image_files

_SIDE_FILE_BYTES_MAX: Final = 64 << 10
"""A digest file is shorter; of a longer one nothing is believed."""


@dataclass(frozen=True, slots=True)
class FileMark:
    """One file of an image, as it was when it was looked at.

    Attributes:
        name: file name.
        size_bytes: its size.
        mtime_ns: its modification time, nanoseconds since 1970.
        inode: its number on its file system.
    """

    name: str
    size_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, name: str, status: os.stat_result) -> FileMark:
        """Return the mark of a file."""
        return cls(name, status.st_size, status.st_mtime_ns, status.st_ino)

    def pack(self) -> dict[str, str | int]:
        """Write the mark as JSON values; `unpack` reads it back."""
        return {
            "name": self.name,
            "size_bytes": self.size_bytes,
            "mtime_ns": self.mtime_ns,
            "inode": self.inode,
        }

    @classmethod
    def unpack(cls, packed: Mapping[str, str | int]) -> FileMark:
        """Return the mark that `pack` wrote."""
        return cls(
            str(packed["name"]),
            int(packed["size_bytes"]),
            int(packed["mtime_ns"]),
            int(packed["inode"]),
        )


def mark_files(image: Path) -> tuple[FileMark, ...]:
    """Mark all files of an image: its parts, the first one first, then the digest file that names it.

    Args:
        image: the image; of a spanned set, its first part.

    Raises:
        StorageError: a part cannot be looked at, or is no plain file.
    """
    marks = []
    for path in [*image_files(image), *digest_files_of(image)]:
        try:
            status = path.lstat()
        except OSError as error:
            raise StorageError(f"cannot be looked at: {error.strerror}", path=str(path)) from error
        if not stat.S_ISREG(status.st_mode):
            raise StorageError("is no plain file, and is left where it is", path=str(path))
        marks.append(FileMark.of(path.name, status))
    return tuple(marks)


def digest_files_of(image: Path) -> list[Path]:
    """Return the digest files that belong to an image and to no other.

    Args:
        image: the image; of a spanned set, its first part.

    Returns:
        `NAME.spi.md5`, and `NAME.md5` unless it is another image's: an incremental and a full of one number share it.
    """
    ending = f".{SideFile.DIGEST.value}"
    found = [image.with_name(image.name + ending)] if _is_plain(image.with_name(image.name + ending)) else []
    shared = image.with_suffix(ending)
    if _is_plain(shared) and (not _others_of_stem(image) or _names(shared, image.name)):
        found.append(shared)
    return found


def same_files(image: Path, marks: Iterable[FileMark]) -> bool:
    """Tell whether an image's files are those that were marked, digest files apart.

    Raises:
        StorageError: they cannot be looked at.
    """
    parts = [mark for mark in marks if parse_image_name(mark.name) is not None]
    return [mark for mark in mark_files(image) if parse_image_name(mark.name) is not None] == parts


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _others_of_stem(image: Path) -> bool:
    other = {".spi": ".spf", ".spf": ".spi"}.get(image.suffix)
    return other is not None and os.path.lexists(image.with_suffix(other))


def _names(digest_file: Path, name: str) -> bool:
    """Tell whether a digest file is one of a file: `HASH *NAME`."""
    try:
        with digest_file.open("rb") as file:
            text = file.read(_SIDE_FILE_BYTES_MAX).decode(errors="replace")
    except OSError:
        return False
    lines = (line.partition(" ")[2].strip().removeprefix("*") for line in text.splitlines())
    return name in lines
