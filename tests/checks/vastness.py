"""Work on the chain of a huge volume: each piece in a process of its own, with its time and its peak of memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.chain import load_chain
from storage.consolidate import consolidate
from storage.image import ImageReader
from storage.verify import verify_image
from tests.vast import VOLUME, VastChain, distinct_blocks

REPOSITORY: Final = Path(__file__).parents[2]
LIMIT_MIB: Final = 512


@dataclass(frozen=True, slots=True)
class Spent:
    """What a piece of work took.

    Attributes:
        work: which.
        seconds: wall time, without the start of Python.
        peak_mib: most memory of the process at any moment, Python and libraries included.
        found: what came out, to be held against what should.
    """

    work: str
    seconds: float
    peak_mib: int
    found: int


def _plan(folder: Path) -> int:
    chain = load_chain(folder, VOLUME)
    last = chain.point(max(point.number for span in chain.spans for point in span.covers))
    return len(chain.merge(chain.point(0), last).sources) + len(chain.path_to(last))


def _verify(folder: Path) -> int:
    return sum(verify_image(path).status == "good" for path in folder.glob(f"{VOLUME}-*"))


def _consolidate(folder: Path) -> int:
    return _merged(sorted(folder.glob("*.spi")), folder.parent / "merged.spi")


def _synthetic_full(folder: Path) -> int:
    return _merged([*folder.glob("*.spf"), *sorted(folder.glob("*.spi"))], folder.parent / "merged.spf")


def _merged(sources: list[Path], target: Path) -> int:
    consolidate(sources, target)
    with ImageReader(target) as image:
        records = image.record_count
    target.unlink()
    return records


WORKS: Final[dict[str, Callable[[Path], int]]] = {
    "plan": _plan,
    "verify": _verify,
    "consolidate": _consolidate,
    "synthetic full": _synthetic_full,
}


def spend(work: str, folder: Path) -> Spent:
    """Do one piece of work on the chain in a folder, in a new process.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "tests.checks.vastness", work, str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Spent(work, **json.loads(done.stdout))


def all_works(chain: VastChain) -> list[Spent]:
    """Do every piece of work on a chain, and check what comes out.

    Raises:
        AssertionError: something else came out than should.
    """
    folder = chain.paths[0].parent
    images = len(chain.paths)
    expected = {
        "plan": images - 1 + images,
        "verify": images,
        "consolidate": distinct_blocks(chain.paths[1:]),
        "synthetic full": chain.blocks,
    }
    spent = [spend(work, folder) for work in WORKS]
    assert {each.work: each.found for each in spent} == expected, (spent, expected)
    return spent


def bounded(chain: VastChain) -> str:
    """Check that no work needs more memory than is promised, and say what each took."""
    spent = all_works(chain)
    told = ", ".join(f"{each.work} {each.seconds:.0f} s {each.peak_mib} MiB" for each in spent)
    assert all(each.peak_mib < LIMIT_MIB for each in spent), told
    return f"{chain.volume_bytes / 1e12:.2f} TB, {chain.records:,} records, {len(chain.paths)} images: {told}"


def _main(work: str, folder: str) -> None:
    start = time.perf_counter()
    found = WORKS[work](Path(folder))
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    print(json.dumps({"seconds": seconds, "peak_mib": peak_kib >> 10, "found": found}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
