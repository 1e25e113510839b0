"""What a run tells: the machine, a table, or one JSON object a line."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.timing import Timing


class Goal(enum.Enum):
    """What a figure is to reach."""

    NONE = "no reach set"
    TIMES_FASTER = "at least {} times faster"
    SHARE_OF_TIME = "at most {} of its time"
    SECONDS = "under {} s"


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Attributes:
        subject: what was done.
        ours: our timing.
        peer: the other side's; None where there is none.
        goal: how the figure is to be read.
        bound: the figure to reach.
        note: what to know about it.
    """

    subject: str
    ours: Timing
    peer: Timing | None
    goal: Goal = Goal.NONE
    bound: float = 0.0
    note: str = ""

    @property
    def figure(self) -> float:
        """The ratio, or the seconds, that the goal speaks of."""
        if self.peer is None:
            return self.ours.median_s
        if self.goal is Goal.SHARE_OF_TIME:
            return self.ours.median_s / self.peer.median_s
        return self.peer.median_s / self.ours.median_s

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None where none is set."""
        if self.goal is Goal.NONE:
            return None
        if self.goal is Goal.TIMES_FASTER:
            return self.figure >= self.bound
        return self.figure < self.bound if self.goal is Goal.SECONDS else self.figure <= self.bound

    def as_json(self) -> str:
        """The row as one line of JSON; times in seconds."""
        return json.dumps(
            {
                "subject": self.subject,
                "ours_s": round(self.ours.median_s, 4),
                "ours_rounds_s": [round(taken, 4) for taken in self.ours.seconds],
                "peer": self.peer.name if self.peer else None,
                "peer_s": round(self.peer.median_s, 4) if self.peer else None,
                "peer_rounds_s": [round(taken, 4) for taken in self.peer.seconds] if self.peer else None,
                "figure": round(self.figure, 3),
                "goal": self.goal.value.format(f"{self.bound:g}"),
                "reached": self.reached,
                "note": self.note,
            }
        )


def machine_lines() -> list[str]:
    """Describe the machine and the versions that were measured."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory_kb = next((int(line.split()[1]) for line in _lines("/proc/meminfo")), 0)
    return [
        f"{len(os.sched_getaffinity(0))} cores, {cpu}, {memory_kb >> 20} GiB, Linux {platform.release()}",
        f"rollforward {version('rollforward')}, Python {platform.python_version()}, "
        f"numba {version('numba')}, zstandard {version('zstandard')}; "
        f"{_first_line('qemu-img', '--version')}; {_first_line('borg', '--version')}",
    ]


def print_table(console: Console, title: str, rows: list[Row]) -> None:
    """Print the rows as a table, then the notes."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("what", "ours", "peer", "", "figure", "to reach", ""):
        table.add_column(heading, justify="right" if heading in ("ours", "figure") else "left")
    notes: list[str] = []
    for row in rows:
        mark = ""
        if row.note:
            notes.append(row.note)
            mark = f" [{len(notes)}]"
        verdict = {True: "[green]ok", False: "[red]miss", None: ""}[row.reached]
        figure = f"{row.figure:.2f} s" if row.peer is None else f"{row.figure:.2f}"
        table.add_row(
            row.subject + mark,
            f"{row.ours.median_s:.2f} s",
            row.peer.name if row.peer else "",
            f"{row.peer.median_s:.2f} s" if row.peer else "",
            figure + (" x" if row.peer and row.goal is not Goal.SHARE_OF_TIME else ""),
            row.goal.value.format(f"{row.bound:g}"),
            verdict,
        )
    console.print(table)
    for number, note in enumerate(notes, 1):
        console.print(f"[{number}] {note}", markup=False, highlight=False)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0].split(" (")[0]
