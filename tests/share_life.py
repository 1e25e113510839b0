"""What a disk goes through on a share that the kernel mounts, as a program: WORK MOUNTED KIND…

It says `KIND: FIGURE` for each kind, and `ALL IS WELL` at the end. A file `WORK/kill` asks for the server to be killed
and started again; it is gone once that is done.
"""

from __future__ import annotations

import contextlib
import pickle
import re
import sys
import threading
import time
from pathlib import Path

from hsr.disks.form import DiskKind
from hsr.disks.medium import LocalMedium
from hsr.disks.shares import refuse_unmounted
from hsr.disks.side_files import SidePaths
from hsr.rolling.cursor_file import cursor_path, read_cursor
from hsr.rolling.disk import RollingDisk, read_standing
from policies.cursor import roll_on_path
from policies.errors import RestoreError, RollforwardError
from tests.rolling_world import JOB, RollingWorld

WELL = "ALL IS WELL"
COPIED, LAST = 4, 6
"""The points at which the copy and the disk are finalized."""


def main() -> None:
    """Live through all of it."""
    work, mounted, *kinds = sys.argv[1:]
    world: RollingWorld = pickle.loads((Path(work) / "world").read_bytes())
    place = Path(mounted)
    if Path("/proc/fs/cifs").exists():
        refuse_unmounted(place)
    for kind in map(DiskKind, kinds):
        folder = place / kind.value
        folder.mkdir()
        print(f"{kind}: {live(world, folder, kind, Path(work))}", flush=True)
    print(WELL, flush=True)


def live(world: RollingWorld, folder: Path, kind: DiskKind, work: Path) -> str:
    """Build, roll, copy and finalize a disk; its server is killed once, while an image is applied."""
    path, before = folder / "disk.img", _flushes()
    with (
        RollingDisk.begin(path, kind, world.place, job_uid=JOB, chain_id=world.chain_id) as disk,
        _Reader(path),
    ):
        for number in (0, 1, COPIED):
            disk.apply(images_to(world, disk, number))
        _must_be_refused(path)
        if not disk.copy_at(world.points[COPIED], folder / "copy.img"):
            raise AssertionError("no copy")
    asked = _flushes() - before
    with RollingDisk.open(path) as disk:
        images = images_to(world, disk, LAST)
        told = _kill_under(disk, images, work)
    with RollingDisk.open(path) as disk:
        disk.apply(images)
        if disk.read(0, world.room_bytes) != world.truth(world.points[LAST]):
            raise AssertionError("it holds something else")
        disk.finalize(world.points[LAST])
    return f"{asked} syncs asked for, {told}"


def _kill_under(disk: RollingDisk, images: list[Path], work: Path) -> str:
    killed = threading.Event()

    def kill(*_: object) -> None:
        if not killed.is_set():
            killed.set()
            (work / "kill").touch()
            while (work / "kill").exists():
                time.sleep(0.05)

    try:
        disk.apply(images, progress=kill)
    except RestoreError as error:
        return error.reason
    if Path("/proc/fs/cifs").exists():
        raise AssertionError("the server was killed, and nobody noticed")
    return "no server"


def _must_be_refused(path: Path) -> None:
    """Nobody else may open a disk that is open."""
    try:
        RollingDisk.open(path).close()
    except RollforwardError as error:
        if "worked on" in error.reason:
            return
        raise
    raise AssertionError("the disk was opened twice")


class _Reader(threading.Thread):
    """Reads a cursor all the time, as those do who show where disks stand."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._path, self._over, self._missing = path, threading.Event(), 0

    def run(self) -> None:
        paths = SidePaths.beside(self._path)
        while not self._over.is_set():
            with contextlib.suppress(RestoreError):  # while the file is being taken away
                self._missing += read_cursor(LocalMedium(), paths) is None
            with contextlib.suppress(OSError), cursor_path(paths).open("rb") as held:
                held.read()
                self._over.wait(0.02)  # longer than any reader needs
            self._over.wait(0.01)

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        if self._missing or read_standing(self._path) is None:
            raise AssertionError("a cursor was missing")


def _flushes() -> int:
    """Tell how often the kernel asked servers to sync."""
    try:
        found = re.findall(r"Flushes: (\d+)", Path("/proc/fs/cifs/Stats").read_text())
    except OSError:
        return 0
    return sum(map(int, found))


def images_to(world: RollingWorld, disk: RollingDisk, number: int) -> list[Path]:
    """Return the images that lead a disk to a point."""
    path = roll_on_path(disk.cursor, list(world.spans), world.points[number].id)
    if path is None:
        raise AssertionError("no way")
    return world.paths(path)


if __name__ == "__main__":
    main()
