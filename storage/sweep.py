"""Sweeping away what writers left that are gone: partial files, and parts that got their names too early.

The first file of a set is locked while its writer lives, and bears its partial name until the set is published. So
while that file is there and nobody locks it, what was written beside it belongs to nobody: the partial files of the
further parts, and what shares its bytes with one of these under a final name. Nothing else is ever touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from policies.names import parse_image_name

PARTIAL_SUFFIX: Final = ".rf-partial"

_FURTHER: Final = re.compile(rf"(?P<stem>.+)\.part-[0-9]+{re.escape(PARTIAL_SUFFIX)}", re.DOTALL)


def further_partial(first: Path, part: int) -> Path:
    """Name the partial file of a further part, given that of the first."""
    return first.with_name(f"{first.name.removesuffix(PARTIAL_SUFFIX)}.part-{part}{PARTIAL_SUFFIX}")


def sweep_partials(folder: Path) -> None:
    """Remove partial files whose writers are gone; those of living writers are locked and stay.

    Crash: less is left to be swept by the next writer.
    """
    with os.scandir(folder) as entries:
        listed = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    partial = [name for name in listed if name.endswith(PARTIAL_SUFFIX)]
    further: dict[str, list[Path]] = {}
    for name in partial:
        match = _FURTHER.fullmatch(name)
        if match is not None:
            further.setdefault(match["stem"] + PARTIAL_SUFFIX, []).append(folder / name)
    firsts = {name for name in partial if _FURTHER.fullmatch(name) is None}
    for first in sorted(firsts | further.keys()):
        with contextlib.suppress(OSError):
            _sweep_set(folder / first, further.get(first, ()), listed)


def unpublished_parts(folder: Path, listed: Sequence[str]) -> set[str]:
    """Tell which further parts bear their final names while their set is being published, or was not in the end.

    Args:
        folder: the folder.
        listed: names of what lies in it.

    Returns:
        Names of parts that share their bytes with a partial file: nobody's until the first part is there.
    """
    inodes = set()
    for name in listed:
        if _FURTHER.fullmatch(name) is not None:
            with contextlib.suppress(FileNotFoundError):
                inodes.add(_inode(folder / name))
    found = set()
    for name in listed if inodes else ():
        parsed = parse_image_name(name)
        if parsed is not None and parsed.part:
            with contextlib.suppress(FileNotFoundError):
                if _inode(folder / name) in inodes:
                    found.add(name)
    return found


def _inode(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _sweep_set(first: Path, further: Sequence[Path], listed: Sequence[str]) -> None:
    """Remove what a writer left, the first part's file last: while it is there, the rest is known for what it is."""
    try:
        fd = os.open(first, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:  # published: only the other names of its further parts are left
        for path in further:
            path.unlink(missing_ok=True)
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink == 1:  # with two names it is published
            _remove_early_parts(further, listed)
        for path in further:
            path.unlink(missing_ok=True)
        first.unlink()
    finally:
        os.close(fd)


def _remove_early_parts(further: Sequence[Path], listed: Sequence[str]) -> None:
    """Take away the final names of parts whose set was never published."""
    if further:
        folder = further[0].parent
        images = [name for name in listed if not name.endswith(PARTIAL_SUFFIX)]
        for name in unpublished_parts(folder, [*images, *(path.name for path in further)]):
            (folder / name).unlink()
