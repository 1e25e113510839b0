"""Mounting a point: its raw file by FUSE and, for root, the file system in it through a loop device."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hsr.serving.fused import DISK, PARTITION, FusedPoint, Part, unmount_fuse
from hsr.serving.partitions import choose_partition, file_system_of
from hsr.serving.readable import Readable
from hsr.serving.tools import run_tool
from policies.errors import ConfigurationError
from storage.mounts import mounts
from storage.scratch import is_scratch, scratch_folder, sweep_scratch

_MOUNT: Final = "mount"
_SHOWN: Final = "shown"

_SAFE: Final = "ro,nosuid,nodev,noexec,loop"
_OPTIONS: Final = {"ext4": "noload", "xfs": "norecovery,nouuid"}
"""What keeps a file system that was in use when it was captured from wanting to replay its journal."""


class Mounted:
    """A mounted point.

    Attributes:
        at: where.
        is_raw: whether it is the raw file that is there, rather than the files in it.
    """

    def __init__(self, at: Path, fused: FusedPoint, *, is_raw: bool) -> None:
        self.at = at
        self.is_raw = is_raw
        self._fused = fused

    def wait(self) -> None:
        """Wait until somebody unmounts it, or its server is gone."""
        server = os.pidfd_open(self._fused.pid)
        try:
            with Path("/proc/self/mountinfo").open("rb") as table:
                poll = select.poll()
                poll.register(table, select.POLLERR | select.POLLPRI)
                poll.register(server, select.POLLIN)
                while os.path.ismount(self.at):
                    if any(fd == server for fd, _ in poll.poll()):
                        return
        except OSError:  # the mount is dead: its server is gone
            return
        finally:
            os.close(server)


@contextlib.contextmanager
def mounted(
    reader: Readable, at: Path, *, partition: int | None, raw: bool, time_s: float
) -> Iterator[Mounted]:
    """Mount a point, read-only.

    Args:
        reader: the volume.
        at: an empty folder.
        partition: which partition; None for the only one, or a volume without a table.
        raw: show `disk.raw` there, even to root; others get no more in any case.
        time_s: what the raw file is dated, in seconds since 1970.

    Yields:
        The mount; it is taken away afterwards.

    Raises:
        ConfigurationError: it cannot be mounted there, or has no file system that the kernel knows.

    Crash: this process killed, its child unmounts; the child killed too, `rollforward unmount` does.
    """
    if not at.is_dir() or any(at.iterdir()):
        raise ConfigurationError("is no empty folder", path=str(at))
    files = {DISK: Part(0, reader.size_bytes)}
    if raw:
        with FusedPoint(reader, at, files, time_s) as fused:
            yield Mounted(at, fused, is_raw=True)
        return
    offset, size = choose_partition(reader, partition)
    files[PARTITION] = Part(offset, size)
    kind = _file_system(reader, offset, size)
    with scratch_folder(_MOUNT) as folder:
        room = folder / _SHOWN
        room.mkdir()
        with FusedPoint(reader, room, files, time_s, lambda: _clear(at, room)) as fused:
            _mount_kernel(room / PARTITION, at, kind)
            try:
                yield Mounted(at, fused, is_raw=False)
            finally:
                _unmount_kernel(at)


def _file_system(reader: Readable, offset: int, size: int) -> str | None:
    start = bytearray(min(4096, size))
    reader.read_into(offset, memoryview(start))
    return file_system_of(start)


def _mount_kernel(file: Path, at: Path, kind: str | None) -> None:
    options = ",".join(filter(None, [_SAFE, _OPTIONS.get(kind or "", "")]))
    told = run_tool("mount", "-o", options, "--", str(file), str(at))
    if told.returncode:
        raise ConfigurationError(
            f"cannot be mounted: {told.stderr.decode(errors='replace').strip()}",
            path=str(at),
            hint="--raw shows the raw file instead; `rollforward ls` reads ext4 and NTFS without the kernel.",
        )


def _unmount_kernel(at: Path) -> None:
    if os.path.ismount(at):
        run_tool("umount", "--lazy", "--", str(at))


def _clear(at: Path, room: Path) -> None:
    """Take the kernel's mount, that of the raw file and its folder away."""
    _unmount_kernel(at)
    unmount_fuse(room)
    with contextlib.suppress(OSError):  # others may be at it, too
        room.rmdir()
        room.parent.rmdir()


def unmount(at: Path) -> None:
    """Take away what `mounted` left, or still has, at a folder.

    Raises:
        ConfigurationError: nothing of ours is mounted there.
    """
    source, kind = _mount_at(at)
    if source == "rollforward" and kind.startswith("fuse"):
        unmount_fuse(at)
        return
    told = run_tool("losetup", "--noheadings", "--output", "BACK-FILE", "--", source)
    file = Path(told.stdout.decode(errors="surrogateescape").strip())
    if told.returncode or not is_scratch(file.parent.parent, _MOUNT):
        raise ConfigurationError("is mounted, but not by rollforward", path=str(at))
    _clear(at, file.parent)
    sweep_scratch(file.parents[2])


def _mount_at(at: Path) -> tuple[str, str]:
    """Say what is mounted at a folder: source and type, the topmost of several."""
    at = at.absolute()
    wanted = os.fsencode(Path(os.path.realpath(at.parent), at.name))
    found = None
    for mount in mounts():
        if os.fsencode(mount.at) == wanted:
            found = (mount.source, mount.kind)
    if found is None:
        raise ConfigurationError("is not mounted", path=str(at))
    return found


@contextlib.contextmanager
def looked_into(reader: Readable, *, partition: int | None) -> Iterator[tuple[Path, str | None]]:
    """Offer a volume, or a partition of it, as a raw file to programs.

    Args:
        reader: the volume.
        partition: which partition; None for the only one, or a volume without a table.

    Yields:
        The file, and what file system is in it (see `file_system_of`).

    Raises:
        ConfigurationError: FUSE cannot be used, or there is no such partition.

    Crash: this process killed, its child unmounts.
    """
    offset, size = choose_partition(reader, partition)
    kind = _file_system(reader, offset, size)
    with scratch_folder("look") as folder:
        room = folder / _SHOWN
        room.mkdir()
        with FusedPoint(reader, room, {PARTITION: Part(offset, size)}, 0.0):
            yield room / PARTITION, kind
