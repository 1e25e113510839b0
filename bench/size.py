"""`python -m bench.size [TB …]`: time and memory of planning, verifying and merging, by the size of the volume.

The chain is a base with a record for every block, and a hundred incrementals that change one block in a hundred each;
frames repeat a few contents, so that index and tables are those of such a volume and the stored stream is short.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.report import machine_lines
from tests.checks.vastness import LIMIT_MIB, Spent, all_works
from tests.vast import TB, VastChain, make_vast_chain

SIZES_TB: Final = (1.0, 5.0, 20.0)
_INCREMENTALS: Final = 100
_CHANGED: Final = 0.01
_PRINTED_WIDTH: Final = 120


def main(arguments: list[str] | None = None) -> int:
    """Measure the sizes that are asked for, and print what they took.

    Returns:
        0 when all work stayed within the promised memory, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.size", description=__doc__)
    parser.add_argument("tb", nargs="*", type=float, help="sizes in TB (default 1 5 20)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="where to work; 20 TB need some 12 GB",
    )
    asked = parser.parse_args(arguments)
    errors = Console(stderr=True)
    measured: list[tuple[VastChain, list[Spent]]] = []
    for size_tb in asked.tb or SIZES_TB:
        with (
            errors.status(f"{size_tb:g} TB"),
            tempfile.TemporaryDirectory(prefix="rollforward-bench-", dir=asked.folder) as room,
        ):
            folder = Path(room) / "images"
            folder.mkdir()
            chain = make_vast_chain(folder, int(size_tb * TB), incrementals=_INCREMENTALS, changed=_CHANGED)
            measured.append((chain, all_works(chain)))
    _tell(measured, as_json=asked.json)
    return 0 if all(each.peak_mib < LIMIT_MIB for _, spent in measured for each in spent) else 1


def _tell(measured: list[tuple[VastChain, list[Spent]]], *, as_json: bool) -> None:
    if as_json:
        for chain, spent in measured:
            works = {
                each.work: {"seconds": round(each.seconds, 2), "peak_mib": each.peak_mib} for each in spent
            }
            print(json.dumps({"volume_bytes": chain.volume_bytes, "records": chain.records, **works}))
        return
    console = Console() if sys.stdout.isatty() else Console(width=_PRINTED_WIDTH)
    for line in machine_lines():
        console.print(line, highlight=False)
    table = Table("volume", "records", title="time and peak memory", title_justify="left")
    for each in measured[0][1]:
        table.add_column(each.work, justify="right")
    for chain, spent in measured:
        cells = [f"{each.seconds:.1f} s, {each.peak_mib} MiB" for each in spent]
        table.add_row(f"{chain.volume_bytes / TB:.2g} TB", f"{chain.records:,}", *cells)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
