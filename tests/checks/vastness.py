"""Work on the chain of a huge volume: each piece in a process of its own, with its time and its peak of memory."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from hsr.disks.form import DiskKind
from hsr.disks.medium import LocalMedium
from hsr.disks.side_files import SidePaths, open_map
from hsr.restore import restore
from hsr.rolling.cursor_file import Phase, Place, read_cursor, write_cursor
from hsr.rolling.disk import RollingDisk
from policies.cursor import Cursor, roll_on_path
from storage.capture import capture
from storage.chain import load_chain
from storage.consolidate import consolidate
from storage.image import ImageReader
from storage.overlay import Overlay
from storage.replay import BlockReader
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


def _capture(folder: Path) -> int:
    """Capture the sparse volume beside a folder; return how many bytes of granules the image holds."""
    source = Path((folder / "source").read_text())
    return capture(source, folder, VOLUME, now=datetime.now(UTC)).changed_bytes


def _roll(folder: Path) -> int:
    """Plan what brings the disk beside a folder to the chain's newest point, and apply it; return bytes written."""
    path = Path((folder / "disk").read_text())
    chain = load_chain(folder, VOLUME)
    with RollingDisk.open(path) as disk:
        images = roll_on_path(disk.cursor, chain.spans, chain.newest().id)
        assert images is not None
        return disk.apply([folder / span.name for span in images]).written_bytes


WORKS: Final[dict[str, Callable[[Path], int]]] = {
    "plan": _plan,
    "verify": _verify,
    "consolidate": _consolidate,
    "synthetic full": _synthetic_full,
}


_STEPS: Final[dict[str, Callable[[Path], int]]] = {**WORKS, "capture": _capture, "roll": _roll}


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


_PIECES: Final = 40
_PIECE_BYTES: Final = 64 << 10
_GRANULE_BYTES_MAX: Final = 4096
_RESTORED_BYTES_MAX: Final = 2 * _PIECES * (512 << 10)
"""A restore writes whole blocks, of which a piece may touch two."""


class SparseVolume:
    """A raw file of any size that holds some MiB at places far apart, the very first and last among them.

    Args:
        path: where it is made.
        size_bytes: its size.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        path.touch()
        os.truncate(path, size_bytes)
        steps = [number * ((size_bytes - _PIECE_BYTES) // (_PIECES - 1)) for number in range(_PIECES)]
        self.places = [at // _GRANULE_BYTES_MAX * _GRANULE_BYTES_MAX for at in steps]

    def write(self, seed: int, every: int) -> int:
        """Write to some of the places; return to how many bytes."""
        places = self.places[::every]
        with self.path.open("r+b") as file:
            for number, at in enumerate(places):
                os.pwrite(file.fileno(), random.Random(f"{seed} {number}").randbytes(_PIECE_BYTES), at)
        return len(places) * _PIECE_BYTES

    def must_be_in(self, restored: Path) -> None:
        """Check that another file holds the same.

        Raises:
            AssertionError: it does not.
        """
        assert restored.stat().st_size == self.path.stat().st_size
        assert restored.stat().st_blocks * 512 < _RESTORED_BYTES_MAX, "zeros were written"
        with self.path.open("rb") as one, restored.open("rb") as other:
            for at in self.places:
                pieces = [os.pread(file.fileno(), _PIECE_BYTES, at) for file in (one, other)]
                assert pieces[0] == pieces[1], f"other contents at {at:,}"


def captures_bounded(volumes: Path, folder: Path, size_bytes: int) -> str:
    """Capture a sparse volume: a base, incrementals with and without fingerprints; restore it; say what that took.

    Args:
        volumes: a folder that can hold files of such a size.
        folder: an empty folder for the images.
        size_bytes: size of the volume.

    Raises:
        AssertionError: a capture took more memory than is promised, or other contents came out.
    """
    volume = SparseVolume(volumes / "vast.raw", size_bytes)
    restored = volumes / "restored.raw"
    (folder / "source").write_text(str(volume.path))
    told: list[str] = []
    try:
        for name, every in (("base", 1), ("incremental", 3), ("incremental without fingerprints", 5)):
            written = volume.write(len(told), every)
            if name.endswith("fingerprints"):
                next((folder / ".rollforward").glob("*.fingerprints")).unlink()
            spent = spend("capture", folder)
            told.append(f"{name} {spent.seconds:.1f} s {spent.peak_mib} MiB")
            assert spent.found == written, (told, spent)
            assert spent.peak_mib < LIMIT_MIB, told
        chain = load_chain(folder, VOLUME)
        restore(chain.path_to(chain.newest()), restored)
        volume.must_be_in(restored)
    finally:
        volume.path.unlink()
        restored.unlink(missing_ok=True)
    return f"{size_bytes / 1e12:.2f} TB sparse: {', '.join(told)}"


def rolling_bounded(disks: Path, chain: VastChain) -> str:
    """Bring a disk, all of whose blocks are in use, from a chain's base to its one incremental; say what that took.

    Args:
        disks: a folder that can hold files of such a size.
        chain: a base, and an incremental.

    Raises:
        AssertionError: it took more memory than is promised, or other contents came out.
    """
    folder, path = chain.paths[0].parent, disks / "disk.vhdx"
    (folder / "disk").write_text(str(path))
    _stand_at_base(path, chain)
    spent = spend("roll", folder)
    with ImageReader(chain.paths[1]) as image:
        blocks = np.concatenate([records["block"] for records in image.iter_records()])
        unit, point = image.header.block_bytes, image.header.end
    told = f"{chain.volume_bytes / 1e12:.2f} TB, {len(blocks):,} blocks: {spent.seconds:.1f} s {spent.peak_mib} MiB"
    assert spent.found == len(blocks) * unit, told
    assert spent.peak_mib < LIMIT_MIB, told
    with RollingDisk.open(path) as disk, Overlay(chain.paths[1:]) as overlay:
        assert disk.cursor == Cursor.closed(point)
        for block in (int(blocks[0]), int(blocks[-1])):
            wanted = BlockReader(overlay).read(np.array([block]))[0].tobytes()
            assert disk.read(block * unit, unit) == wanted
    return told


def _stand_at_base(path: Path, chain: VastChain) -> None:
    """Make a disk that says to stand at the base, with a slot for each block, and nothing in them.

    Writing its content would take as much room as it says to have; its map is what a disk of that size has.
    """
    with ImageReader(chain.paths[0]) as image:
        header = image.header
    place = Place.whole(chain.volume_bytes)
    RollingDisk.begin(path, DiskKind.VHDX, place, job_uid=bytes(16), chain_id=header.chain_id).close()
    paths, medium = SidePaths.beside(path), LocalMedium()
    disk_map, form = open_map(medium, paths, path)
    assert form.slots is not None
    for some in np.array_split(np.arange(form.slots.block_count, dtype=np.int32), 5000):
        disk_map.add_blocks(some)
    disk_map.close()
    os.truncate(path, form.slots.end(form.slots.block_count))
    standing = read_cursor(medium, paths)
    assert standing is not None
    at_base = replace(
        standing, phase=Phase.ROLLING, cursor=Cursor.closed(header.end), serial=disk_map.state.serial
    )
    write_cursor(medium, paths, at_base)


def _main(work: str, folder: str) -> None:
    start = time.perf_counter()
    found = _STEPS[work](Path(folder))
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    print(json.dumps({"seconds": seconds, "peak_mib": peak_kib >> 10, "found": found}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
