"""Volumes that live: a file server's ext4 volume, and one that shrinks and grows.

`tests.history` records what they go through.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import itertools
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.commands import copy_sparse, is_clean_ext4, run

PAGE_BYTES = 4096
MIB = 1 << 20

VOLUME_UUID = "5a1ad0e5-0000-4000-8000-726f6c6c6677"
FIRST_TIME_S = 1_700_000_000
"""The clock of mkfs and debugfs, in seconds since 1970; each state is an hour later."""

EXTENT_ROW = re.compile(r"\s*(\d+)/\s*(\d+)\s+\d+/\s*\d+\s+\d+ -\s+\d+\s+(\d+) -\s+\d+\s+(\d+)")
"""A line of debugfs' `ex`: depth, depth of leaves, first block, number of blocks."""

PLAIN_NAME = re.compile(r"[!#-\[\]-~]+")
"""A path of printable ASCII without blanks, double quotes and backslashes."""


class LivingVolume(abc.ABC):
    """Changes a working volume, `now.raw`, from state to state; `tests.history` keeps what differs."""

    states: int
    volume: Path

    @abc.abstractmethod
    def change(self, number: int) -> tuple[str, bool]:
        """Bring the volume into the given state; return a note and whether it stays clean."""


# --- a file server's volume


@dataclasses.dataclass(frozen=True, slots=True)
class _Extent:
    """A run of blocks of a file, in bytes from the start of the volume."""

    offset: int
    length: int


class _Ext4:
    """A raw file with an ext4 file system, changed from outside without ever putting it out of order."""

    def __init__(self, path: Path, size_bytes: int, tree: Path) -> None:
        self.path = path
        with path.open("wb") as file:
            file.truncate(size_bytes)
        identity = ("-U", VOLUME_UUID, "-E", f"hash_seed={VOLUME_UUID}", "-L", "server")
        clock = {"E2FSPROGS_FAKE_TIME": str(FIRST_TIME_S)}
        run(
            "mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", *identity, "-d", str(tree), str(path), env=clock
        )
        self.files: dict[str, tuple[_Extent, ...]] = {}
        self.learn([f"/{path.relative_to(tree)}" for path in sorted(tree.rglob("*")) if path.is_file()])

    def debugfs(self, commands: list[str], *, write: bool = False) -> str:
        """Run debugfs commands on the volume and return what they print."""
        with tempfile.NamedTemporaryFile("w", suffix=".debugfs") as script:
            script.write("\n".join(commands) + "\n")
            script.flush()
            return run("debugfs", *(["-w"] if write else []), "-f", script.name, str(self.path))

    def learn(self, names: list[str]) -> None:
        """Ask where the blocks of the named files lie."""
        printed = self.debugfs([f"ex {name}" for name in names])
        name = ""
        found: dict[str, list[_Extent]] = {name: [] for name in names}
        for line in printed.splitlines():
            if line.startswith("debugfs: ex "):
                name = line.removeprefix("debugfs: ex ")
            elif row := re.match(
                r"\s*(\d+)/\s*(\d+)\s+\d+/\s*\d+\s+\d+ -\s+\d+\s+(\d+) -\s+\d+\s+(\d+)", line
            ):
                depth, levels, first, blocks = map(int, row.groups())
                if depth == levels and "Uninit" not in line:
                    found[name].append(_Extent(first * PAGE_BYTES, blocks * PAGE_BYTES))
        self.files.update((name, tuple(extents)) for name, extents in found.items() if extents)

    def remove_files(self, names: list[str]) -> None:
        """Remove files, and zero the blocks that they held, as a trim does."""
        freed = [extent for name in names for extent in self.files.pop(name)]
        self.debugfs([f"rm {name}" for name in names], write=True)
        with self.path.open("r+b", buffering=0) as file:
            for extent in freed:
                os.pwrite(file.fileno(), bytes(extent.length), extent.offset)

    def add_files(self, sources: dict[str, Path], time_s: int) -> None:
        """Add files, given as name in the volume → file to copy."""
        commands = [f"set_current_time @{time_s}"]
        commands += [f"write {source} {name}" for name, source in sources.items()]
        self.debugfs(commands, write=True)
        self.learn(list(sources))

    def size_of(self, name: str) -> int:
        """Sum up the blocks of a file, in bytes."""
        return sum(extent.length for extent in self.files[name])


class ServerVolume(LivingVolume):
    """An ext4 volume of real files that lives on: rewritten files, pages, a hot region, trims, A→B→A."""

    def __init__(self, folder: Path, size_bytes: int, used_bytes: int, states: int, seed: int) -> None:
        self.states = states
        self.random = random.Random(seed)
        work = folder / "work"
        tree = work / "tree"
        tree.mkdir(parents=True)
        state_bytes = size_bytes * 146 // 10_000
        self.state_bytes = state_bytes
        spare = _fill_tree(tree, used_bytes, self.random)
        self.pool = _Pool(spare, max(8 * MIB, 2 * state_bytes), self.random)
        self.volume = work / "now.raw"
        self.ext4 = _Ext4(self.volume, size_bytes, tree)
        shutil.rmtree(tree)
        self.spare = [path for path in spare if path.stat().st_size < state_bytes // 8]
        self.hot = self._reserve(state_bytes * 15 // 100)
        self.flipped = self._reserve(state_bytes * 4 // 100)
        self.flipped_before: list[bytes] = []
        self.back_at = max(3, states * 6 // 10)
        self.before = work / "two-before.raw"

    def _reserve(self, size_bytes: int) -> list[_Extent]:
        """Take whole files out of the choice for other changes, and return their blocks."""
        taken: list[_Extent] = []
        while sum(extent.length for extent in taken) < size_bytes:
            name = self.random.choice(sorted(self.ext4.files))
            taken += self.ext4.files.pop(name)
        return taken

    def change(self, number: int) -> tuple[str, bool]:
        """Make one hour's changes; at one point of the history, undo the last hour's altogether."""
        if number == self.back_at - 1:
            copy_sparse(self.volume, self.before)
        if number == self.back_at:
            self.before.replace(self.volume)
            return "everything as it was two states before", True
        files = dict(self.ext4.files)
        with self.volume.open("r+b", buffering=0) as file:
            self._rewrite_files(file.fileno(), self.state_bytes * 68 // 100)
            self._write_pages(file.fileno(), self.state_bytes * 4 // 100)
            self._write_hot(file.fileno())
            self._flip(file.fileno(), number)
        self._come_and_go(number)
        if number == self.back_at - 1:
            self.ext4.files = files
        return "files rewritten, pages, hot region, files added, files removed and trimmed", True

    def _rewrite_files(self, fd: int, size_bytes: int) -> None:
        """Rewrite whole files where they lie, large ones rather than small, up to a number of bytes."""
        names = sorted(self.ext4.files)
        weights = list(itertools.accumulate(self.ext4.size_of(name) for name in names))
        while size_bytes > 0:
            (name,) = self.random.choices(names, cum_weights=weights)
            for extent in self.ext4.files[name]:
                length = min(extent.length, -(-size_bytes // PAGE_BYTES) * PAGE_BYTES)
                if length > 0:
                    os.pwrite(fd, self.pool.take(length), extent.offset)
                    size_bytes -= length

    def _write_pages(self, fd: int, size_bytes: int) -> None:
        """Write single 4 KiB pages anywhere in files; of one in eight, only some bytes change."""
        extents = [extent for name in sorted(self.ext4.files) for extent in self.ext4.files[name]]
        weights = [extent.length for extent in extents]
        pages = size_bytes // PAGE_BYTES
        for number, extent in enumerate(self.random.choices(extents, weights, k=pages)):
            offset = extent.offset + self.random.randrange(extent.length // PAGE_BYTES) * PAGE_BYTES
            if number % 8 == 0:
                offset += self.random.randrange(PAGE_BYTES - 200)
                os.pwrite(fd, self.pool.take(100), offset)
            else:
                os.pwrite(fd, self.pool.take(PAGE_BYTES), offset)

    def _write_hot(self, fd: int) -> None:
        """Write most pages of the hot region, as every state does."""
        for extent in self.hot:
            for offset in range(extent.offset, extent.offset + extent.length, 4 * PAGE_BYTES):
                if self.random.random() < 0.8:
                    length = min(4 * PAGE_BYTES, extent.offset + extent.length - offset)
                    os.pwrite(fd, self.pool.take(length), offset)

    def _flip(self, fd: int, number: int) -> None:
        """Write B over the flipped region, and A again in the next state; then leave it for one state."""
        if number % 3 == 1:
            self.flipped_before = [os.pread(fd, extent.length, extent.offset) for extent in self.flipped]
            for extent in self.flipped:
                os.pwrite(fd, self.pool.take(extent.length), extent.offset)
        elif number % 3 == 2:
            for extent, content in zip(self.flipped, self.flipped_before, strict=True):
                os.pwrite(fd, content, extent.offset)

    def _come_and_go(self, number: int) -> None:
        """Add real files, remove others, and trim the blocks that nobody uses any longer."""
        added: dict[str, Path] = {}
        room_bytes = self.state_bytes * 6 // 100
        while room_bytes > 0 and len(added) < 200:
            source = self.random.choice(self.spare)
            added[f"/d000/s{number:03d}-{len(added):03d}"] = source
            room_bytes -= max(source.stat().st_size, PAGE_BYTES)
        removed: list[str] = []
        room_bytes = self.state_bytes * 8 // 100
        names = [name for name in sorted(self.ext4.files) if self.ext4.size_of(name) <= room_bytes]
        self.random.shuffle(names)
        while room_bytes > 0 and len(names) > 8:
            removed.append(names.pop())
            room_bytes -= self.ext4.size_of(removed[-1])
        self.ext4.remove_files(removed)
        self.ext4.add_files(added, FIRST_TIME_S + 3600 * number)


class _Pool:
    """Real bytes to write over others: a long run of file contents, taken from at random places."""

    def __init__(self, files: list[Path], size_bytes: int, chooser: random.Random) -> None:
        self.random = chooser
        content = bytearray()
        for path in files:
            if len(content) >= size_bytes:
                break
            content += path.read_bytes()[: size_bytes // 4]
        while len(content) < size_bytes:
            content += content[: size_bytes - len(content)] or b"rollforward "
        self.content = bytes(content[:size_bytes])

    def take(self, length: int) -> bytes:
        """Return that many bytes from a random place, marked so that no two takings are equal."""
        marked = bytearray()
        while len(marked) < length:
            start = self.random.randrange(len(self.content))
            marked += self.content[start : start + length - len(marked)]
        for at in range(0, length, PAGE_BYTES):
            stamp = self.random.getrandbits(64).to_bytes(8, "little")
            marked[at : at + 8] = stamp[: length - at]
        return bytes(marked)


def _fill_tree(tree: Path, used_bytes: int, chooser: random.Random) -> list[Path]:
    """Copy real files into a tree until it holds `used_bytes`; return the files that were not taken."""
    files = _real_files(3 * used_bytes, largest_bytes=used_bytes // 16)
    chooser.shuffle(files)
    left_bytes, taken = used_bytes, 0
    while left_bytes > 0:
        source, size_bytes = files[taken % len(files)]
        folder = tree / f"d{taken % 512 // 8:03d}"
        folder.mkdir(exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9.+-]", "_", Path(source).name)[-80:]
        shutil.copyfile(source, folder / f"{taken:06d}-{name}")
        os.utime(folder / f"{taken:06d}-{name}", (FIRST_TIME_S, FIRST_TIME_S))
        left_bytes -= -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
        taken += 1
    left = files[taken:] if taken < len(files) - 100 else files
    return [Path(name) for name, _ in left]


def _real_files(enough_bytes: int, largest_bytes: int) -> list[tuple[str, int]]:
    """List the machine's own files with sizes, sorted: packages, programs, documents, until enough."""
    roots = (sys.prefix, "/usr/bin", "/usr/share", "/usr/lib", "/usr/local", sys.base_prefix)
    found: dict[str, int] = {}
    for root in roots:
        if sum(found.values()) < enough_bytes:
            found.update(_files_under(os.path.realpath(root), largest_bytes))
    if not found:
        raise RuntimeError("this machine shows no files to fill a volume with")
    return sorted(found.items())


def _files_under(folder: str, largest_bytes: int) -> Iterator[tuple[str, int]]:
    """Yield readable plain files with their sizes, whose names debugfs takes as they are."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and entry.name != "__pycache__":
                yield from _files_under(entry.path, largest_bytes)
            elif entry.is_file(follow_symlinks=False) and PLAIN_NAME.fullmatch(entry.path):
                size_bytes = entry.stat(follow_symlinks=False).st_size
                if 0 < size_bytes <= largest_bytes and os.access(entry.path, os.R_OK):
                    yield entry.path, size_bytes


# --- a volume that shrinks and grows


class ResizedVolume(LivingVolume):
    """An ext4 volume that is resized with its file system in it, then cut and extended anywhere."""

    def __init__(self, folder: Path, size_bytes: int, seed: int) -> None:
        self.random = random.Random(seed)
        work = folder / "work"
        tree = work / "tree"
        tree.mkdir(parents=True)
        self.pool = _Pool(_fill_tree(tree, size_bytes // 3, self.random), 8 * MIB, self.random)
        self.volume = work / "now.raw"
        self.ext4 = _Ext4(self.volume, size_bytes, tree)
        self.cut = b""
        page = size_bytes // 100 // PAGE_BYTES * PAGE_BYTES
        self.steps: list[tuple[str, Callable[[], bool]]] = [
            ("shrunk with its file system", lambda: self._resize(page * 70)),
            ("grown with its file system", lambda: self._resize(page * 110)),
            ("cut at an odd size", lambda: self._cut_to(page * 80 + 1234)),
            ("extended by zeros to an odd size", lambda: self._extend_to(page * 90 + 512 * 3 + 7, b"")),
            ("cut below, at a sector", lambda: self._cut_to(page * 60 + 512)),
            ("extended by the bytes that were cut", lambda: self._extend_to(page * 80 + 1234, self.cut)),
            ("cut by one byte", lambda: self._cut_to(page * 80 + 1233)),
            ("extended by new bytes", lambda: self._extend_to(page * 120, self.pool.take(page))),
        ]
        self.states = len(self.steps)

    def change(self, number: int) -> tuple[str, bool]:
        """Resize, then change some pages of what is left."""
        note, resize = self.steps[number - 1]
        clean = resize()
        if not clean:
            size = self.volume.stat().st_size
            with self.volume.open("r+b", buffering=0) as file:
                for _ in range(20):
                    os.pwrite(
                        file.fileno(), self.pool.take(PAGE_BYTES), self.random.randrange(size - PAGE_BYTES)
                    )
                os.pwrite(file.fileno(), b"end", size - 3)
        return note, clean

    def _resize(self, size_bytes: int) -> bool:
        """Resize file system and volume together."""
        clock = {"E2FSPROGS_FAKE_TIME": str(FIRST_TIME_S)}
        grows = size_bytes > self.volume.stat().st_size
        if grows:
            os.truncate(self.volume, size_bytes)
        run("e2fsck", "-fy", str(self.volume), env=clock)
        run("resize2fs", str(self.volume), f"{size_bytes // 1024}K", env=clock)
        if not grows:
            os.truncate(self.volume, size_bytes)
        return is_clean_ext4(self.volume)

    def _cut_to(self, size_bytes: int) -> bool:
        """Cut the volume off, remembering what was lost."""
        with self.volume.open("rb") as file:
            file.seek(size_bytes)
            self.cut = file.read()
        os.truncate(self.volume, size_bytes)
        return False

    def _extend_to(self, size_bytes: int, content: bytes) -> bool:
        """Extend the volume: by `content` as far as that goes, then by zeros."""
        end = self.volume.stat().st_size
        os.truncate(self.volume, size_bytes)
        with self.volume.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), content[: size_bytes - end], end)
        return False
