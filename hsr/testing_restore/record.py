"""What a test of a restore found: small, frozen, and told as JSON values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from policies.restore_tests import Verdict as Verdict


class Ending(StrEnum):
    """How a test start ended."""

    MARKER = "marker"
    SETTLED = "settled"
    NOTHING_STARTS = "nothing starts"
    PANIC = "panic"
    ENDED = "ended"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class FileSystemCheck:
    """What was found of one file system.

    Attributes:
        partition: number of its partition; None where the volume has no table.
        contents: what it is: ext4, xfs, ntfs, or something that is not checked.
        verdict: good, or bad; unclear where nothing can check it, or what it was at was not finished.
        words: what the checking program said, the last of it.
        seconds: how long it took.
        is_lacking: whether that is because something is not installed here.
    """

    partition: int | None
    contents: str
    verdict: Verdict
    words: str
    seconds: float
    is_lacking: bool = False

    @property
    def place(self) -> str:
        """Say where it lies."""
        return "volume" if self.partition is None else f"partition {self.partition}"

    @property
    def summary(self) -> str:
        """Say what was found, on one line."""
        last = self.words.strip().splitlines()[-1:]
        why = f": {last[0].strip()}" if last and self.verdict is not Verdict.GOOD else ""
        return f"{self.place}: {self.contents} {self.verdict.value}{why}"


_ENDED: Final = {
    Ending.MARKER: "said its words",
    Ending.SETTLED: "screen settled",
    Ending.LATE: "was not up in time",
}


@dataclass(frozen=True, slots=True)
class StartCheck:
    """What was found when the point was started.

    Attributes:
        ending: what it came to; late also if it said 64 MiB without coming to the point.
        seconds: how long that took.
        accelerator: what ran the guest: times of `tcg` say little.
        console: the end of what it said on its serial port.
        screenshot: its last screen, PNG; empty if there was none.
    """

    ending: Ending
    seconds: float
    accelerator: str
    console: str
    screenshot: bytes

    @property
    def verdict(self) -> Verdict:
        """Good if it said its words; a screen that settled may be one of sorrow, and somebody has to look at it."""
        return {Ending.MARKER: Verdict.GOOD, Ending.SETTLED: Verdict.UNCLEAR}.get(self.ending, Verdict.BAD)

    @property
    def summary(self) -> str:
        """Say how it ended, how long that took, and what ran it."""
        how = _ENDED.get(self.ending, self.ending.value)
        return f"start: {how}, {self.seconds:.1f} s, by {self.accelerator}"


@dataclass(frozen=True, slots=True)
class RestoreTest:
    """A test of a restore.

    Attributes:
        point_id: 16 bytes: the point that was tested.
        tested_at: when.
        file_systems: what was found of each.
        start: what was found when it was started; None if it was not.
        why_not_started: why it was not started, though that was asked for; None if it was, or nobody asked.
    """

    point_id: bytes
    tested_at: datetime
    file_systems: tuple[FileSystemCheck, ...]
    start: StartCheck | None
    why_not_started: str | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst of what was found; a start that went well makes up for what nothing can check."""
        found = {check.verdict for check in self.file_systems}
        if self.start is not None:
            found.add(self.start.verdict)
        if Verdict.BAD in found:
            return Verdict.BAD
        if self.start is not None:
            return self.start.verdict
        return Verdict.GOOD if found == {Verdict.GOOD} else Verdict.UNCLEAR

    @property
    def summary(self) -> str:
        """Say what was found, on one line."""
        parts = [check.summary for check in self.file_systems] or ["no file system"]
        parts += [] if self.start is None else [self.start.summary]
        parts += [] if self.why_not_started is None else [f"not started: {self.why_not_started}"]
        return "; ".join(parts)

    @property
    def lacking(self) -> str | None:
        """Say what is not installed here, without which nothing is clear; None if nothing is missing."""
        if self.verdict is not Verdict.UNCLEAR:
            return None
        return next((check.words for check in self.file_systems if check.is_lacking), None)

    def fields(self) -> dict[str, object]:
        """Tell it in JSON values; of a screenshot, its SHA-256 only."""
        return {
            "verdict": self.verdict.value,
            "point": self.point_id.hex(),
            "tested_at": self.tested_at.isoformat(),
            "file_systems": [
                {
                    "partition": check.partition,
                    "contents": check.contents,
                    "verdict": check.verdict.value,
                    "words": check.words,
                    "seconds": round(check.seconds, 3),
                }
                for check in self.file_systems
            ],
            "start": None if self.start is None else _start_fields(self.start),
        }


def _start_fields(start: StartCheck) -> dict[str, object]:
    shot = hashlib.sha256(start.screenshot).hexdigest() if start.screenshot else None
    return {
        "verdict": start.verdict.value,
        "ending": start.ending.value,
        "seconds": round(start.seconds, 3),
        "accelerator": start.accelerator,
        "console": start.console,
        "screenshot_sha256": shot,
    }
