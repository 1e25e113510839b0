"""Noticing changes in folders: by the kernel's events where it has them all, by asking where it has not."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from watcher.file_systems import Mount, mount_of, parse_mounts, read_mounts, tells_changes
from watcher.kernel_events import KernelEvents, concerns_an_image
from watcher.looking import Lookers

_log = structlog.get_logger("watcher")

POLL_S: Final = 5.0
"""A folder that has to be asked is asked so often, if nothing else is said."""

LONGEST_POLL_S: Final = 300.0
"""One that takes long to answer is asked less often, but at least so often."""

_POLL_SHARE: Final = 0.05
"""Asking takes no more than this share of the time."""

ABSENT_LOOK_S: Final = 1.0
"""A folder that is not there is looked for so often."""

SURE_LOOK_S: Final = 60.0
"""Whether a path still leads to the watched folder is made sure of so often; most changes of it are told."""

KERNEL_AGAIN_S: Final = 600.0
"""Where the kernel refused to watch a folder, it is asked to again after so long."""

_Stamps = dict[str, tuple[int, int]]
"""Size in bytes and modification time in nanoseconds of each image and side file."""


class Manner(StrEnum):
    """How changes in a folder are noticed: KERNEL tells of them, POLLING asks for them, ABSENT waits for the folder."""

    KERNEL = "kernel"
    POLLING = "polling"
    ABSENT = "absent"


@dataclass(slots=True, eq=False)
class _Folder:
    """A folder that is observed. Whoever looks at it alone changes it, but for `look_after`."""

    folder_id: int
    path: Path
    manner: Manner = Manner.ABSENT
    identity: tuple[int, int] | None = None
    kind: str = ""
    stamps: _Stamps = field(default_factory=dict)
    complaint: str | None = None
    look_after: float = 0.0
    kernel_after: float = 0.0


class FolderObserver:
    """Observes a changing set of folders.

    Args:
        mark: called, from any thread, with the id of a folder in which something may have happened to an image file.
        poll_s: a folder of whose changes the kernel does not tell is asked so often.
    """

    def __init__(self, mark: Callable[[int], None], *, poll_s: float = POLL_S) -> None:
        self._mark = mark
        self._poll_s = poll_s
        self._lookers = Lookers()
        self._lock = threading.Lock()
        self._folders: dict[int, _Folder] = {}
        self._silent: frozenset[int] = frozenset()
        self._kernel: KernelEvents | None = None
        self._kernel_problem = ""
        self._mount_text = ""
        self._mounts: tuple[Mount, ...] = ()

    def start(self) -> None:
        """Begin to pass events on."""
        self._open_kernel()

    def stop(self) -> None:
        """Stop observing. A look that does not end is left to itself."""
        with self._lock:
            self._folders.clear()
        if self._kernel is not None:
            self._kernel.stop()

    def watch(self, folders: Mapping[int, Path]) -> None:
        """Observe exactly these folders from now on. Call it often: looks that are due are begun here.

        None of the folders is touched by the calling thread, so that one which does not answer holds nothing up.

        Args:
            folders: paths by folder id.
        """
        self._refresh_mounts()
        if self._kernel is not None and not self._kernel.works:
            self._open_kernel()
        with self._lock:
            for folder_id in [
                known for known in self._folders if folders.get(known) != self._folders[known].path
            ]:
                del self._folders[folder_id]
                if self._kernel is not None:
                    self._kernel.forget(folder_id)
            for folder_id, path in folders.items():
                if folder_id not in self._folders:
                    self._folders[folder_id] = _Folder(folder_id, path)
            now = time.monotonic()
            due = [folder for folder in self._folders.values() if folder.look_after <= now]
        for folder in due:
            self._lookers.begin(folder.folder_id, partial(self._look, folder))
        silent = self._lookers.silent()
        for folder_id in silent ^ self._silent:
            self._mark(folder_id)  # whoever scans it finds out what is the matter
        self._silent = silent

    def manners(self) -> dict[int, Manner]:
        """Return how each folder is observed, by folder id."""
        with self._lock:
            return {folder_id: folder.manner for folder_id, folder in self._folders.items()}

    # --- the kernel

    def _open_kernel(self) -> None:
        try:
            self._kernel = KernelEvents(self._mark, self._went)
        except OSError as error:
            self._kernel, self._kernel_problem = None, error.strerror or str(error)
        with self._lock:
            for folder in self._folders.values():
                folder.identity, folder.look_after = None, 0.0

    def _refresh_mounts(self) -> None:
        """Look at every folder anew when something was mounted or unmounted."""
        text = read_mounts()
        if text == self._mount_text:
            return
        self._mount_text, self._mounts = text, parse_mounts(text)
        with self._lock:
            for folder in self._folders.values():
                folder.look_after = 0.0

    def _went(self, folder_id: int) -> None:
        with self._lock:
            folder = self._folders.get(folder_id)
            if folder is not None:
                folder.manner, folder.identity, folder.look_after = Manner.ABSENT, None, 0.0
        self._mark(folder_id)

    # --- looking, in a thread of its own

    def _look(self, folder: _Folder) -> None:
        begun = time.monotonic()
        identity = _identity(folder.path)
        if not self._is_wanted(folder):
            return
        if identity is None:
            self._lose(folder)
        elif identity != folder.identity:
            self._find(folder, identity)
        elif folder.manner is Manner.POLLING:
            self._poll(folder)
        self._plan_next(folder, time.monotonic() - begun)

    def _is_wanted(self, folder: _Folder) -> bool:
        with self._lock:
            return self._folders.get(folder.folder_id) is folder

    def _lose(self, folder: _Folder) -> None:
        if folder.identity is not None:
            self._mark(folder.folder_id)
        if self._kernel is not None:
            self._kernel.forget(folder.folder_id)
        folder.manner, folder.identity = Manner.ABSENT, None

    def _find(self, folder: _Folder, identity: tuple[int, int]) -> None:
        """Take up a folder that was not there before, or is another one now."""
        mount = mount_of(os.path.realpath(folder.path), self._mounts)
        folder.kind = mount.kind if mount is not None else ""
        folder.identity = identity
        folder.manner = Manner.KERNEL if self._try_kernel(folder) else Manner.POLLING
        if folder.manner is Manner.POLLING:
            folder.stamps = _stamps_of(folder.path) or {}
        self._mark(folder.folder_id)  # whatever came before
        if not self._is_wanted(folder) and self._kernel is not None:
            self._kernel.forget(folder.folder_id)

    def _try_kernel(self, folder: _Folder) -> bool:
        folder.kernel_after = time.monotonic() + KERNEL_AGAIN_S
        if not tells_changes(folder.kind):
            self._complain(folder, f"it lies on {folder.kind}, where others may write unseen", is_usual=True)
            return False
        if self._kernel is None:
            self._complain(folder, self._kernel_problem)
            return False
        try:
            self._kernel.watch(folder.folder_id, folder.path)
        except OSError as error:
            self._complain(folder, error.strerror or str(error))
            return False
        folder.complaint = None
        return True

    def _complain(self, folder: _Folder, reason: str, *, is_usual: bool = False) -> None:
        """Say once why a folder is polled."""
        if folder.complaint != reason:
            folder.complaint = reason
            say = _log.info if is_usual else _log.warning
            hint = {} if is_usual else {"hint": "sysctl fs.inotify shows the kernel's limits"}
            say("folder is polled", path=str(folder.path), every_s=self._poll_s, reason=reason, **hint)

    def _poll(self, folder: _Folder) -> None:
        if (
            folder.kernel_after <= time.monotonic()
            and tells_changes(folder.kind)
            and self._try_kernel(folder)
        ):
            folder.manner = Manner.KERNEL
            self._mark(folder.folder_id)
            return
        stamps = _stamps_of(folder.path)
        if stamps != folder.stamps:
            folder.stamps = stamps or {}
            self._mark(folder.folder_id)

    def _plan_next(self, folder: _Folder, taken_s: float) -> None:
        if folder.manner is Manner.POLLING:
            pause_s = min(max(self._poll_s, taken_s / _POLL_SHARE), LONGEST_POLL_S)
        else:
            pause_s = SURE_LOOK_S if folder.manner is Manner.KERNEL else ABSENT_LOOK_S
        with self._lock:
            if folder.identity is None and folder.manner is not Manner.ABSENT:
                pause_s = 0.0  # it went while it was looked at
            folder.look_after = time.monotonic() + pause_s


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _stamps_of(path: Path) -> _Stamps | None:
    """List the images and side files of a folder; None if it cannot be read."""
    found = {}
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if concerns_an_image(entry.name):
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # gone between listing and looking
                    found[entry.name] = status.st_size, status.st_mtime_ns
    except OSError:
        return None
    return found
