"""A bed for checks of any size: a volume's history, a folder of its images, and the command that handles them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from storage.parts import image_files, part_path
from tests.command import Command, Ran, in_this_process, with_password
from tests.commands import sha256_of
from tests.history import GIB, History

VOLUME = "D_VOL"


@dataclasses.dataclass(frozen=True)
class Bed:
    """What a check works with.

    Attributes:
        folder: an empty folder to work in.
        history: the volume.
        per_day: how many states make a day.
        per_week: how many states make a week; a multiple of `per_day`.
        command: how `rollforward` is run.
        part_bytes: size of the parts that images are written in; None for one file each.
    """

    folder: Path
    history: History
    per_day: int
    per_week: int
    command: Command = in_this_process
    part_bytes: int | None = None
    _numbers: itertools.count[int] = dataclasses.field(default_factory=itertools.count)

    @property
    def last(self) -> int:
        """Number of the newest state."""
        return self.history.last.number

    @property
    def numbers(self) -> range:
        """The numbers of all states."""
        return range(self.last + 1)

    @property
    def spanning(self) -> tuple[str, ...]:
        """What commands that write images are told of parts."""
        return () if self.part_bytes is None else ("--part-size", str(self.part_bytes))

    @functools.cached_property
    def chain(self) -> Path:
        """A folder with the base and an incremental for every state, as captured; never to be changed."""
        folder = self.new_folder("chain")
        replay = self.history.replay(self.folder / "captured.raw")
        for number in self.numbers:
            replay.roll_to(number)
            self.must("capture", replay.path, "--into", folder, "--volume", VOLUME, *self.spanning)
        replay.path.unlink()
        return folder

    def must(self, *arguments: str | Path) -> Ran:
        """Run `rollforward … --json`, which has to succeed."""
        ran = self.command(*arguments, "--json")
        assert ran.code == 0, str(ran)
        return ran

    def new_folder(self, name: str = "folder") -> Path:
        """Make an empty folder."""
        folder = self.folder / f"{name}-{next(self._numbers)}"
        folder.mkdir()
        return folder

    def linked(self, source: Path, names: Iterable[str] | None = None) -> Path:
        """Make a folder with links to the named images of another (all without names), and to what it remembers.

        Images never change, so a link is as good as a copy: removing it leaves the other.
        """
        folder = self.new_folder()
        chosen = None if names is None else [file for name in names for file in image_files(source / name)]
        for path in sorted(source.iterdir()) if chosen is None else chosen:
            if path.is_file():
                os.link(path, folder / path.name)
        if (source / ".rollforward").exists():
            shutil.copytree(source / ".rollforward", folder / ".rollforward")
        return folder

    def consolidate(self, folder: Path, after: int, upto: int, tier: str) -> Path:
        """Roll up; return the new image."""
        steps = ("--after", str(after), "--upto", str(upto), "--tier", tier)
        (made,) = self.must("consolidate", folder, "--volume", VOLUME, *steps, *self.spanning).objects
        return Path(made["path"])

    def make_full(self, folder: Path, upto: int) -> Path:
        """Make a synthetic full; return it."""
        steps = ("--upto", str(upto), "--full")
        (made,) = self.must("consolidate", folder, "--volume", VOLUME, *steps, *self.spanning).objects
        return Path(made["path"])

    def roll_up(self, folder: Path, tier: str) -> list[Path]:
        """Roll a folder up by days, weeks or into one month, whatever images serve; return the new images."""
        step = {"daily": self.per_day, "weekly": self.per_week, "monthly": self.last}[tier]
        ends = [*range(step, self.last, step), self.last]
        return [
            self.consolidate(folder, after, upto, tier) for after, upto in zip([0, *ends], ends, strict=False)
        ]

    def restore(self, folder: Path, number: int) -> Path:
        """Restore a point to a new file and return that."""
        target = self.folder / f"restored-{next(self._numbers)}.raw"
        self.must("restore", folder, "--volume", VOLUME, "--point", str(number), "--to", target)
        return target

    def must_restore(self, folder: Path, numbers: Iterable[int]) -> int:
        """Restore points and compare each with the volume, while the next is on its way; return how many."""

        def compare(target: Path, number: int) -> None:
            self.must_be(target, number)
            target.unlink()

        count, compared = 0, Future[None]()
        compared.set_result(None)
        with ThreadPoolExecutor(1) as beside:
            for count, number in enumerate(numbers, 1):  # noqa: B007 - the last count is the figure
                target = self.restore(folder, number)
                compared.result()
                compared = beside.submit(compare, target, number)
            compared.result()
        return count

    def must_be(self, path: Path, number: int) -> None:
        """Compare a raw file with a state of the volume: size and SHA-256."""
        state = self.history.states[number]
        assert path.stat().st_size == state.volume_bytes, f"{path} has not the size of state {number}"
        assert sha256_of(path) == state.sha256, f"{path} is not state {number}"

    def must_refuse(self, folder: Path, numbers: Iterable[int]) -> int:
        """Ask for points that no image leads to: a chain error, and no file; return how many."""
        count = 0
        for number in numbers:
            target = self.folder / "refused.raw"
            ran = self.command("restore", folder, "--volume", VOLUME, "--point", str(number), "--to", target)
            assert ran.code == 4, str(ran)
            assert "no gapless way" in ran.errors, str(ran)
            assert not target.exists()
            count += 1
        return count

    def must_verify(self, *paths: Path, deep: bool = False) -> int:
        """Verify images or folders, which have to be good; return how many images that were."""
        ran = self.must("verify", *paths, *(["--deep"] if deep else []))
        assert all(found["status"] == "good" for found in ran.objects), str(ran)
        return len(ran.objects)


@contextlib.contextmanager
def quick_folder() -> Iterator[Path]:
    """Give a folder for a small bed, in memory where there is room: small checks sync thousands of files."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2 * GIB
    with tempfile.TemporaryDirectory(prefix="rollforward-bed-", dir=memory if roomy else None) as folder:
        yield Path(folder)


def password_file(folder: Path) -> Path:
    """Write a password into a file that others may not read."""
    path = folder / "password"
    path.touch(mode=0o600)
    path.write_text("Grüße, four words long\n")
    return path


def encrypted_bed(
    folder: Path, history: History, *, per_day: int, per_week: int, command: Command = in_this_process
) -> Bed:
    """Make a bed whose chains are encrypted; only what needs the password is told it."""
    return Bed(folder, history, per_day, per_week, with_password(command, password_file(folder)))


def image_names(folder: Path) -> list[str]:
    """The names of a folder's images, sorted by the number of the point that they lead to."""
    names = (path.name for path in folder.iterdir() if path.suffix in {".spf", ".spi"})
    return sorted(names, key=lambda name: (number_in(name), name))


def remove_image(path: Path) -> None:
    """Delete an image, all its parts."""
    for file in image_files(path):
        file.unlink()


def rename_image(path: Path, name: str) -> Path:
    """Rename an image, all its parts; return its new path."""
    target = path.with_name(name)
    for number, file in enumerate(image_files(path)):
        file.rename(part_path(target, number))
    return target


def content_of(path: Path) -> bytes:
    """Read an image, one part after the other."""
    return b"".join(file.read_bytes() for file in image_files(path))


def write_image(path: Path, content: bytes | bytearray, part_bytes: int | None) -> None:
    """Put bytes in the place of an image, in parts of a size."""
    for file in image_files(path):
        file.unlink(missing_ok=True)
    step = part_bytes or max(len(content), 1)
    for number, start in enumerate(range(0, max(len(content), 1), step)):
        part_path(path, number).write_bytes(content[start : start + step])


def number_in(name: str) -> int:
    """The number of the point that an image leads to, as its name says."""
    found = re.search(r"-i(\d+)", name)
    return int(found.group(1)) if found else 0


def partial_files(folder: Path) -> list[Path]:
    """What interrupted writers left in a folder."""
    return list(folder.rglob("*.rf-partial"))
