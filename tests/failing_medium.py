"""A file system whose media fail on demand: a folder seen through FUSE, with faults that a test sets and lifts."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run

PATIENCE_S = 20.0


def cannot_mount() -> str | None:
    """Say why no file system of our own can be mounted here; None if one can."""
    if os.getuid() != 0:
        return "mounting needs root"
    if not Path("/dev/fuse").exists():
        return "the kernel has no FUSE"
    return None


needs_fuse = pytest.mark.skipif(cannot_mount() is not None, reason=cannot_mount() or "")


class FailingMedium:
    """A folder on a medium that fails on demand. A context manager.

    Args:
        home: where its folder `images` is mounted, and what it needs is kept.
    """

    def __init__(self, home: Path) -> None:
        self.backing, self.folder = home / "backing", home / "images"
        self._faults = home / "faults.json"
        for folder in (self.backing, self.folder):
            folder.mkdir(parents=True)
        self.lift()

    def fail(self, name: str, at_byte: int) -> None:
        """Let reads of one byte of a file fail, and thereby those of others with it."""
        self._set({name: {"kind": "error", "at": at_byte}})

    def cut(self, name: str, at_byte: int) -> None:
        """Have a file cut off when it is being read there."""
        self._set({name: {"kind": "cut", "at": at_byte}})

    def lift(self) -> None:
        """Let the medium recover."""
        self._set({})

    def _set(self, faults: dict[str, Any]) -> None:
        fresh = self._faults.with_suffix(".new")
        fresh.write_text(json.dumps(faults))
        fresh.replace(self._faults)

    def __enter__(self) -> FailingMedium:
        command = [
            sys.executable,
            "-m",
            "tests.failing_medium_server",
            self.backing,
            self.folder,
            self._faults,
        ]
        self._server = subprocess.Popen(command, stderr=subprocess.PIPE)
        deadline = time.monotonic() + PATIENCE_S
        while not self.folder.is_mount():
            if self._server.poll() is not None or time.monotonic() > deadline:
                assert self._server.stderr is not None
                raise AssertionError(f"no file system: {self._server.stderr.read().decode()}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        run("umount", str(self.folder))
        assert self._server.wait(PATIENCE_S) == 0
        assert self._server.stderr is not None
        self._server.stderr.close()


@contextlib.contextmanager
def failing_medium(home: Path) -> Iterator[FailingMedium]:
    """Mount a medium that fails on demand, and take it away again."""
    with FailingMedium(home) as medium:
        yield medium
