"""A medium that fails at reads of our choice: no device does that on demand, and none does it in every place.

A script says what becomes of each positioned read, one letter a read; the last letter holds for all that follow.

    .   it is good
    E   the medium fails: EIO
    0   the file ends there: it was cut off while it was read
    1   it gives a single byte, as an interrupted read may

`".....E."` lets the sixth read fail and all others be good.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

_preadv = os.preadv


class ReadScript:
    """What becomes of each read; safe to share between threads.

    Args:
        letters: the script.
    """

    def __init__(self, letters: str) -> None:
        self._letters = letters
        self._lock = threading.Lock()
        self.reads = 0
        self.spoilt: list[tuple[str, int]] = []

    def next_letter(self) -> str:
        with self._lock:
            letter = self._letters[min(self.reads, len(self._letters) - 1)]
            self.reads += 1
        return letter

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int, *flags: int) -> int:
        letter = self.next_letter()
        if letter == "1":
            first = next(buffer for buffer in buffers if len(buffer))
            return _preadv(fd, [memoryview(first)[:1]], offset, *flags)
        if letter in "E0":
            self.spoilt.append((str(Path(f"/proc/self/fd/{fd}").readlink()), offset))
        if letter == "E":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return 0 if letter == "0" else _preadv(fd, buffers, offset, *flags)


@contextmanager
def failing_reads(letters: str) -> Iterator[ReadScript]:
    """Let all positioned reads of this process go by a script."""
    script = ReadScript(letters)
    with patch("os.preadv", script.preadv):
        yield script
