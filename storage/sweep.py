"""Sweeping away what writers left that are gone: partial files, and parts that got their names too early.

The first file of a set is locked while its writer lives, and bears its partial name until the set is published. So
while that file is there and nobody locks it, what was written beside it belongs to nobody: the partial files of the
further parts, and what shares its bytes with one of these under a final name. Nothing else is ever touched.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from policies.names import parse_image_name
from storage.locking import lock_file

PARTIAL_SUFFIX: Final = ".rf-partial"

_OURS: Final = re.compile(rf"\..+\.[0-9a-f]{{12}}(\.part-[0-9]+)?{re.escape(PARTIAL_SUFFIX)}", re.DOTALL)
_FURTHER: Final = re.compile(rf"(?P<stem>.+)\.part-[0-9]+{re.escape(PARTIAL_SUFFIX)}", re.DOTALL)


def further_partial(first: Path, part: int) -> Path:
    """Name the partial file of a further part, given that of the first."""
    return first.with_name(f"{first.name.removesuffix(PARTIAL_SUFFIX)}.part-{part}{PARTIAL_SUFFIX}")


def sweep_partials(folder: Path) -> None:
    """Remove partial files whose writers are gone; those of living writers are locked and stay.

    Crash: less is left to be swept by the next writer.
    """
    listed = _files_in(folder)
    partial = {name for name in listed if _OURS.fullmatch(name)}
    firsts = {name if match is None else match["stem"] + PARTIAL_SUFFIX for name, match in _parted(partial)}
    for first in sorted(firsts):
        with contextlib.suppress(OSError):
            _sweep_set(folder / first, listed)


def _files_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]


def _parted(names: Iterable[str]) -> list[tuple[str, re.Match[str] | None]]:
    return [(name, _FURTHER.fullmatch(name)) for name in names]


def _further_of(first: Path, listed: Sequence[str]) -> list[Path]:
    """List the partial files of further parts that belong to a first one."""
    stem = first.name.removesuffix(PARTIAL_SUFFIX)
    return [first.with_name(name) for name, match in _parted(listed) if match and match["stem"] == stem]


def unpublished_parts(folder: Path, listed: Sequence[str]) -> set[str]:
    """Tell which further parts bear their final names while their set is being published, or was not in the end.

    Args:
        folder: the folder.
        listed: names of what lies in it.

    Returns:
        Names of parts that share their bytes with a partial file: nobody's until the first part is there.
    """
    there, inodes = set(listed), set()
    for match in filter(None, map(_FURTHER.fullmatch, listed)):
        first = match["stem"] + PARTIAL_SUFFIX
        if first not in there:
            continue  # it is published, and so are these: only their partial names are still to be removed
        with contextlib.suppress(FileNotFoundError):
            if (folder / first).lstat().st_nlink == 1:  # likewise, if it has two names
                inodes.add(_inode(folder / match[0]))
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


def _sweep_set(first: Path, listed: Sequence[str]) -> None:
    """Remove what a writer left, the first part's file last: while it is there, the rest is known for what it is.

    A writer may go on until its file is locked here: it may have placed more parts than are listed, and died; or it
    has published the set, and what was opened is an image now.
    """
    try:
        fd = os.open(first, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:  # published: only the other names of its further parts are left
        _remove(_further_of(first, listed))
        return
    try:
        lock_file(fd)
        listed = _files_in(first.parent)
        further = _further_of(first, listed)
        if first.name in listed and os.fstat(fd).st_nlink == 1:  # else it is published; with two names, too
            _remove_early_parts(first, further, listed)
        _remove(further)
        first.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _remove_early_parts(first: Path, further: Sequence[Path], listed: Sequence[str]) -> None:
    """Take away the final names of parts whose set was never published."""
    if further:
        folder = further[0].parent
        images = [name for name in listed if not name.endswith(PARTIAL_SUFFIX)]
        for name in unpublished_parts(folder, [*images, first.name, *(path.name for path in further)]):
            (folder / name).unlink()
