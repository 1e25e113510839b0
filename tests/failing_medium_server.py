"""The file system behind `tests.failing_medium`; it runs in a process of its own until it is unmounted.

    python -m tests.failing_medium_server BACKING MOUNT FAULTS

FAULTS is a JSON file, looked at before every read: {"NAME": {"kind": "error" or "cut", "at": byte}, …}. With "error",
a read that takes in the byte ends with EIO. With "cut", the first such read finds the file cut off there, for good,
as if another program had truncated it under the reader's hands.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import mfusepy as fuse


class Passthrough(fuse.Operations):  # type: ignore[misc]
    """A folder, passed through but for the faults."""

    use_ns = True

    def __init__(self, backing: Path, faults: Path) -> None:
        self.backing = backing
        self.faults = faults

    def __call__(self, op: str, path: str, *args: Any) -> Any:
        return super().__call__(op, path, *args)

    def real(self, path: str) -> Path:
        return self.backing / path.lstrip("/")

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        status = self.real(path).lstat()
        names = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_ino")
        times = {f"st_{name}time": getattr(status, f"st_{name}time_ns") for name in "acm"}
        return {name: getattr(status, name) for name in names} | times

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *(entry.name for entry in self.real(path).iterdir())]

    def statfs(self, path: str) -> dict[str, int]:
        status = os.statvfs(self.real(path))
        return {
            name: getattr(status, name) for name in dir(status) if name.startswith("f_") and name != "f_fsid"
        }

    def open(self, path: str, flags: int) -> int:
        return os.open(self.real(path), flags & ~(os.O_CREAT | os.O_EXCL))

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return os.open(self.real(path), os.O_RDWR | os.O_CREAT, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        fault = json.loads(self.faults.read_text()).get(path.lstrip("/"))
        if fault is not None and offset <= fault["at"] < offset + size:
            if fault["kind"] == "error":
                raise fuse.FuseOSError(errno.EIO)
            if self.real(path).stat().st_size > fault["at"]:
                os.truncate(self.real(path), fault["at"])
        return os.pread(fh, size, offset)

    def write(self, path: str, content: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, content, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self.real(path), length)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        os.fsync(fh)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def unlink(self, path: str) -> None:
        self.real(path).unlink()

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        self.real(old).rename(self.real(new))

    def mkdir(self, path: str, mode: int) -> None:
        self.real(path).mkdir(mode)

    def rmdir(self, path: str) -> None:
        self.real(path).rmdir()

    def chmod(self, path: str, mode: int) -> None:
        self.real(path).chmod(mode)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        os.utime(self.real(path), ns=times)


if __name__ == "__main__":
    backing, mount, faults = (Path(word) for word in sys.argv[1:4])
    fuse.FUSE(
        Passthrough(backing, faults),
        str(mount),
        foreground=True,
        nothreads=True,
        direct_io=True,
        attr_timeout=0,
        entry_timeout=0,
    )
