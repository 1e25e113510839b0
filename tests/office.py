"""A household with a HeadStart job, and commands that are given beside its agent; disks are read by qemu."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ops.clock import FileClock
from tests.command import Ran, in_this_process
from tests.commands import run
from tests.standby import StandBy

HOUR = timedelta(hours=1)


class Office(StandBy):
    """A household with a job, and commands given beside it."""

    def do(self, *words: str | Path) -> Ran:
        clock = FileClock(self.place / "now")
        clock.set(self.home.now)
        state = {"ROLLFORWARD_STATE": str(self.home.place), "ROLLFORWARD_CLOCK": str(clock)}
        with patch.dict(os.environ, state):
            return in_this_process(*words)

    def did(self, *words: str | Path) -> list[dict[str, Any]]:
        ran = self.do(*words, "--json")
        assert ran.code == 0, str(ran)
        return ran.objects

    def refused(self, *words: str | Path, code: int = 2) -> str:
        ran = self.do(*words)
        assert ran.code == code, str(ran)
        return str(ran)

    def begin(self, *words: str | Path) -> None:
        self.capture()
        self.home.settle()
        self.did("location", "add", "here", self.disks)
        self.did("hsr", "add", "stand-by", self.home.folder, "--location", "here", "--subfolder", "", *words)
        self.home.settle()

    def grow(self, count: int = 1) -> None:
        for _ in range(count):
            self.home.now += HOUR
            self.capture()
            self.home.settle()

    def shown(self) -> dict[str, Any]:
        return self.did("hsr", "show", "stand-by")[0]

    def bytes_of(self, disk: Path) -> bytes:
        """Read a finalized disk as qemu does."""
        raw = self.place / "as-raw"
        run("qemu-img", "convert", "-O", "raw", str(disk), str(raw))
        content = raw.read_bytes()[: self.volume_bytes]
        raw.unlink()
        return content
