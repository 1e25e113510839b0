"""Makes the golden images: a small chain as version 1 of the format writes it, never to be made again.

    python -m tests.golden.make_golden FOLDER

The images beside this file were made by it once. They stay as they are, whatever becomes of the writer: what reads
version 1 must read them, and consolidating them must give the very bytes of the golden daily. (A run today gives
the same images as long as Zstandard compresses as it did then; the tests do not rely on that.)

The volume is 3 blocks and 700 bytes large at first, shrinks into its second block, and grows again:

    point 0   a text in blocks 0 and 2, noise in the last 700 bytes, block 1 empty but for its first 300 bytes
    point 1   cut to 1 block and 100 bytes, amid those 300; a word in block 0 changed
    point 2   grown to 2 blocks; what was left of block 1 cleared, 2 granules of noise written in block 0

The volume D_LOCK is the same, encrypted with the password "golden".

So there are frames of every coding, frames that newer ones hide in part or whole, and one that a cut hides.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

from storage.capture import capture
from storage.consolidate import consolidate

VOLUME = "D_GOLD"
LOCKED = "D_LOCK"
PASSWORD = b"golden"
START = datetime(2026, 3, 2, 0, 30, 15, 123_456, tzinfo=UTC)
BLOCK = 65_536
TEXT = b"The quick brown fox jumps over the lazy dog. "


def noise(size: int, seed: bytes) -> bytes:
    """Give bytes that do not compress, the same on every machine."""
    pieces = (hashlib.sha256(seed + bytes([number])).digest() for number in itertools.count())
    return b"".join(itertools.islice(pieces, size // 32 + 1))[:size]


def states() -> list[bytes]:
    """Give the volume's content at each point."""
    middle = (TEXT * 8)[:300].ljust(BLOCK, b"\0")
    first = (TEXT * (BLOCK // len(TEXT) + 1))[:BLOCK] + middle + (TEXT[::-1] * BLOCK)[:BLOCK]
    first += noise(700, b"end")
    second = first[:1000] + b"changed" + first[1007 : BLOCK + 100]
    third = second[:4096] + noise(1024, b"new") + second[5120:BLOCK]
    return [first, second, third.ljust(2 * BLOCK, b"\0")]


class GoldenPassword:
    """The one password."""

    def known(self, volume: str) -> bytes:
        """Return it."""
        del volume
        return PASSWORD

    new = known


def make(folder: Path, volume: str = VOLUME) -> None:
    """Write the images of a volume into a folder."""
    os.chdir(folder)
    locked = volume == LOCKED
    for number, content in enumerate(states()):
        Path("volume.raw").write_bytes(content)
        drawn = (hashlib.sha256(f"{number} {at}".encode()).digest() for at in range(99))
        with (
            patch("secrets.token_bytes", lambda size, drawn=drawn: next(drawn)[:size]),
            patch("storage.capture.platform.node", lambda: "golden"),
        ):
            now = START + timedelta(hours=number)
            capture(Path("volume.raw"), Path(), volume, now=now, encrypt=locked, passwords=GoldenPassword())
    Path("volume.raw").unlink()
    sources = [Path(f"{volume}-b001-i{number:03d}.spi") for number in (1, 2)]
    consolidate(sources, Path(f"{volume}-b001-i002-cd.spi"))
    consolidate([Path(f"{volume}-b001.spf"), *sources], Path(f"{volume}-b001-i002.spf"))


if __name__ == "__main__":
    make(Path(sys.argv[1]).absolute())
    make(Path(sys.argv[1]).absolute(), LOCKED)
