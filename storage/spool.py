"""Bytes on their way to a later place of a file: in memory while few, then in an unnamed file."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from storage.digests import Buffer

_HELD_BYTES: Final = 16 << 20


class Spool:
    """Takes bytes in, and gives them back in the same order.

    Args:
        folder: where the unnamed file is made, should it come to that.

    Crash: leaves nothing; the kernel removes the file with its last user.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held = bytearray()
        self._file: IO[bytes] | None = None
        self.size_bytes = 0

    def append(self, piece: Buffer) -> None:
        """Take bytes in; they may be reused when this returns.

        Raises:
            OSError: the medium refuses.
        """
        self._held += piece
        self.size_bytes += len(piece)
        if len(self._held) >= _HELD_BYTES:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by close()
        self._file.write(self._held)
        self._held.clear()

    def pieces(self, piece_bytes: int) -> Iterator[bytes]:
        """Yield all bytes in pieces of that size, but for the last.

        Raises:
            OSError: the medium refuses.
        """
        if self._file is None:
            for start in range(0, len(self._held), piece_bytes):
                yield bytes(self._held[start : start + piece_bytes])
            return
        self._spill()
        self._file.seek(0)
        while piece := self._file.read(piece_bytes):
            yield piece

    def close(self) -> None:
        """Forget everything."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # of what it could not write: nobody wants that any more
                self._file.close()
