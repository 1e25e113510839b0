"""Whether a managed folder is really there, or only the place where it is mounted.

When a drive is unplugged, or a share is not mounted, the path often still leads to a directory: the empty one that lies
below. To take all images for deleted then would be wrong. So every managed folder holds `.rollforward/`, and a
directory without it, and without a single image, in which images should be, counts as lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Final

MARK: Final = ".rollforward"
"""Directory in every managed folder, which is made when the folder is first scanned."""


def absence(folder: Path, listed: Collection[str], expected: Collection[str]) -> str | None:
    """Tell why a folder that could be read is not the one that is managed.

    Args:
        folder: the folder.
        listed: names of the images that lie in it.
        expected: names of the images that should.

    Returns:
        The reason, in words; None if it is the one, as far as can be told.

    Raises:
        OSError: it can no longer be read.
    """
    if listed or not expected or is_marked(folder):
        return None
    return (
        f"is empty, though {len(expected):,} images should lie in it, and {MARK} is not there either: "
        "it seems not to be mounted"
    )


def is_marked(folder: Path) -> bool:
    """Tell whether the mark is there.

    Raises:
        OSError: the folder cannot be read.
    """
    try:
        (folder / MARK).lstat()
    except FileNotFoundError:
        return False
    return True


def mark(folder: Path) -> None:
    """Make the mark where it is missing. A folder that cannot be written to does without.

    Crash: it is there or not; the next scan makes it.
    """
    with contextlib.suppress(OSError):
        (folder / MARK).mkdir(exist_ok=True)
