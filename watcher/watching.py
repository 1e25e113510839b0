"""The watcher: events and timer together."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from storage.catalog.database import Catalog
from storage.catalog.folders import all_folders, begin_anew, folders_due
from watcher.coalescing import Coalescer
from watcher.observing import POLL_S, FolderObserver
from watcher.pacing import Pacer


class Watcher:
    """Says which managed folder changed.

    Args:
        catalog: names the managed folders and when each is due for a scan.
        say: passes a folder's id on; returns False if that failed.
        say_again: how long a folder that is due is not named again by the timer.
        poll_s: a folder of whose changes the kernel does not tell is asked so often.
    """

    def __init__(
        self, catalog: Catalog, say: Callable[[int], bool], *, say_again: timedelta, poll_s: float = POLL_S
    ) -> None:
        self._catalog = catalog
        self._coalescer = Coalescer(say)
        self._observer = FolderObserver(self._coalescer.mark, poll_s=poll_s)
        self._pacer = Pacer(say_again)
        self._last_tick: datetime | None = None

    def start(self) -> None:
        """Begin to watch; folders are taken up by the first tick."""
        self._coalescer.start()
        self._observer.start()

    def stop(self) -> None:
        """Stop watching."""
        self._observer.stop()
        self._coalescer.stop()

    def tick(self, machine_now: datetime) -> None:
        """Take up new folders, let go of those no longer managed, name those that are due for a scan, in their order.

        After a clock that was put back, all are due: what was to come next may lie far ahead of it.

        Args:
            machine_now: real time.

        Raises:
            CatalogError: the catalogue cannot be used.
        """
        if self._last_tick is not None and machine_now < self._last_tick:
            with self._catalog.write() as session:
                begin_anew(session, machine_now)
        self._last_tick = machine_now
        with self._catalog.read() as session:
            folders = {folder.id: Path(folder.path) for folder in all_folders(session)}
            due = folders_due(session, machine_now)
        for (
            folder_id
        ) in due:  # in their order, before those that are taken up just now, in whatever order they answer
            if self._pacer.may_say(folder_id, machine_now):
                self._coalescer.mark(folder_id)
        self._observer.watch(folders)
