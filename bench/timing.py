"""Taking turns with a clock."""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

Report = Callable[[str], None]
"""Told in a few words what goes on now."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    Attributes:
        name: who it is.
        run: the timed work of a round; rounds count from 0, which is the warm-up.
        prepare: what has to be done before each round, untimed.
        check: proves the result of the round, untimed; called after the warm-up only.
        inputs: files that the round reads; they are read once before it, untimed, so that its cache is warm. Some
            machines give the memory of files back that nobody used for a few seconds.
    """

    name: str
    run: Callable[[int], None]
    prepare: Callable[[int], None] = lambda _round: None
    check: Callable[[], None] = lambda: None
    inputs: Sequence[Path] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """What one contender took, in seconds, round by round."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """The middle of its rounds."""
        return statistics.median(self.seconds)


def take_turns(contenders: Sequence[Contender], rounds: int, report: Report) -> dict[str, Timing]:
    """Let contenders run in turns, the first one changing from round to round, and clock them.

    Args:
        contenders: whom to compare.
        rounds: how often each runs, the warm-up aside.
        report: told who runs.

    Returns:
        The timing of each contender, by name.
    """
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(rounds + 1):
        for turn in range(len(contenders)):
            contender = contenders[(number + turn) % len(contenders)]
            report(f"{contender.name}, {f'round {number} of {rounds}' if number else 'warm-up'}")
            contender.prepare(number)
            os.sync()
            for path in contender.inputs:
                warm(path)
            start = time.perf_counter()
            contender.run(number)
            elapsed = time.perf_counter() - start
            if number == 0:
                contender.check()
            else:
                seconds[contender.name].append(elapsed)
    return {name: Timing(name, tuple(taken)) for name, taken in seconds.items()}


def fsync(path: Path) -> None:
    """Bring a file that another program wrote onto the medium, and its name with it."""
    for each in (path, path.parent):
        fd = os.open(each, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def warm(path: Path) -> None:
    """Read a file, so that it lies in the page cache."""
    with path.open("rb", buffering=0) as stream:
        buffer = bytearray(4 << 20)
        while stream.readinto(buffer):
            pass
