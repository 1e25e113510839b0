"""Captures: of a base, against compressing the same file; of changed states, read whole, against `borg create`."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from bench.ground import VOLUME, Ground
from bench.report import Goal, Row
from bench.timing import Contender, fsync, take_turns
from hsr.restore import restore
from storage.capture import capture
from tests.commands import run

AT_LEAST = 5.0
AT_MOST = 1.1


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
    """Measure both."""
    return [*_compare_bases(ground), *_compare_incrementals(ground)]


def _compare_bases(ground: Ground) -> list[Row]:
    """Measure the first capture of the volume; every round begins with an empty folder."""
    replay = ground.history.replay(ground.folder / "captured-whole.raw")
    compressed = ground.folder / "captured-whole.zst"

    def capture_ours(number: int) -> None:
        capture(replay.path, ground.folder / f"bases-{number}", VOLUME, now=datetime.now(UTC))

    def empty(number: int) -> None:
        ground.new_folder(f"bases-{number - 1}").rmdir()
        ground.new_folder(f"bases-{number}")

    def compress(_round: int) -> None:
        run("zstd", "-q", "-1", "-T2", str(replay.path), "-o", str(compressed))
        fsync(compressed)

    ours, theirs = "capture a base", "zstd -1 -T2 of the same file"
    timings = take_turns(
        [
            Contender(ours, capture_ours, empty, inputs=[replay.path]),
            Contender(theirs, compress, lambda _: compressed.unlink(missing_ok=True), inputs=[replay.path]),
        ],
        ground.rounds,
        ground.report,
    )
    for path in (compressed, replay.path):
        path.unlink()
    ground.new_folder(f"bases-{ground.rounds}").rmdir()
    return [Row("capture of a base", timings[ours], timings[theirs], Goal.SHARE_OF_TIME, AT_MOST)]


def _compare_incrementals(ground: Ground) -> list[Row]:
    """Measure later captures: every round brings the volume to its next state, which both then take."""
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

    def capture_ours(_round: int) -> None:
        images.append(capture(replay.path, folder, VOLUME, now=datetime.now(UTC)).path)

    def archive(number: int) -> None:
        borg.create(f"state-{number + 1:03d}", str(replay.path))

    ours, theirs = "capture", "borg create"
    contenders = [
        Contender(ours, capture_ours, next_state, inputs=[replay.path]),
        Contender(theirs, archive, next_state, inputs=[replay.path]),
    ]
    timings = take_turns(contenders, rounds, ground.report)
    restored = ground.folder / "captured-restored.raw"
    restore(images, restored)
    ground.must_be(restored, rounds + 1)
    for path in (restored, replay.path):
        path.unlink()
    return [Row("incremental capture", timings[ours], timings[theirs], Goal.TIMES_FASTER, AT_LEAST)]
