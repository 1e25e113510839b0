"""Random reads of 4 KiB from a served point, against a raw file that `qemu-nbd` serves; and copying it whole."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.ground import VOLUME, Ground
from bench.report import Goal, Row
from bench.timing import Contender, take_turns
from tests.commands import run, tool
from tests.serving import serving

AT_LEAST: Final = 0.3
"""Of the raw file's rate."""

_READS: Final = 20_000
_PAGE_BYTES: Final = 4096


def compare(ground: Ground) -> list[Row]:
    """Measure reads with one and with 16 requests in flight; `qemu-img bench` is the client of both sides."""
    last = ground.history.last
    raw = ground.history.replay(ground.folder / "served.raw", last.number).path
    folder = ground.chain[0].parent
    socket = ground.folder / "raw.sock"
    with _raw_server(raw, socket) as theirs, serving(folder, VOLUME) as ours:
        rows = [
            _random_reads(ground, ours, theirs, last.volume_bytes, depth, words)
            for depth, words in ((1, "one in flight"), (16, "16 in flight"))
        ]
        rows.append(_copies(ground, ours, theirs))
    raw.unlink()
    return rows


def _random_reads(ground: Ground, ours: str, theirs: str, size: int, depth: int, words: str) -> Row:
    # A step that shares no factor with the size visits the whole volume, far from where it was before.
    step = (size // _PAGE_BYTES * 618 // 1000 | 1) * _PAGE_BYTES

    def reads(uri: str) -> None:
        pattern = ("-c", str(_READS), "-d", str(depth), "-s", str(_PAGE_BYTES), "-S", str(step))
        run("qemu-img", "bench", "-f", "raw", *pattern, uri)

    subject = f"{_READS:,} random reads of 4 KiB, {words}"
    peer = f"qemu-nbd of a raw file, {words}"
    contenders = [Contender(subject, lambda _: reads(ours)), Contender(peer, lambda _: reads(theirs))]
    timings = take_turns(contenders, ground.rounds, ground.report)
    note = "scattered over the whole volume, of which the default cache holds a part decoded"
    return Row(subject, timings[subject], timings[peer], Goal.SHARE_OF_TIME, 1 / AT_LEAST, note)


def _copies(ground: Ground, ours: str, theirs: str) -> Row:
    subject, peer = "nbdcopy of the whole export", "nbdcopy of the raw file's export"
    contenders = [
        Contender(subject, lambda _: _discard(run("nbdcopy", ours, "null:"))),
        Contender(peer, lambda _: _discard(run("nbdcopy", theirs, "null:"))),
    ]
    timings = take_turns(contenders, ground.rounds, ground.report)
    return Row(subject, timings[subject], timings[peer])


def _discard(_output: str) -> None:
    """Take no notice of what a tool printed."""


@contextmanager
def _raw_server(raw: Path, socket: Path) -> Iterator[str]:
    command = [tool("qemu-nbd"), "-r", "-t", "-f", "raw", "-e", "8", "-k", str(socket), str(raw)]
    with subprocess.Popen(command) as process:
        try:
            while not socket.exists() and process.poll() is None:
                pass
            yield f"nbd+unix:///?socket={socket}"
        finally:
            process.terminate()
