"""The kernel's events (inotify), for any number of folders through one queue and one thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)

from policies.names import SideFile, parse_image_name

_log = structlog.get_logger("watcher")

_WANTED: Final = Mask(
    InotifyConstants.IN_CLOSE_WRITE  # written in place, and closed
    | InotifyConstants.IN_MOVED_TO  # renamed within the folder, as our own writers do, or moved in
    | InotifyConstants.IN_CREATE  # a new name for a file; or just begun, which a look at the file tells
    | InotifyConstants.IN_DELETE
    | InotifyConstants.IN_MOVED_FROM
    | InotifyConstants.IN_DELETE_SELF  # the folder itself
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR
)
_FOLDER_ITSELF: Final = (
    InotifyConstants.IN_DELETE_SELF | InotifyConstants.IN_MOVE_SELF | InotifyConstants.IN_UNMOUNT
)

Tell = Callable[[int], None]
"""Called with the id of a folder, from the thread that reads events."""


class KernelEvents:
    """Watches folders through inotify.

    Args:
        changed: something happened to an image or side file of a folder, or events were lost.
        gone: the folder itself was deleted, moved or unmounted; it is no longer watched.

    Raises:
        OSError: the kernel has no queue for us (its limit is reached, or it knows no such thing).
    """

    def __init__(self, changed: Tell, gone: Tell) -> None:
        self._changed = changed
        self._gone = gone
        self._lock = threading.Lock()
        self._watched: dict[int, _FolderEvents] = {}
        self._queue = InotifyFD()
        self._queue.start()

    @property
    def works(self) -> bool:
        """Whether events are still read."""
        return self._queue.is_alive()

    def watch(self, folder_id: int, path: Path) -> None:
        """Watch a folder.

        Raises:
            OSError: it cannot be watched: it is gone, or the kernel's limit is reached.
        """
        self.forget(folder_id)
        events = _FolderEvents(folder_id, self._changed, self._went)
        events.descriptor = self._queue.add_callback(
            os.fsencode(path), _WANTED, events, CallbackId(id(events))
        )
        with self._lock:
            self._watched[folder_id] = events

    def forget(self, folder_id: int) -> None:
        """Let go of a folder, if it is watched."""
        with self._lock:
            events = self._watched.pop(folder_id, None)
        if events is not None and events.descriptor is not None:
            self._queue.remove_callbacks([(events.descriptor, CallbackId(id(events)))])

    def stop(self) -> None:
        """Let go of all folders, and end the thread."""
        with self._lock:
            self._watched.clear()
        self._queue.stop()
        self._queue.join()

    def _went(self, events: _FolderEvents) -> None:
        with self._lock:
            if self._watched.get(events.folder_id) is not events:
                return
            del self._watched[events.folder_id]
        self._gone(events.folder_id)


class _FolderEvents:
    """Takes the events of one folder; the interface is the library's."""

    def __init__(self, folder_id: int, changed: Tell, went: Callable[[_FolderEvents], None]) -> None:
        self.folder_id = folder_id
        self.descriptor: WatchDescriptor | None = None
        self._changed = changed
        self._went = went

    def on_event(self, event: InotifyEvent) -> None:
        if event.mask & _FOLDER_ITSELF:
            self._went(self)
        elif concerns_an_image(os.fsdecode(event.name)):
            self._changed(self.folder_id)

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        del wd
        self.descriptor = None
        self._went(self)

    def on_queue_overflow(self) -> None:
        self._changed(self.folder_id)


def concerns_an_image(path: str) -> bool:
    """Tell whether a path's last part is the name of an image (.spf, .spi, .spN), or of the `.md5` side file of one.

    Temporary names are not.
    """
    name = os.path.basename(path)  # noqa: PTH119 - may be an empty path
    if parse_image_name(name) is not None:
        return True
    stem, dot, ending = name.rpartition(".")
    if not dot or ending.lower() != SideFile.DIGEST.value:
        return False
    return any(parse_image_name(stem + more) is not None for more in ("", ".spf", ".spi"))
