"""What the demonstration tells, and to whom: a terminal, a log, or a program."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, Self

from storage.chain import Chain


@dataclass(frozen=True, slots=True)
class Step:
    """An image of the story, and how far it has come.

    Attributes:
        at: calendar time, in the folder's time zone.
        name: file name.
        about: what is in it, in words.
        kind: base, incremental or daily.
        changed_bytes: plain size of its granules.
        stored_bytes: size of the file.
        number: number of the point that it leads to.
    """

    at: datetime
    name: str
    about: str
    kind: str
    changed_bytes: int
    stored_bytes: int
    number: int


@dataclass(frozen=True, slots=True)
class Proof:
    """A restored point, held against the truth.

    Attributes:
        number: number of the point.
        taken_at: when it was captured, in the folder's time zone.
        images: names of the images that led there; of a finalized disk, its own name.
        expected: SHA-256 of the volume at that time.
        found: SHA-256 of what was restored.
        clean: whether e2fsck found no fault in it.
        seconds: how long restoring, or finalizing, took.
        disk: what a finalized disk is, in words; empty for a point that was restored from its images.
    """

    number: int
    taken_at: datetime
    images: tuple[str, ...]
    expected: str
    found: str
    clean: bool
    seconds: float
    disk: str = ""

    @property
    def title(self) -> str:
        """Say what was done."""
        if self.disk:
            return f"{self.disk} finalized at point {self.number} in {self.seconds:.2f} s"
        return f"Point {self.number} ({self.taken_at:%a %H:%M}) restored in {self.seconds:.2f} s"

    @property
    def holds(self) -> bool:
        """Whether the restored volume is the captured one."""
        return self.clean and self.found == self.expected


class Screen(Protocol):
    """Takes what happens, in order."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(self, *_: object) -> None:
        """End, whatever happened."""
        ...

    def say(self, words: str, *, aside: bool = False) -> None:
        """Say what is under way; an aside is of interest only while it lasts."""
        ...

    def day(self, title: str) -> None:
        """Begin a day."""
        ...

    def image(self, step: Step) -> None:
        """An image was written: captured, or rolled up by the agent."""
        ...

    def state(self, name: str, state: str, seconds: float) -> None:
        """An image came further: landed, verified; so many seconds after it was written."""
        ...

    def rolled(self, text: str) -> None:
        """The standby disk was brought further."""
        ...

    def chain(self, chain: Chain) -> None:
        """Show what the chain has become."""
        ...

    def proof(self, proof: Proof) -> None:
        """A point was restored and compared."""
        ...

    def result(self, *, good: bool, words: str, seconds: float) -> None:
        """It is over."""
        ...
