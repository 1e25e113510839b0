"""A tiny volume and its chain, made through the engine's own front doors; nothing in it is pretended."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from hsr.restore import Restored, restore
from storage.capture import capture
from storage.chain import load_chain
from storage.consolidate import consolidate
from storage.key_area import key_file_path
from storage.key_files import unlock
from storage.keys import ChainKey
from storage.writer import Published

VOLUME = "D_VOL"
START = datetime(2026, 3, 2, 0, 30, tzinfo=UTC)
GRANULE = 512
BLOCK = 65_536


def noise(size: int, seed: int = 0) -> bytes:
    """Give bytes that do not compress."""
    return np.random.default_rng(seed).bytes(size)


class Password:
    """A password that everybody is told who asks."""

    def __init__(self, password: bytes = b"a password") -> None:
        self.password = password

    def known(self, volume: str) -> bytes:
        del volume
        return self.password

    def new(self, volume: str) -> bytes:
        del volume
        return self.password


class TinyVolume:
    """A raw file, the folder that its images go to, and what the volume held at each point.

    Args:
        home: an empty folder.
        name: name of the volume.
        password: encrypts its chains.
    """

    def __init__(self, home: Path, name: str = VOLUME, password: Password | None = None) -> None:
        self.name = name
        self.password = password
        self.raw = home / "volume.raw"
        self.folder = home / "images"
        self.folder.mkdir(parents=True)
        self.raw.touch()
        self.states: dict[int, bytes] = {}

    def put(self, offset: int, content: bytes) -> None:
        """Write into the volume, which grows as a file does."""
        with self.raw.open("r+b") as file:
            file.seek(offset)
            file.write(content)

    def resize(self, size_bytes: int) -> None:
        os.truncate(self.raw, size_bytes)

    def capture(self, *, new_base: bool = False) -> Published:
        """Capture the volume as it is, an hour after the last point."""
        now = START + timedelta(hours=len(self.states))
        made = capture(
            self.raw,
            self.folder,
            self.name,
            now=now,
            new_base=new_base,
            encrypt=self.password is not None,
            passwords=self.password,
        )
        self.states[made.header.end.number] = self.raw.read_bytes()
        return made

    def capture_states(self, states: Sequence[bytes]) -> list[Published]:
        """Let the volume be each of some contents in turn, and capture each."""
        made = []
        for content in states:
            self.raw.write_bytes(content)
            made.append(self.capture())
        return made

    def image(self, number: int = 0, ending: str = "") -> Path:
        """Name the image that leads to a point, such as image(5, "-cd")."""
        if number == 0:
            return self.folder / f"{self.name}-b001.spf"
        return self.folder / f"{self.name}-b001-i{number:03d}{ending}.spi"

    def merge(self, after: int, upto: int, ending: str) -> Published:
        """Merge whatever leads from one point to another, as the command does."""
        chain = load_chain(self.folder, self.name)
        plan = chain.merge(chain.point(after), chain.point(upto))
        return consolidate([self.folder / span.name for span in plan.sources], self.image(upto, ending))

    def restore(self, number: int, target: Path, *, overwrite: bool = False) -> Restored:
        chain = load_chain(self.folder, self.name)
        return restore(chain.path_to(chain.point(number)), target, key=self.key(), overwrite=overwrite)

    def key(self, base: int = 1) -> ChainKey | None:
        """Open the key of a chain; None of a plain one."""
        if self.password is None:
            return None
        images = load_chain(self.folder, self.name, base).images
        headers = [image.header for image in images if image.header and not image.stands_out]
        path = key_file_path(self.folder, self.name, base)
        return unlock(path, headers, self.password.password, for_reading=True).key

    def copy(self, home: Path) -> TinyVolume:
        """Copy volume, images and all, into another empty folder."""
        other = TinyVolume(home, self.name, self.password)
        shutil.copytree(self.folder, other.folder, dirs_exist_ok=True)
        shutil.copyfile(self.raw, other.raw)
        other.states = dict(self.states)
        return other

    def check(self, *numbers: int) -> None:
        """Restore points, all of them if none is named, and compare each with what the volume held."""
        for number in numbers or self.states:
            target = self.folder.parent / f"restored-{number}.raw"
            self.restore(number, target, overwrite=True)
            assert target.read_bytes() == self.states[number], f"point {number} came back otherwise"
            target.unlink()


def names(folder: Path) -> list[str]:
    """List a folder, hidden files too."""
    return sorted(entry.name for entry in folder.iterdir())


def open_files() -> set[str]:
    """Say which files this process holds open."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(entry.readlink()))
        except OSError:  # the descriptor that lists the folder
            continue
    return {name for name in found if name.startswith("/") and not name.startswith(("/dev/", "/proc/"))}


def fill(folder: Path, left_bytes: int) -> None:
    """Fill a file system until about so much is left."""
    with (folder / "filler").open("ab", buffering=0) as file:
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        file.write(bytes(max(free - left_bytes, 0)))
        os.fsync(file.fileno())
