"""Looking into file systems without mounting them: ext4 by debugfs, NTFS by the tools of ntfs-3g.

No name from within is ever part of a command: entries are addressed by number, or passed as one argument.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from hsr.serving.tools import run_tool, tool
from policies.errors import ConfigurationError, SourceError

_EXT4_ROW: Final = re.compile(rb"/(\d+)/(\d+)/\d+/\d+/([^/]*)/(\d*)/\n")
_EXT4_MTIME: Final = re.compile(rb"^ mtime: 0x([0-9a-f]{8})(?::([0-9a-f]{8}))?", re.MULTILINE)
_EXT4_FAST_LINK: Final = re.compile(rb'^Fast link dest: "(.*)"\s*\Z', re.MULTILINE | re.DOTALL)
_EXT4_ROOT: Final = "2"
_NTFS_ROW: Final = re.compile(rb"^\s*(\d+)\s+(\d+) \w{3} [ \d]\d \d\d:\d\d \d{4} (.*)$")
_NTFS_TIME: Final = re.compile(rb"File Altered Time:\s+\w{3} (\w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}) UTC")
_NTFS_ROOT: Final = "5"
_LINK_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a folder of a file system.

    Attributes:
        name: its name; bytes that are no UTF-8 are kept as surrogates.
        number: its inode, or its MFT record.
        mode: type and permissions, as `stat` has them.
        size_bytes: its size; 0 where it has none.
        path: where it is, from the root on.
    """

    name: str
    number: str
    mode: int
    size_bytes: int
    path: str

    @property
    def is_folder(self) -> bool:
        """Whether it holds entries."""
        return stat.S_ISDIR(self.mode)


class FileSystem(Protocol):
    """A file system that is looked into."""

    root: Entry

    def entries(self, folder: Entry) -> list[Entry]:
        """List a folder, without "." and ".."; raises SourceError where it cannot be read."""

    def time_ns(self, entry: Entry) -> int | None:
        """Return when an entry was last changed, in nanoseconds since 1970; None where that is not told."""

    def read(self, entry: Entry, fd: int) -> None:
        """Write a file's bytes to a descriptor; raises SourceError where they cannot be read whole."""

    def link_target(self, entry: Entry) -> bytes:
        """Return where a symbolic link leads; raises SourceError where that cannot be read."""


def open_file_system(raw: Path, kind: str | None) -> FileSystem:
    """Open the file system in a raw file.

    Args:
        raw: the file.
        kind: what `hsr.serving.partitions.file_system_of` says of it.

    Raises:
        ConfigurationError: it is of another kind than ext4 and NTFS.
    """
    if kind == "ext4":
        return _Ext4(raw)
    if kind == "ntfs":
        return _Ntfs(raw)
    raise ConfigurationError(
        f"the volume holds {kind or 'no file system that is known'}, not ext4 or NTFS",
        hint="Several partitions? Say --partition. As root, `rollforward mount` takes what the kernel knows.",
    )


def find(system: FileSystem, path: str) -> Entry:
    """Return the entry at a path; symbolic links are not followed.

    Raises:
        ConfigurationError: there is none.
        SourceError: the file system cannot be read.
    """
    entry = system.root
    for name in filter(None, path.split("/")):
        found = [each for each in system.entries(entry) if each.name == name] if entry.is_folder else []
        if not found:
            raise ConfigurationError("there is no such file or folder at that point", path=path)
        entry = found[0]
    return entry


def _stream(program: str, arguments: list[str], entry: Entry, fd: int) -> None:
    """Have a program write a file's bytes, and see that they are as many as they should be."""
    before = os.lseek(fd, 0, os.SEEK_CUR)
    told = subprocess.run(
        [tool(program), *arguments], stdout=fd, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False
    )
    got = os.lseek(fd, 0, os.SEEK_CUR) - before
    if told.returncode or got != entry.size_bytes:
        raise SourceError("could not be read whole", path=entry.path, expected=entry.size_bytes, actual=got)


class _Ext4:
    def __init__(self, raw: Path) -> None:
        self._raw = str(raw)
        self.root = Entry("/", _EXT4_ROOT, stat.S_IFDIR | 0o755, 0, "/")

    def entries(self, folder: Entry) -> list[Entry]:
        told = self._ask(f"ls -p <{folder.number}>")
        found = []
        for number, mode, name_bytes, size in _EXT4_ROW.findall(told):
            name = os.fsdecode(name_bytes)
            if name not in {".", "..", ""} and int(number):
                path = f"{folder.path.rstrip('/')}/{name}"
                found.append(Entry(name, number.decode(), int(mode, 8), int(size or 0), path))
        if not told.strip():
            raise SourceError("is a folder that cannot be read", path=folder.path)
        return found

    def time_ns(self, entry: Entry) -> int | None:
        found = _EXT4_MTIME.search(self._ask(f"stat <{entry.number}>"))
        if found is None:
            return None
        seconds, more = int(found[1], 16), int(found[2] or b"0", 16)
        seconds -= (seconds >> 31) << 32
        return (seconds + ((more & 3) << 32)) * 1_000_000_000 + (more >> 2)

    def read(self, entry: Entry, fd: int) -> None:
        _stream("debugfs", ["-R", f"cat <{entry.number}>", self._raw], entry, fd)

    def link_target(self, entry: Entry) -> bytes:
        if entry.size_bytes >= _LINK_BYTES_MAX:
            raise SourceError("is a link that leads too far", path=entry.path)
        fast = _EXT4_FAST_LINK.search(self._ask(f"stat <{entry.number}>"))
        target = fast[1] if fast else self._ask(f"cat <{entry.number}>")
        if len(target) != entry.size_bytes or not target or b"\0" in target:
            raise SourceError("is a link that cannot be read", path=entry.path)
        return target

    def _ask(self, request: str) -> bytes:
        return run_tool("debugfs", "-R", request, self._raw).stdout


class _Ntfs:
    def __init__(self, raw: Path) -> None:
        self._raw = str(raw)
        self.root = Entry("/", _NTFS_ROOT, stat.S_IFDIR | 0o755, 0, "/")

    def entries(self, folder: Entry) -> list[Entry]:
        told = run_tool("ntfsls", "-F", "-i", "-l", "-p", folder.path, self._raw)
        if told.returncode:
            words = told.stderr.decode(errors="replace").strip()
            raise SourceError(f"cannot be listed: {words}", path=folder.path)
        rows: list[list[bytes]] = []
        for line in told.stdout.split(b"\n")[:-1]:
            row = _NTFS_ROW.match(line)
            if row:
                rows.append([row[1], row[2], row[3]])
            elif rows:  # a name may hold a line end
                rows[-1][2] += b"\n" + line
        found = []
        for number, size, shown in rows:
            is_folder = shown.endswith(b"/")
            name = os.fsdecode(shown.removesuffix(b"/"))
            if name not in {".", "..", ""}:
                mode = stat.S_IFDIR | 0o755 if is_folder else stat.S_IFREG | 0o644
                path = f"{folder.path.rstrip('/')}/{name}"
                found.append(Entry(name, number.decode(), mode, 0 if is_folder else int(size), path))
        return found

    def time_ns(self, entry: Entry) -> int | None:
        found = _NTFS_TIME.search(run_tool("ntfsinfo", "-i", entry.number, self._raw).stdout)
        if found is None:
            return None
        time = datetime.strptime(found[1].decode(), "%b %d %H:%M:%S %Y").replace(tzinfo=UTC)
        return int(time.timestamp()) * 1_000_000_000

    def read(self, entry: Entry, fd: int) -> None:
        _stream("ntfscat", ["-i", entry.number, self._raw], entry, fd)

    def link_target(self, entry: Entry) -> bytes:
        raise SourceError("is a link, which cannot be read from NTFS", path=entry.path)
