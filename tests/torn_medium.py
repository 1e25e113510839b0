"""A medium in memory whose power fails at a step of our choice: what was not synced is there in part, or not at all.

Writes of up to a page reach it whole or not at all, of longer ones some pieces; names of a folder reach it in their
order, up to some of them. What was synced stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random

from hsr.disks.pieces import Pieces
from policies.errors import ConfigurationError

SECTOR_BYTES = 512
PAGE_BYTES = 4096
_CLOCK = count(1)


class PowerCut(Exception):  # noqa: N818 - it is what happens, not what is wrong
    """The power is gone."""


def _write(content: bytearray, offset: int, piece: bytes) -> None:
    if len(content) < offset + len(piece):
        content.extend(bytes(offset + len(piece) - len(content)))
    content[offset : offset + len(piece)] = piece


def _truncate(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


@dataclass
class Stored:
    """A file: what is there now, what is durable, and what was done in between."""

    now: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes] | int] = field(default_factory=list)
    time: int = 0
    durable_time: int = 0

    def do(self, deed: tuple[int, bytes] | int) -> None:
        _do(self.now, deed)
        self.pending.append(deed)
        self.time = next(_CLOCK)

    def sync(self) -> None:
        for deed in self.pending:
            _do(self.durable, deed)
        self.pending.clear()

    def torn(self, random: Random) -> Stored:
        content = bytearray(self.durable)
        for deed in self.pending:
            if isinstance(deed, int):
                if random.random() < 0.5:
                    _do(content, deed)
                continue
            for piece in _sectors(*deed):
                if random.random() < 0.5:
                    _do(content, piece)
        time = random.choice((self.time, self.durable_time))
        return Stored(content, bytearray(content), time=time, durable_time=time)


def _do(content: bytearray, deed: tuple[int, bytes] | int) -> None:
    if isinstance(deed, int):
        _truncate(content, deed)
    else:
        _write(content, *deed)


def _sectors(offset: int, content: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut a write into some 16 pieces, at sectors; one of a page stays whole."""
    unit = (
        PAGE_BYTES
        if len(content) <= PAGE_BYTES
        else SECTOR_BYTES * max(1, len(content) // SECTOR_BYTES // 16)
    )
    for at in range(0, len(content), unit):
        yield offset + at, content[at : at + unit]


class TornMedium:
    """A medium that counts steps. A double of `hsr.disks.medium.LocalMedium`.

    Args:
        cut_at: the step that fails; None for none.
    """

    def __init__(self, cut_at: int | None = None) -> None:
        self.cut_at = cut_at
        self.steps = 0
        self.names: dict[Path, Stored] = {}
        self._durable_names: dict[Path, Stored] = {}
        self._pending: list[tuple[Path, Callable[[dict[Path, Stored]], object]]] = []

    def step(self) -> None:
        self.steps += 1
        if self.cut_at is not None and self.steps >= self.cut_at:
            raise PowerCut

    def recovered(self, random: Random, cut_at: int | None = None) -> TornMedium:
        """Give the medium as it is found when the power is back."""
        names = dict(self._durable_names)
        kept: dict[Path, int] = {}
        for folder in {folder for folder, _ in self._pending}:
            count = sum(1 for other, _ in self._pending if other == folder)
            kept[folder] = random.randint(0, count)
        for folder, deed in self._pending:
            if kept[folder]:
                kept[folder] -= 1
                deed(names)
        after = TornMedium(cut_at)
        after.names = {path: stored.torn(random) for path, stored in names.items()}
        after._durable_names = dict(after.names)
        return after

    def _name(self, folder: Path, deed: Callable[[dict[Path, Stored]], object]) -> None:
        self.step()
        deed(self.names)
        self._pending.append((folder, deed))

    def open(self, path: Path, *, create: bool = False) -> TornFile:
        if create:
            if path in self.names:
                raise ConfigurationError("exists already", path=str(path))
            stored = Stored()
            self._name(path.parent, lambda names: names.__setitem__(path, stored))
        return TornFile(self, self.names[path])

    def exists(self, path: Path) -> bool:
        return path in self.names

    def identity(self, path: Path) -> str:
        return f"serial {path.name}"

    def load(self, path: Path, limit_bytes: int) -> bytes | None:
        stored = self.names.get(path)
        return None if stored is None else bytes(stored.now[:limit_bytes])

    def clone(self, source: Path, target: Path) -> bool:
        return False

    def copy(self, source: Path, target: Path, told: Callable[[int, int], bool]) -> bool:
        content, file = bytes(self.names[source].now), self.open(target, create=True)
        file.truncate(len(content))
        for at in range(0, len(content), 1 << 20):
            if told(at, len(content)):
                return False
            if any(piece := content[at : at + (1 << 20)]):
                file.write(piece, at)
        file.sync()
        return True

    def look(self, path: Path) -> tuple[int, int] | None:
        stored = self.names.get(path)
        return None if stored is None else (len(stored.now), stored.time)

    def settle_time(self, path: Path) -> None:
        self.step()
        stored = self.names[path]
        stored.sync()
        self.step()
        stored.durable_time = stored.time

    def set_writable(self, path: Path, *, is_writable: bool) -> None:
        self.step()

    def make_folder(self, path: Path) -> None:
        self.step()

    def rename(self, source: Path, target: Path) -> None:
        self._name(target.parent, lambda names: names.__setitem__(target, names.pop(source)))

    def publish(self, source: Path, target: Path) -> None:
        if target in self.names:
            raise ConfigurationError("exists already", path=str(target))
        self.rename(source, target)
        self.sync_folder(target.parent)

    def remove_folder(self, path: Path) -> None:
        self.step()
        assert not any(name.parent == path for name in self.names)

    def remove(self, path: Path) -> None:
        if path in self.names:
            self._name(path.parent, lambda names: names.pop(path, None))

    def sync_folder(self, path: Path) -> None:
        self.step()
        for folder, deed in self._pending:
            if folder == path:
                deed(self._durable_names)
        self._pending = [pair for pair in self._pending if pair[0] != path]


def contents_of(pieces: Pieces) -> Iterator[tuple[int, bytes]]:
    """Yield pieces, neighbours joined: where each goes, and what it is."""
    joined = pieces.joined()
    columns = (column.tolist() for column in (joined.offsets, joined.starts, joined.lengths))
    for offset, start, length in zip(*columns, strict=True):
        yield offset, joined.buffer[start : start + length].tobytes()


class TornFile:
    def __init__(self, medium: TornMedium, stored: Stored) -> None:
        self._medium, self._stored = medium, stored

    def _do(self, deed: tuple[int, bytes] | int) -> None:
        self._stored.do(deed)
        self._medium.step()

    def write(self, content: bytes | memoryview, offset: int) -> None:
        self._do((offset, bytes(content)))

    def write_pieces(self, pieces: Pieces) -> None:
        for offset, content in contents_of(pieces):
            self.write(content, offset)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._stored.now[offset : offset + size])

    def zero(self, offset: int, size: int) -> None:
        self._do((offset, bytes(size)))

    def size_bytes(self) -> int:
        return len(self._stored.now)

    def truncate(self, size_bytes: int) -> None:
        self._do(size_bytes)

    def sync(self) -> None:
        self._medium.step()
        self._stored.sync()

    def close(self) -> None:
        pass
