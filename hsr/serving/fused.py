"""A point as raw files in a folder, by FUSE, served by a process of its own.

FOLDER/disk.raw         the volume
FOLDER/partition.raw    a stretch of it, if one is asked for
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from hsr.serving.readable import Readable
from hsr.serving.tools import run_tool, tool
from policies.errors import ConfigurationError, RollforwardError
from policies.packed_errors import pack_error, unpack_error

if TYPE_CHECKING:
    from types import TracebackType

DISK: Final = "disk.raw"
PARTITION: Final = "partition.raw"
_ENDS_S: Final = 3.0
_READY: Final = b"1"

_log = structlog.get_logger("mount")


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a volume that is shown as a file: offset and size, in bytes."""

    offset: int
    size_bytes: int


class FusedPoint:
    """Mounts the files and has a child process serve them. A context manager.

    The child notices when this process ends, however that happens, and takes its mount away.

    Args:
        reader: the volume; no thread may be using it.
        folder: where to mount: an empty folder.
        parts: the files, by name.
        time_s: what they are dated, in seconds since 1970.
        clear: takes the mount away; called in the child when this process is gone. Only that of the files, if
            not given.

    Raises:
        ConfigurationError: FUSE cannot be used here.

    Crash: nothing is left mounted, unless the child is killed as well: then `umount --lazy` clears the folder.
    """

    def __init__(
        self,
        reader: Readable,
        folder: Path,
        parts: Mapping[str, Part],
        time_s: float,
        clear: Callable[[], None] | None = None,
    ) -> None:
        _load_fuse()
        tool("fusermount3")
        self.folder = folder
        lifeline_end, self._lifeline = os.pipe()
        ready, ready_end = os.pipe()
        self._failed = os.memfd_create("rollforward-fused")
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._lifeline)
            os.close(ready)
            _serve_in_child(
                _Files(reader, parts, time_s, ready_end, self._failed), folder, lifeline_end, clear
            )
        os.close(lifeline_end)
        os.close(ready_end)
        is_ready = os.read(ready, 1) == _READY
        os.close(ready)
        if not is_ready:
            self.close()
            raise ConfigurationError(
                "cannot be mounted by FUSE",
                path=str(folder),
                hint="Is /dev/fuse there, and may this user open it?",
            )

    def close(self) -> None:
        """Unmount; harmless when that is done.

        The child ends when nobody uses the files any more, which may be later.
        """
        if self._lifeline < 0:
            return
        unmount_fuse(self.folder)
        os.close(self._lifeline)
        os.close(self._failed)
        self._lifeline = -1
        child = os.pidfd_open(self.pid)
        if select.select([child], [], [], _ENDS_S)[0]:
            os.waitpid(self.pid, 0)
        os.close(child)

    @property
    def failure(self) -> RollforwardError | None:
        """The first error that reading the images met, until it is closed; who reads the files learns no details."""
        size = os.fstat(self._failed).st_size
        return unpack_error(json.loads(os.pread(self._failed, size, 0))) if size else None

    def __enter__(self) -> FusedPoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def unmount_fuse(folder: Path) -> None:
    """Unmount FUSE files; those that are in use go when they are let go."""
    if os.path.ismount(folder) or _is_dead(folder):
        run_tool("fusermount3", "-u", "-z", "-q", "--", str(folder))


def _is_dead(folder: Path) -> bool:
    try:
        folder.stat()
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def _load_fuse() -> Any:
    try:
        import mfusepy
    except (ImportError, OSError, AttributeError) as error:  # without libfuse it fails while it is imported
        raise ConfigurationError(
            f"FUSE is not there: {error}", hint="On Debian, the packages fuse3 and libfuse3-3 have it."
        ) from error
    return mfusepy


def _serve_in_child(files: _Files, folder: Path, lifeline: int, clear: Callable[[], None] | None) -> None:
    """Serve until unmounted; never returns."""
    code = 1
    try:
        os.setsid()  # Ctrl-C is for the parent, which then unmounts
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

        def watch() -> None:
            os.read(lifeline, 1)
            if clear is None:
                unmount_fuse(folder)
            else:
                clear()

        threading.Thread(target=watch, daemon=True).start()
        fuse = _load_fuse()
        fuse.FUSE(files, str(folder), foreground=True, ro=True, fsname="rollforward", kernel_cache=True)
        code = 0
    except RuntimeError:  # what mfusepy raises where it cannot mount; the parent says it
        pass
    finally:
        os._exit(code)


class _Files:
    """Answers the kernel; what it does not answer is not possible here."""

    use_ns = True

    def __init__(
        self, reader: Readable, parts: Mapping[str, Part], time_s: float, ready: int, failed: int
    ) -> None:
        self._reader = reader
        self._parts = {f"/{name}": part for name, part in parts.items()}
        self._time_ns = int(time_s * 1e9)
        self._ready = ready
        self._failed = failed
        self._lock = threading.Lock()
        self._told: set[tuple[str | None, int | None]] = set()

    def init(self, path: str) -> None:
        os.write(self._ready, _READY)
        os.close(self._ready)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        common = {f"st_{kind}time": self._time_ns for kind in "acm"}
        common |= {"st_uid": os.getuid(), "st_gid": os.getgid()}
        if path == "/":
            return common | {"st_mode": stat.S_IFDIR | 0o500, "st_nlink": 2}
        part = self._part(path)
        return common | {"st_mode": stat.S_IFREG | 0o400, "st_nlink": 1, "st_size": part.size_bytes}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *(name[1:] for name in self._parts)]

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        part = self._part(path)
        size = max(min(size, part.size_bytes - offset), 0)
        try:
            at_once = self._reader.read_at_once(part.offset + offset, size) if size else b""
            if at_once is not None:
                return at_once
            plain = bytearray(size)
            self._reader.read_into(part.offset + offset, memoryview(plain))
            return bytes(plain)
        except RollforwardError as error:
            self._tell(error)
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from error

    def _part(self, path: str) -> Part:
        if path not in self._parts:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self._parts[path]

    def _tell(self, error: RollforwardError) -> None:
        place = (error.path, error.offset)
        with self._lock:
            is_first, is_new = not self._told, place not in self._told
            self._told.add(place)
        if is_first:
            os.write(self._failed, json.dumps(pack_error(error)).encode())
        if is_new:
            _log.error("read_failed", path=error.path, offset=error.offset, text=str(error))
