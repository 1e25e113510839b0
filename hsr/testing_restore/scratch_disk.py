"""A stretch of a point as a file that may be written to: qemu keeps what is written in an overlay."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hsr.booting.overlay import make_overlay
from hsr.exchange.qemu import Complaint, Tether, begin_tool, find_tool
from hsr.serving.fused import Part
from policies.errors import ConfigurationError, RestoreError
from storage.scratch import scratch_folder

_READY_S: Final = 60.0
_END_S: Final = 30.0
_ROOM_LEFT_BYTES: Final = 1 << 16
"""With less than a cluster of qemu's left, something may not have been written."""


@contextmanager
def writable_part(socket: Path, part: Part, tethered: Tether) -> Iterator[Path]:
    """Show a stretch of a disk as a file; what is written to it is gone afterwards.

    Args:
        socket: the NBD socket from which the disk is read.
        part: the stretch.
        tethered: makes the program that shows it end with this process.

    Raises:
        ConfigurationError: qemu's tools, or FUSE, are not there.
        RestoreError: there was no room for all that was written.

    Crash: scratch folders, which the next command sweeps away.
    """
    room = Path(tempfile.gettempdir())
    with scratch_folder("check") as folder, scratch_folder("check", room) as spacious:
        overlay, shown = spacious / "overlay.qcow2", folder / "disk"
        shown.touch(mode=0o600)
        make_overlay(overlay, part.size_bytes)
        running = begin_tool(tethered(*_command(socket, part, overlay, shown)))
        complaint = Complaint(running)
        try:
            _wait_until_shown(shown, running, complaint)
            yield shown
            if shutil.disk_usage(spacious).free < _ROOM_LEFT_BYTES:
                raise RestoreError(
                    "there is no room for what the check of a file system writes",
                    path=str(room),
                    hint="Let TMPDIR name a folder that has some.",
                )
        finally:
            running.terminate()
            try:
                running.wait(_END_S)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
            complaint.words()
            if running.stdout is not None:
                running.stdout.close()


def _command(socket: Path, part: Part, overlay: Path, shown: Path) -> list[str]:
    nodes: list[dict[str, object]] = [
        {
            "driver": "nbd",
            "node-name": "point",
            "server": {"type": "unix", "path": str(socket)},
            "read-only": True,
        },
        {
            "driver": "raw",
            "node-name": "part",
            "file": "point",
            "offset": part.offset,
            "size": part.size_bytes,
            "read-only": True,
        },
        {"driver": "file", "node-name": "overlay", "filename": str(overlay)},
        {"driver": "qcow2", "node-name": "disk", "file": "overlay", "backing": "part"},
    ]
    export = {"type": "fuse", "id": "shown", "node-name": "disk", "mountpoint": str(shown), "writable": True}
    options = [*(("--blockdev", node) for node in nodes), ("--export", export)]
    return [
        find_tool("qemu-storage-daemon"),
        *(word for name, value in options for word in (name, json.dumps(value))),
    ]


def _wait_until_shown(shown: Path, running: subprocess.Popen[bytes], complaint: Complaint) -> None:
    deadline = time.monotonic() + _READY_S
    while shown.stat().st_dev == shown.parent.stat().st_dev:
        if running.poll() is not None or time.monotonic() > deadline:
            running.kill()
            running.wait()
            raise ConfigurationError(f"cannot be shown as a file by qemu: {complaint.words()}")
        time.sleep(0.01)
