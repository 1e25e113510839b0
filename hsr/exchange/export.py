"""Exporting a point as a disk image of another program: qemu-img writes it, reading the point over NBD.

No raw copy is made on the way. The image gets its name when it is whole and synced.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hsr.exchange.formats import DiskFormat
from hsr.exchange.qemu import Complaint, Tether, begin_tool, find_tool
from hsr.restore import restore
from hsr.serving.background import served_in_background
from policies.errors import ConfigurationError, RestoreError
from policies.names import parse_image_name
from storage.parts import image_files
from storage.pipeline import Progress, no_progress
from storage.publish import PartialFile

if TYPE_CHECKING:
    from hsr.serving.point import PointReader
    from storage.keys import ChainKey

VHD_BYTES_MAX: Final = 2040 << 30
"""What the format can hold; larger volumes need VHDX."""

_OPTIONS: Final = {
    DiskFormat.VHD: ("-o", "subformat=dynamic,force_size=on"),
    DiskFormat.VHDX: ("-o", "subformat=dynamic"),
    DiskFormat.VMDK: ("-o", "subformat=monolithicSparse"),
}
_PERCENT: Final = re.compile(rb"\((\d+\.\d+)/100%\)")
_SECTOR: Final = 512


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported point.

    Attributes:
        target: the new file.
        volume_bytes: size of the volume.
        disk_bytes: size of the disk that a guest sees; rounded up to what the format can say, the rest zero.
        stored_bytes: size of the file.
    """

    target: Path
    volume_bytes: int
    disk_bytes: int
    stored_bytes: int


def export(
    images: Sequence[Path],
    target: Path,
    disk_format: DiskFormat,
    *,
    tethered: Tether,
    key: ChainKey | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Exported:
    """Write the point that a path of images leads to as a disk image.

    As in a restore, every frame of every image is read and checked, those that newer ones hide before the others.

    Args:
        images: images in the order of application, the first a base.
        target: the file to be made.
        disk_format: its format.
        tethered: makes the program that writes it end with this process.
        key: the key of an encrypted chain.
        overwrite: replace the target, if it exists.
        progress: told how far it is, in bytes: first of what is stored, then of the volume.

    Returns:
        What was made.

    Raises:
        ConfigurationError: the target exists, the volume is too large for the format, or qemu-img is missing.
        FormatError: an image is damaged.
        PasswordError: the chain is encrypted, and there is no key.
        RestoreError: qemu-img failed, or the target's medium refuses.
        StorageError: an image cannot be read.

    Crash: a partial file that the next writer in the folder sweeps away; an older file stays as it is.
    """
    _check_target(target, overwrite, images)
    if disk_format is DiskFormat.RAW:
        done = restore(images, target, key=key, overwrite=overwrite, progress=progress)
        return Exported(target, done.volume_bytes, done.volume_bytes, target.stat().st_size)
    from hsr.serving.point import PointReader

    with PointReader(images, key=key) as point:
        _check_size(point.size_bytes, disk_format, target)
        progress = _check_hidden(images, point.size_bytes, progress)
        with PartialFile(target, replacing=overwrite) as partial:
            _write(point, partial.path, disk_format, target, tethered, progress)
            if disk_format is DiskFormat.VMDK:
                _name_in_descriptor(partial.fd, partial.path.name, target.name)
            disk_bytes = _disk_bytes(partial.path, disk_format, target)
            stored_bytes = os.fstat(partial.fd).st_size
            if overwrite:
                partial.replace()
            else:
                partial.publish()
        return Exported(target, point.size_bytes, disk_bytes, stored_bytes)


def _check_target(target: Path, overwrite: bool, images: Sequence[Path]) -> None:
    if os.path.lexists(target):
        if parse_image_name(target.name) is not None or _is_one_of(target, images):
            raise ConfigurationError("is one of the images, or named like one", path=str(target))
        if not target.is_file() or target.is_symlink():
            raise ConfigurationError("is not a regular file", path=str(target))
        if not overwrite:
            raise ConfigurationError(
                "exists already",
                path=str(target),
                hint="Name another file, or say --overwrite to replace it.",
            )
    if not target.parent.is_dir():
        raise ConfigurationError("the folder of the target does not exist", path=str(target))


def _is_one_of(target: Path, images: Sequence[Path]) -> bool:
    files = (path for image in images for path in image_files(image))
    return any(target.exists() and target.samefile(path) for path in files)


def _check_size(volume_bytes: int, disk_format: DiskFormat, target: Path) -> None:
    if disk_format is DiskFormat.VHD and volume_bytes > VHD_BYTES_MAX:
        raise ConfigurationError(
            "the volume is too large for VHD",
            path=str(target),
            expected=f"at most {VHD_BYTES_MAX:,} bytes",
            actual=f"{volume_bytes:,}",
            hint="Export it as VHDX.",
        )


def _check_hidden(images: Sequence[Path], volume_bytes: int, progress: Progress) -> Progress:
    """Check what qemu-img will not come to read, since the point does not show it.

    Returns:
        What is to be told of the volume from then on; both together are the whole.
    """
    from storage.hidden_frames import check_hidden
    from storage.overlay import Overlay

    with Overlay(images) as overlay:
        first = overlay.frames_bytes
        check_hidden(overlay, lambda done_bytes, _: progress(done_bytes, first + volume_bytes))
    return lambda done_bytes, total_bytes: progress(first + done_bytes, first + total_bytes)


def _write(
    point: PointReader,
    partial: Path,
    disk_format: DiskFormat,
    target: Path,
    tethered: Tether,
    progress: Progress,
) -> None:
    tool = find_tool("qemu-img")
    with served_in_background(point, "export") as served:
        source = {
            "driver": "raw",
            "file": {"driver": "nbd", "server": {"type": "unix", "path": str(served.socket)}},
        }
        options = ("-t", "writeback", "-O", disk_format.driver, *_OPTIONS.get(disk_format, ()))
        command = (
            tool,
            "convert",
            "-p",
            *options,
            f"json:{json.dumps(source)}",
            f"file:{partial.absolute()}",
        )
        running = begin_tool(tethered(*command))
        complaint = Complaint(running)
        try:
            _follow_progress(running, point.size_bytes, progress)
            code = running.wait()
        finally:
            if running.poll() is None:
                running.kill()
                running.wait()
            words = complaint.words()
            if running.stdout is not None:
                running.stdout.close()
        if served.failure is not None:
            raise served.failure
        if code != 0:
            raise RestoreError(f"qemu-img could not write it: {words}", path=str(target))


def _follow_progress(running: subprocess.Popen[bytes], volume_bytes: int, progress: Progress) -> None:
    if running.stdout is None:
        return
    while piece := os.read(running.stdout.fileno(), 4096):
        found = _PERCENT.findall(piece)
        if found:
            progress(int(volume_bytes * float(found[-1]) / 100), volume_bytes)


def _disk_bytes(partial: Path, disk_format: DiskFormat, target: Path) -> int:
    command = (
        find_tool("qemu-img"),
        "info",
        "--output=json",
        "-f",
        disk_format.driver,
        f"file:{partial.absolute()}",
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RestoreError(f"qemu-img cannot read what it wrote: {done.stderr.strip()}", path=str(target))
    return int(json.loads(done.stdout)["virtual-size"])


def _name_in_descriptor(fd: int, partial_name: str, name: str) -> None:
    """A VMDK names itself in its descriptor: put the final name there.

    Source: "VMDK Virtual Disk Format 1.1", "Hosted Sparse Extent Header".
    """
    offset, size = struct.unpack_from("<2Q", os.pread(fd, _SECTOR, 0), 28)
    descriptor = os.pread(fd, size * _SECTOR, offset * _SECTOR)
    named = descriptor.replace(os.fsencode(partial_name), os.fsencode(name))
    os.pwrite(fd, named[: len(descriptor)].ljust(len(descriptor), b"\0"), offset * _SECTOR)
