"""What can be served: bytes that are read at random."""

from __future__ import annotations

from typing import Protocol


class Readable(Protocol):
    """A volume or a disk at a point; safe to share between threads. `PointReader` says what each does."""

    @property
    def size_bytes(self) -> int:
        """Its size."""

    @property
    def block_bytes(self) -> int:
        """It is read best in pieces of so many bytes."""

    def read_at_once(self, offset: int, size: int) -> bytes | None:
        """Read a few bytes, if no medium has to be waited for."""

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill a buffer."""

    def warm(self, offset: int, size: int) -> None:
        """Have ready what will be asked for soon."""

    def extents(self, offset: int, size: int) -> list[tuple[int, bool]]:
        """Say where anything is held."""
