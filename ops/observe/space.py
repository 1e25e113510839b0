"""How much is free where folders are."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Space:
    """The device that a folder is on.

    Attributes:
        mount: where it is mounted.
        device: number that the kernel knows it by.
        free_bytes: what we could still write.
        size_bytes: its size, what is kept for root apart.
    """

    mount: str
    device: int
    free_bytes: int
    size_bytes: int


def measure_space(folder: Path) -> Space | None:
    """Measure the device that a folder is on; None if the folder cannot be reached."""
    try:
        status = folder.stat()
        found = os.statvfs(folder)
        mount = folder
        while mount != mount.parent and mount.parent.stat().st_dev == status.st_dev:
            mount = mount.parent
    except OSError:
        return None
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    free = found.f_bavail * found.f_frsize
    return Space(str(mount), status.st_dev, free, used + free)


def measure_all(folders: Iterable[str], limit_s: float) -> dict[str, Space]:
    """Measure what answers in time; a folder that hangs holds nobody up, and is left out with all after it.

    Args:
        folders: their paths.
        limit_s: longest time for all of them.

    Returns:
        What was measured, by path.
    """
    found: dict[str, Space] = {}
    end = time.monotonic() + limit_s
    is_over = threading.Event()

    def measure() -> None:
        for folder in folders:
            if is_over.is_set():
                return
            space = measure_space(Path(folder))
            if space is not None and not is_over.is_set():
                found[folder] = space

    thread = threading.Thread(target=measure, name="space", daemon=True)
    thread.start()
    thread.join(max(end - time.monotonic(), 0))
    is_over.set()
    return dict(found)


class SpaceGauge:
    """Measures folders again and again, in a thread of its own; what was measured last is there at once.

    Args:
        again_s: a folder is measured again after so long.
    """

    def __init__(self, again_s: float) -> None:
        self._again_s = again_s
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Space]] = {}
        self._thread: threading.Thread | None = None

    def spaces(self, folders: Iterable[str]) -> dict[str, Space]:
        """Return what is known, and have what is not, or no more, measured.

        Args:
            folders: paths of those that are of interest.
        """
        now = time.monotonic()
        wanted = list(folders)
        with self._lock:
            fresh = {path: kept for path in wanted if (kept := self._known.get(path)) is not None}
            self._known = fresh
            stale = [path for path in wanted if path not in fresh or now - fresh[path][0] >= self._again_s]
            if stale and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(
                    target=self._measure, args=(stale,), name="space", daemon=True
                )
                self._thread.start()
            keep_s = 3 * self._again_s + 60
            return {path: space for path, (at, space) in fresh.items() if now - at < keep_s}

    def _measure(self, folders: list[str]) -> None:
        for folder in folders:
            space = measure_space(Path(folder))
            with self._lock:
                if space is None:
                    self._known.pop(folder, None)
                else:
                    self._known[folder] = (time.monotonic(), space)
