"""A small real volume for the demonstration: ext4 in a file, whose files change without mounting it."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policies.errors import ConfigurationError, SourceError

_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_WORDS: Final = (
    *("volume", "image", "base", "chain", "point", "span", "block", "granule", "frame", "mask", "index"),
    *("origin", "root", "verify", "restore", "daily", "weekly", "monthly", "lease", "cursor", "claim"),
)


@dataclass(frozen=True, slots=True)
class Change:
    """What one step did to the files in the volume.

    Attributes:
        added: files that are new.
        rewritten: files whose content was replaced.
        deleted: files that are gone.
        written_bytes: size of all that was written.
    """

    added: int
    rewritten: int
    deleted: int
    written_bytes: int

    def __str__(self) -> str:
        """Say it in words."""
        parts = [(self.added, "added"), (self.rewritten, "rewritten"), (self.deleted, "deleted")]
        return ", ".join(f"{count} {what}" for count, what in parts if count)


class DemoVolume:
    """An ext4 volume of 112 MiB in a file, with documents, pictures, a database and a log in it.

    Args:
        path: the file to be made.
        scratch: an empty directory for what is copied into the volume.

    Raises:
        ConfigurationError: the ext4 tools, or qemu-img, are not installed.
    """

    SIZE_MIB: Final = 112

    def __init__(self, path: Path, scratch: Path) -> None:
        self.path = path
        self._scratch = scratch
        self._random = random.Random(20260302)  # noqa: S311 - content to look at, not a secret
        self._pictures = [f"/pictures/{number:04d}.jpg" for number in range(1, 19)]
        self._documents = [f"/documents/report {number:02d}.txt" for number in range(1, 31)]
        self._next_picture = len(self._pictures) + 1
        self._log = ""
        self._pages = [self._page(number, 0) for number in range(1024)]
        for tool in ("mkfs.ext4", "e2fsck", "debugfs", "qemu-img"):
            _tool(tool)

    def make(self) -> None:
        """Make the file system with its first files."""
        tree = self._scratch / "tree"
        contents = {name: self._document() for name in self._documents}
        contents |= {name: self._picture() for name in self._pictures}
        contents["/database/orders.db"] = b"".join(self._pages)
        contents["/log/server.log"] = self._grown_log(4000)
        for name, content in contents.items():
            file = tree / name.removeprefix("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        _run(
            "mkfs.ext4",
            "-q",
            "-F",
            "-b",
            "4096",
            "-L",
            "DEMO",
            "-d",
            str(tree),
            str(self.path),
            f"{self.SIZE_MIB}M",
        )
        shutil.rmtree(tree)

    def change(self, step: int) -> Change:
        """Change files in the volume as people and programs do in a few hours.

        Args:
            step: number of the step; each is different, and the same in every run.
        """
        rewritten = {
            "/log/server.log": self._grown_log(600),
            "/database/orders.db": self._touched_database(step),
        }
        for name in self._random.sample(self._documents, 2):
            rewritten[name] = self._document()
        added = {}
        for _ in range(step % 3):
            name = f"/pictures/{self._next_picture:04d}.jpg"
            self._next_picture += 1
            added[name] = self._picture()
        deleted = self._random.sample(self._pictures, 1) if step % 2 == 0 else []
        self._pictures = [name for name in [*self._pictures, *added] if name not in deleted]
        self._apply(rewritten | added, [*rewritten, *deleted])
        written = sum(len(content) for content in (rewritten | added).values())
        return Change(len(added), len(rewritten), len(deleted), written)

    def _apply(self, contents: dict[str, bytes], removed: list[str]) -> None:
        """Have debugfs change the unmounted file system: it takes no root and no mount."""
        commands = [f'rm "{name}"' for name in removed]
        for number, (name, content) in enumerate(contents.items()):
            file = self._scratch / f"content-{number}"
            file.write_bytes(content)
            commands.append(f'write "{file}" "{name}"')
        script = self._scratch / "commands"
        script.write_text("\n".join(commands) + "\n")
        done = _run("debugfs", "-w", "-f", str(script), str(self.path))
        troubles = [line for line in done.stderr.splitlines() if not line.startswith("debugfs 1.")]
        if troubles:
            raise SourceError(f"debugfs: {troubles[0]}", path=str(self.path))

    def _document(self) -> bytes:
        return " ".join(self._random.choices(_WORDS, k=self._random.randint(2_000, 30_000))).encode()

    def _picture(self) -> bytes:
        return self._random.randbytes(self._random.randint(300_000, 1_600_000))

    def _page(self, number: int, version: int) -> bytes:
        row = (
            f"order {number:06d} version {version:04d} ".encode() + self._random.randbytes(48).hex().encode()
        )
        return (row * 64)[:8192].ljust(8192, b"\0")

    def _touched_database(self, step: int) -> bytes:
        for number in self._random.sample(range(len(self._pages)), 40):
            self._pages[number] = self._page(number, step)
        return b"".join(self._pages)

    def _grown_log(self, lines: int) -> bytes:
        self._log += "".join(
            f"{self._random.getrandbits(32):08x} GET /orders/{self._random.randrange(10**6)} 200\n"
            for _ in range(lines)
        )
        return self._log.encode()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_clean(path: Path) -> bool:
    """Tell whether e2fsck, looking only, finds a file system free of faults."""
    done = subprocess.run([_tool("e2fsck"), "-fn", str(path)], capture_output=True, check=False)
    return done.returncode == 0


def _run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([_tool(tool), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SourceError(f"{tool} failed: {(done.stderr or done.stdout).strip()}")
    return done


def read_disk(disk: Path, content: Path) -> str:
    """Read a virtual disk by qemu-img, as a hypervisor would.

    Args:
        disk: the disk.
        content: the file to be made: all bytes of the disk.

    Returns:
        What it is, in words.

    Raises:
        SourceError: qemu-img does not know it, or finds fault with it.
    """
    told = json.loads(_run("qemu-img", "info", "--output=json", str(disk)).stdout)
    if told["format"] == "raw":
        raise SourceError("qemu-img sees no virtual disk", path=str(disk))
    _run("qemu-img", "check", str(disk))
    _run("qemu-img", "convert", "-O", "raw", str(disk), str(content))
    return (
        f"{disk.name} ({told['format'].upper()}, {told['virtual-size'] >> 20} MiB, qemu-img check: no errors)"
    )


def _tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH)
    if found is None:
        package = "qemu-utils" if name == "qemu-img" else "e2fsprogs"
        raise ConfigurationError(
            f"{name} is not installed", hint=f"Debian, Ubuntu: apt-get install {package}"
        )
    return found
