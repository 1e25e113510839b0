"""How soon the command line answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.ground import Ground
from bench.report import Goal, Row
from bench.timing import Contender, take_turns

UNDER_S = 0.3


def compare(ground: Ground) -> list[Row]:
    """Measure `rollforward --help`, wall time of the whole command."""
    command = [str(Path(sys.executable).with_name("rollforward")), "--help"]

    def ask(_round: int) -> None:
        subprocess.run(command, check=True, capture_output=True)

    name = "rollforward --help"
    timings = take_turns([Contender(name, ask)], ground.rounds, ground.report)
    return [Row(name, timings[name], None, Goal.SECONDS, UNDER_S)]
