"""Watching folders through the kernel's events (inotify)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import structlog
from watchdog.events import (
    DirDeletedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import ObservedWatch

from policies.names import parse_image_name

_log = structlog.get_logger("watcher")

EVENTS: Final[list[type[FileSystemEvent]]] = [
    FileClosedEvent,  # written in place, and closed
    FileMovedEvent,  # renamed within the folder, as our own writers do
    FileCreatedEvent,  # moved in from elsewhere; or just begun, which a look at the file tells
    FileDeletedEvent,  # deleted, or moved out
    DirDeletedEvent,  # the folder itself
]
"""What is asked of the kernel."""


class _Watched(NamedTuple):
    path: Path
    identity: tuple[int, int]
    watch: ObservedWatch


class FolderObserver:
    """Watches a changing set of folders.

    Args:
        mark: called, from a thread of the observer, with the id of a folder in which something happened to an
            image file.
    """

    def __init__(self, mark: Callable[[int], None]) -> None:
        self._mark = mark
        self._observer = Observer()
        self._watched: dict[int, _Watched] = {}
        self._complained: set[int] = set()

    def start(self) -> None:
        """Begin to pass events on."""
        self._observer.start()

    def stop(self) -> None:
        """Stop watching."""
        self._observer.stop()
        self._observer.join()

    def watch(self, folders: Mapping[int, Path]) -> None:
        """Watch exactly these folders from now on.

        A folder that cannot be watched now (it is gone, or the kernel's limit is reached) is tried again
        with the next call; one whose path leads to another directory than before (unplugged and back) is
        watched anew.

        Args:
            folders: paths by folder id.
        """
        for folder_id in list(self._watched):
            known = self._watched[folder_id]
            if folders.get(folder_id) != known.path or _identity(known.path) != known.identity:
                self._forget(folder_id)
        for folder_id, path in folders.items():
            if folder_id not in self._watched:
                self._begin(folder_id, path)

    def _begin(self, folder_id: int, path: Path) -> None:
        identity = _identity(path)
        if identity is None:
            return
        try:
            watch = self._observer.schedule(
                _ImageEvents(folder_id, self._mark), str(path), recursive=False, event_filter=EVENTS
            )
        except OSError as error:
            _log.warning(
                "folder is not watched, only scanned by the timer", path=str(path), reason=str(error)
            )
            return
        self._watched[folder_id] = _Watched(path, identity, watch)
        self._mark(folder_id)  # whatever came before the watch was in place

    def _forget(self, folder_id: int) -> None:
        self._observer.unschedule(self._watched.pop(folder_id).watch)


class _ImageEvents(FileSystemEventHandler):
    """Passes on events that concern image files, and those of the folder itself."""

    def __init__(self, folder_id: int, mark: Callable[[int], None]) -> None:
        self._folder_id = folder_id
        self._mark = mark

    def on_any_event(self, event: FileSystemEvent) -> None:
        paths = (os.fsdecode(event.src_path), os.fsdecode(event.dest_path))
        if isinstance(event, DirDeletedEvent) or any(is_image_file(path) for path in paths):
            self._mark(self._folder_id)


def is_image_file(path: str) -> bool:
    """Tell whether a path's last part is the name of an image (.spf, .spi, .spN); temporary names are not."""
    return parse_image_name(os.path.basename(path)) is not None  # noqa: PTH119 - may be an empty path


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
