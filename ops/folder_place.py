"""Where a managed folder may lie: told by what it is, not only by its name."""

from __future__ import annotations

import errno
import os
import queue
import stat
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar, cast

from policies.errors import ConfigurationError

ANSWER_WITHIN_S: Final = 5.0
"""A folder that says nothing for so long, such as a share whose server is away, is taken not to be there."""

_Identity = tuple[int, int]
"""Device and number of a folder: the same under all its names."""

_T = TypeVar("_T")
_NESTED: Final = "Managed folders do not lie in one another: each image belongs to one of them."


def known_path(path: Path) -> Path:
    """Return the one absolute path by which a folder is known: links followed.

    Raises:
        ConfigurationError: the path is no text, so that the catalogue cannot keep it.
    """
    found = Path(os.path.realpath(path))
    try:
        str(found).encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            "is no UTF-8, and cannot be kept in the catalogue",
            path=repr(os.fsencode(found)),
            hint="Rename the folder, or give it another name with a bind mount.",
        ) from error
    return found


def refuse_missing(path: Path) -> None:
    """Make sure that a folder is there.

    Raises:
        ConfigurationError: it is not, is no folder, or does not answer.
    """
    try:
        mode = answered(lambda: path.stat().st_mode, path)
    except OSError as error:
        raise ConfigurationError(
            f"cannot be managed: {error.strerror}",
            path=str(path),
            hint="Folders of other machines are mounted by the administrator, before they are added.",
        ) from error
    if not stat.S_ISDIR(mode):
        raise ConfigurationError("is not a folder", path=str(path))


def refuse_overlap(path: Path, managed: Iterable[Path]) -> None:
    """Make sure that a folder is none that is managed, lies in none, and holds none, by whatever name.

    Args:
        path: the folder that is to be managed, absolute.
        managed: those that are.

    Raises:
        ConfigurationError: it is, or does.
    """
    here = _ways_up(path)
    for other in managed:
        there = _ways_up(other)
        if other == path or _same(here.get(path), there.get(other)):
            by_name = "" if other == path else f", by the name {other}"
            hint = "`rollforward folder set` changes its settings."
            raise ConfigurationError(f"is managed already{by_name}", path=str(path), hint=hint)
        if other in path.parents or there.get(other) in _above(here, path):
            raise ConfigurationError(
                f"lies in the folder {other}, which is managed", path=str(path), hint=_NESTED
            )
        if path in other.parents or here.get(path) in _above(there, other):
            raise ConfigurationError(
                f"holds the folder {other}, which is managed", path=str(path), hint=_NESTED
            )


def answered(look: Callable[[], _T], path: Path) -> _T:
    """Look at a folder that may never answer.

    Args:
        look: does it; goes on in vain, in a thread that nobody waits for, if there is no answer.
        path: the folder, for the error.

    Returns:
        What it found.

    Raises:
        OSError: what it met; or that there was no answer in time.
    """
    answers: queue.SimpleQueue[tuple[_T | None, OSError | None]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put((look(), None))
        except OSError as error:
            answers.put((None, error))

    threading.Thread(target=ask, name="look", daemon=True).start()
    try:
        found, error = answers.get(timeout=ANSWER_WITHIN_S)
    except queue.Empty:
        raise TimeoutError(errno.ETIMEDOUT, "does not answer", str(path)) from None
    if error is not None:
        raise error
    return cast("_T", found)


def _ways_up(path: Path) -> dict[Path, _Identity]:
    """Identify a folder and those above it, as far as they answer."""

    def look() -> dict[Path, _Identity]:
        found = {}
        for place in (path, *path.parents):
            with suppress(OSError):
                status = place.stat()
                found[place] = status.st_dev, status.st_ino
        return found

    try:
        return answered(look, path)
    except OSError:
        return {}


def _same(one: _Identity | None, other: _Identity | None) -> bool:
    return one is not None and one == other


def _above(ways: dict[Path, _Identity], path: Path) -> set[_Identity | None]:
    return {identity for place, identity in ways.items() if place != path}
