"""`python -m bench [consolidate|restore|verify|capture|bitmap|serve|roll|help …]`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console

from bench import bitmap, capturing, consolidation, restoring, rolling, serving, starting, verifying
from bench.ground import Ground
from bench.report import Row, machine_lines, print_table
from tests.history import History, full_history, small_history

COMPARISONS: Final[dict[str, Callable[[Ground], list[Row]]]] = {
    "consolidate": consolidation.compare,
    "restore": restoring.compare,
    "verify": verifying.compare,
    "capture": capturing.compare,
    "bitmap": bitmap.compare,
    "serve": serving.compare,
    "roll": rolling.compare,
    "help": starting.compare,
}
ROUNDS: Final = 5
_PRINTED_WIDTH: Final = 150
_ROOM_FACTOR: Final = 6
"""Free disk that a run needs, in sizes of the volume."""


def main(arguments: list[str] | None = None) -> int:
    """Run the comparisons that are asked for and print what they give.

    Returns:
        0 when every goal is reached, 1 when one is missed, 2 when the run could not be made.
    """
    asked = _parser().parse_args(arguments)
    errors = Console(stderr=True)
    console = Console() if sys.stdout.isatty() else Console(width=_PRINTED_WIDTH)
    with errors.status("making the volume's history, which later runs find ready") as status:
        history = small_history() if asked.small else full_history()
        need_bytes = _ROOM_FACTOR * history.states[0].volume_bytes
        if shutil.disk_usage(asked.folder).free < need_bytes:
            errors.print(f"{asked.folder} has less than {need_bytes >> 20:,} MiB free", style="red")
            return 2
        rows: list[Row] = []
        with tempfile.TemporaryDirectory(prefix="rollforward-bench-", dir=asked.folder) as folder:
            ground = Ground(Path(folder), history, asked.rounds, status.update)
            for name in asked.comparison or COMPARISONS:
                rows += COMPARISONS[name](ground)
    _tell(console, history, asked.rounds, rows, as_json=asked.json)
    return 1 if any(row.reached is False for row in rows) and not asked.small else 0


def _tell(console: Console, history: History, rounds: int, rows: list[Row], *, as_json: bool) -> None:
    volume = (
        f"ext4 volume of {history.states[0].volume_bytes >> 20:,} MiB, {history.last.number} changed states, "
        f"{sum(state.written_bytes for state in history.states) >> 20:,} MiB written in all; "
        f"medians of {rounds} after a warm-up, warm cache, fsync on both sides"
    )
    if as_json:
        print(json.dumps({"machine": machine_lines(), "volume": volume}))
        for row in rows:
            print(row.as_json())
        return
    for line in [*machine_lines(), volume]:
        console.print(line, highlight=False)
    print_table(console, "rollforward and its peers", rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("comparison", nargs="*", choices=[*COMPARISONS, []], help="which; all without")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each side runs (default 5)")
    parser.add_argument("--small", action="store_true", help="the small history: a trial, not a figure")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to work; it needs some 12 GiB"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
