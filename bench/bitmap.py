"""Captures from a dirty bitmap of a running disk, against copying the same dirty extents out with `nbdcopy`.

nbdcopy cannot read a bitmap. So it is given the dirty extents ready made: an export in which nothing else is
allocated, by the granularity of the bitmap. Our side does all: it has qemu hold a moment of the disk and change
bitmaps, reads the marks, reads the extents, compares them with the chain, and writes an image.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.ground import VOLUME, Ground
from bench.nbd import NbdWriter
from bench.report import Goal, Row
from bench.timing import Contender, fsync, take_turns
from hsr.restore import restore
from storage.capture import capture
from storage.nbd_uri import NbdUri
from storage.source_guest import GuestAccess
from tests.commands import copy_sparse, run, tool
from tests.guest import NODE, running_guest
from tests.history import History

AT_MOST: Final = 2.0
CLUSTER_BYTES: Final = 65_536
"""What one bit of the bitmap stands for."""

_START_LIMIT_S: Final = 30.0


def compare(ground: Ground) -> list[Row]:
    """Measure captures of one state after the other, each written through the disk's own export."""
    disk = ground.folder / "guest.raw"
    copy_sparse(ground.history.base_path, disk)
    folder, sockets = ground.new_folder("guest-images"), ground.new_folder("guest")
    rounds = min(ground.rounds, ground.history.last.number - 1)
    with running_guest(sockets, disk, export="") as guest:

        def capture_ours(_round: int) -> None:
            access = GuestAccess(guest.control, NODE, server=NbdUri(guest.nbd), scratch=ground.folder)
            made = capture(access, folder, VOLUME, now=datetime.now(UTC))
            images.append(made.path)
            if len(images) > 1 and not access.reads_marked:
                raise AssertionError(f"the bitmap was not used: {access.notes}")

        images: list[Path] = []
        capture_ours(0)
        extents = DirtyExtents(ground)
        ours, theirs = "capture from a dirty bitmap", "nbdcopy of the dirty extents"
        contenders = [
            Contender(
                ours,
                capture_ours,
                lambda number: _write(ground.history, number + 1, guest.nbd),
                inputs=images,  # as many as there are by then
            ),
            Contender(theirs, extents.copy, extents.prepare, inputs=[extents.path]),
        ]
        timings = take_turns(contenders, rounds, ground.report)
    extents.end()
    restored = ground.folder / "guest-restored.raw"
    restore(images, restored)
    ground.must_be(restored, rounds + 1)
    for path in (restored, disk):
        path.unlink()
    note = "nbdcopy cannot read bitmaps: it is given an export of the dirty extents alone"
    return [
        Row("incremental, dirty bitmap", timings[ours], timings[theirs], Goal.SHARE_OF_TIME, AT_MOST, note)
    ]


class DirtyExtents:
    """What changed from one state to the next, as an export of its own, and nbdcopy to copy it out."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._replay = ground.history.replay(ground.folder / "dirty-now.raw")
        self.path = ground.folder / "dirty.raw"
        self._socket = ground.folder / "dirty.sock"
        self._copied = ground.folder / "dirty-copied.raw"
        self._server = contextlib.ExitStack()

    def prepare(self, number: int) -> None:
        """Bring the export to state `number` + 1."""
        self._server.close()
        self.path.unlink(missing_ok=True)
        self._copied.unlink(missing_ok=True)
        size = self._replay.roll_to(number + 1).volume_bytes
        with self._replay.path.open("rb", buffering=0) as now, self.path.open("wb", buffering=0) as file:
            file.truncate(size)
            for offset, length in self._ground.history.ranges(number + 1).tolist():
                first = offset // CLUSTER_BYTES * CLUSTER_BYTES
                stop = min(-(-(offset + length) // CLUSTER_BYTES) * CLUSTER_BYTES, size)
                os.pwrite(file.fileno(), os.pread(now.fileno(), stop - first, first), first)
        self._server.enter_context(_served(self.path, self._socket))

    def copy(self, _round: int) -> None:
        """Copy the extents out."""
        run("nbdcopy", f"nbd+unix:///?socket={self._socket}", str(self._copied))
        fsync(self._copied)

    def end(self) -> None:
        """Take everything away."""
        self._server.close()
        for path in (self.path, self._copied, self._replay.path):
            path.unlink()


def _write(history: History, number: int, socket: Path) -> None:
    """Write what a state changed into the disk, as its guest would."""
    with (
        NbdWriter(socket) as nbd,
        (history.folder / f"state-{number:03d}.bytes").open("rb", buffering=0) as source,
    ):
        for offset, length in history.ranges(number).tolist():
            for at in range(offset, offset + length, 1 << 20):
                nbd.write(at, source.read(min(1 << 20, offset + length - at)))


@contextlib.contextmanager
def _served(path: Path, socket: Path) -> Iterator[None]:
    command = [tool("qemu-nbd"), "--read-only", "--persistent", "--shared", "8", "--format", "raw"]
    with subprocess.Popen([*command, "--socket", str(socket), str(path)]) as server:
        try:
            deadline = time.monotonic() + _START_LIMIT_S
            while not socket.exists():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("qemu-nbd did not start")
                time.sleep(0.005)
            yield
        finally:
            server.terminate()
    socket.unlink(missing_ok=True)
