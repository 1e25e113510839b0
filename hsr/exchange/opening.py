"""Opening a disk image of another program: the guest's disk appears as a raw file, made up as it is read.

qemu-storage-daemon shows the disk through FUSE, so that no copy of it is needed.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hsr.exchange.formats import DiskFormat, ForeignDisk
from hsr.exchange.qemu import Complaint, Tether, begin_tool, find_tool
from policies.errors import ConfigurationError, SourceError
from storage.scratch import scratch_folder

_READY_S: Final = 60.0
_END_S: Final = 30.0


@contextmanager
def opened_disk(disk: ForeignDisk, *, follow: bool, tethered: Tether) -> Iterator[Path]:
    """Show the guest's disk as a raw file.

    Args:
        disk: the image.
        follow: whether other files that it names may be opened.
        tethered: makes the program that shows it end with this process.

    Yields:
        The file; read-only, gone afterwards. For a raw image it is the image itself.

    Raises:
        ConfigurationError: it names other files, which was not allowed; or what is needed is not installed.
        SourceError: qemu cannot open it, or it cannot be read.

    Crash: a scratch folder, which the next command sweeps away.
    """
    if disk.others and not follow:
        raise ConfigurationError(
            f"names {' and '.join(disk.others)} beside itself",
            path=str(disk.path),
            hint="Whoever made it chose which. If you trust it, say --follow.",
        )
    if disk.format is DiskFormat.RAW:
        yield disk.path
        return
    if not Path("/dev/fuse").exists():
        raise ConfigurationError(
            "the kernel has no FUSE, which images other than raw are read through",
            hint=f"Load it, or make a raw file: qemu-img convert -f {disk.format.driver} -O raw",
        )
    with scratch_folder("import") as folder:
        shown = folder / "disk"
        shown.touch(mode=0o600)
        running = begin_tool(tethered(*_command(disk, shown, follow)))
        complaint = Complaint(running)
        try:
            _wait_until_shown(disk, shown, running, complaint)
            yield shown
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


def _command(disk: ForeignDisk, shown: Path, follow: bool) -> list[str]:
    file = {"driver": "file", "node-name": "file", "filename": str(disk.path.absolute()), "read-only": True}
    node: dict[str, object] = {
        "driver": disk.format.driver,
        "node-name": "disk",
        "file": "file",
        "read-only": True,
    }
    if not follow and disk.format in (DiskFormat.QCOW2, DiskFormat.VMDK):
        node["backing"] = None
    export = {"type": "fuse", "id": "shown", "node-name": "disk", "mountpoint": str(shown), "writable": False}
    options = (("--blockdev", file), ("--blockdev", node), ("--export", export))
    return [
        find_tool("qemu-storage-daemon"),
        *(word for name, value in options for word in (name, json.dumps(value))),
    ]


def _wait_until_shown(
    disk: ForeignDisk, shown: Path, running: subprocess.Popen[bytes], complaint: Complaint
) -> None:
    deadline = time.monotonic() + _READY_S
    while shown.stat().st_dev == shown.parent.stat().st_dev:
        if running.poll() is not None or time.monotonic() > deadline:
            running.kill()
            running.wait()
            raise SourceError(f"cannot be opened by qemu: {complaint.words()}", path=str(disk.path))
        time.sleep(0.01)
