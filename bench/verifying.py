"""Verification of a base and all incrementals, against hashing the same bytes and doing nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from blake3 import blake3

from bench.ground import Ground
from bench.report import Goal, Row
from bench.timing import Contender, take_turns
from storage.verify import verify_image
from tests.commands import run

RATE_OF_HASHING: Final = 0.55
AT_LEAST_MD5: Final = 4.0
_PIECE_BYTES: Final = 1 << 20
_THREADS: Final = 2


class PlainHashing:
    """BLAKE3 of the same files in 1 MiB pieces, by two threads with a buffer each."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths
        self._buffers = [bytearray(_PIECE_BYTES) for _ in range(_THREADS)]

    def run(self, _round: int) -> None:
        """Hash everything."""
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(self._hash, range(_THREADS)):
                pass

    def _hash(self, thread: int) -> None:
        view = memoryview(self._buffers[thread])
        for piece in self._pieces(thread, view):
            blake3(piece).digest()

    def _pieces(self, thread: int, view: memoryview) -> Iterator[memoryview]:
        """Read each second piece of every file."""
        for path in self._paths:
            with path.open("rb", buffering=0) as file:
                for offset in range(thread * _PIECE_BYTES, path.stat().st_size, _THREADS * _PIECE_BYTES):
                    file.seek(offset)
                    yield view[: file.readinto(view)]


def compare(ground: Ground) -> list[Row]:
    """Measure verification; the files lie in the page cache, and stay there."""

    def verify(_round: int) -> None:
        for path in ground.chain:
            found = verify_image(path, from_medium=False)
            if found.status != "good":
                raise AssertionError(f"{path}: {found.reason}")

    def md5sum(_round: int) -> None:
        run("md5sum", *map(str, ground.chain))

    ours, hashing, md5 = f"verify base + {len(ground.chain) - 1}", "BLAKE3 alone, two threads", "md5sum"
    timings = take_turns(
        [
            Contender(ours, verify, inputs=ground.chain),
            Contender(hashing, PlainHashing(ground.chain).run, inputs=ground.chain),
            Contender(md5, md5sum, inputs=ground.chain),
        ],
        ground.rounds,
        ground.report,
    )
    bound = round(1 / RATE_OF_HASHING, 2)
    note = f"that is at least {RATE_OF_HASHING} of its rate"
    return [
        Row("verify", timings[ours], timings[hashing], Goal.SHARE_OF_TIME, bound, note),
        Row("verify", timings[ours], timings[md5], Goal.TIMES_FASTER, AT_LEAST_MD5),
    ]
