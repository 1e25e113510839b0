"""The ground on which all comparisons take place: a volume's history and the chain that we made of it."""

from __future__ import annotations

import functools
import shutil
from datetime import UTC, datetime
from pathlib import Path

from bench.timing import Report
from storage.capture import capture
from tests.commands import sha256_of
from tests.history import History

VOLUME = "D_VOL"


class Ground:
    """A folder to work in, with what several comparisons need made on first use.

    Args:
        folder: an empty folder on the file system to be measured.
        history: the volume.
        rounds: how often each contender runs.
        report: told what goes on.
    """

    def __init__(self, folder: Path, history: History, rounds: int, report: Report) -> None:
        self.folder = folder
        self.history = history
        self.rounds = rounds
        self.report = report

    @functools.cached_property
    def chain(self) -> tuple[Path, ...]:
        """Our images of the whole history, base first."""
        folder = self.new_folder("chain")
        replay = self.history.replay(self.folder / "chain.raw")
        images: list[Path] = []
        for state in self.history.states:
            self.report(f"capturing state {state.number} of {self.history.last.number}")
            replay.roll_to(state.number)
            images.append(capture(replay.path, folder, VOLUME, now=datetime.now(UTC)).path)
        replay.path.unlink()
        return tuple(images)

    def new_folder(self, name: str) -> Path:
        """Make an empty folder of that name, in place of any other."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def must_be(self, path: Path, number: int) -> None:
        """Check that a raw file shows the given state, bit for bit.

        Raises:
            AssertionError: it does not.
        """
        if sha256_of(path) != self.history.states[number].sha256:
            raise AssertionError(f"{path} is not state {number}: no figure can be taken from a wrong result")
