"""Incremental capture of a changed volume that is read whole, against `borg create` of the same states."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from bench.ground import VOLUME, Ground
from bench.report import Goal, Row
from bench.timing import Contender, take_turns, warm
from hsr.restore import restore
from storage.capture import capture
from tests.commands import run

AT_LEAST = 4.0


class BorgRepository:
    """An unencrypted borg repository with borg's own defaults, caches and all kept in one folder."""

    def __init__(self, ground: Ground) -> None:
        self._folder = ground.new_folder("borg")
        self.repository = self._folder / "repository"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BORG_")},
            "BORG_BASE_DIR": str(self._folder / "own"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }
        self._borg("init", "--encryption", "none", str(self.repository))

    def create(self, name: str, path: str) -> None:
        """Archive one file."""
        self._borg("create", f"{self.repository}::{name}", path)

    def _borg(self, *arguments: str) -> None:
        run("borg", *arguments, env=self._environment)


def compare(ground: Ground) -> list[Row]:
    """Measure captures: every round brings the volume to its next state, which both then take."""
    replay = ground.history.replay(ground.folder / "captured.raw")
    folder = ground.new_folder("captured")
    borg = BorgRepository(ground)
    rounds = min(ground.rounds, ground.history.last.number - 1)
    ground.report("capturing the base")
    images = [capture(replay.path, folder, VOLUME, now=datetime.now(UTC)).path]
    ground.report("borg archives the base")
    borg.create("state-000", str(replay.path))

    def next_state(number: int) -> None:
        replay.roll_to(number + 1)
        warm(replay.path)  # borg drops what it read from the page cache

    def capture_ours(_round: int) -> None:
        images.append(capture(replay.path, folder, VOLUME, now=datetime.now(UTC)).path)

    def archive(number: int) -> None:
        borg.create(f"state-{number + 1:03d}", str(replay.path))

    ours, theirs = "capture", "borg create"
    contenders = [
        Contender(ours, capture_ours, next_state),
        Contender(theirs, archive, next_state),
    ]
    timings = take_turns(contenders, rounds, ground.report)
    restored = ground.folder / "captured-restored.raw"
    restore(images, restored)
    ground.must_be(restored, rounds + 1)
    for path in (restored, replay.path):
        path.unlink()
    return [Row("incremental capture", timings[ours], timings[theirs], Goal.TIMES_FASTER, AT_LEAST)]
