"""An NBD export as the source of a capture: read in long pipelined requests, holes and zeros left out."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from policies.errors import SourceError
from storage import nbd_wire as wire
from storage.nbd_client import Extents, NbdClient
from storage.nbd_uri import NbdUri
from storage.source import CaptureStep, Ranges

_STATUS_BYTES: Final = 1 << 30
"""How much of an export a block status is asked for at once."""

_KEPT_WINDOWS: Final = 3


class NbdAccess:
    """Opens an export for a capture of all of it.

    Args:
        uri: the export, which nobody may write to.

    Attributes:
        notes: what the caller should be told: nothing here.
        reads_marked: whether only what is marked is read: no.
    """

    def __init__(self, uri: NbdUri) -> None:
        self._uri = uri
        self.notes: list[str] = []
        self.reads_marked = False

    def open(self, step: CaptureStep) -> NbdSource:
        """Connect.

        Raises:
            SourceError: the export cannot be had, is empty, or can be written to.
        """
        del step
        return NbdSource(self._uri, must_be_read_only=True)


class NbdSource:
    """An NBD export, open for reading. A context manager; safe to share between threads.

    Args:
        uri: the export.
        bitmap: name of a dirty bitmap that marks all that may differ from the parent point.
        called: what errors and metadata call it; its URI by default.
        must_be_read_only: whether an export is refused that clients can write to.

    Raises:
        SourceError: it cannot be had, is empty, or has no such bitmap.
    """

    def __init__(
        self,
        uri: NbdUri,
        *,
        bitmap: str | None = None,
        called: str | None = None,
        must_be_read_only: bool = False,
    ) -> None:
        self._bitmap = wire.DIRTY_BITMAP + bitmap.encode() if bitmap is not None else None
        contexts = [wire.ALLOCATION] if self._bitmap is None else [wire.ALLOCATION, self._bitmap]
        self._client = NbdClient(uri, contexts)
        self.name = called or str(uri)
        self.facts: Mapping[str, object] = {} if bitmap is None else {"read": "marked"}
        self.size_bytes = self._client.terms.size_bytes
        try:
            self._check(must_be_read_only)
        except BaseException:
            self._client.close()
            raise
        self._windows: list[_Window] = []
        self._asking = threading.Lock()

    def _check(self, must_be_read_only: bool) -> None:
        if self.size_bytes == 0:
            raise SourceError("is empty: there is nothing to capture", path=self.name)
        if must_be_read_only and not self._client.terms.read_only:
            raise SourceError(
                "is exported for writing",
                path=self.name,
                hint="Export it read-only (qemu-nbd --read-only, nbdkit --readonly), or capture the disk of a "
                "running guest with --qmp.",
            )
        if self._bitmap is not None and self._bitmap not in self._client.terms.contexts:
            raise SourceError(
                f"shows no dirty bitmap {self._bitmap[len(wire.DIRTY_BITMAP) :].decode()!r}",
                path=self.name,
                hint='Export it with its bitmap: qemu-nbd --bitmap, or "bitmaps" of block-export-add.',
            )

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer from `offset`.

        Raises:
            SourceError: the server refuses, dies or lies.
        """
        self._client.read([(offset, buffer)])

    def read_pieces(self, pieces: Sequence[tuple[int, memoryview]]) -> None:
        """Fill several buffers, each from its offset, in requests that are all under way at once."""
        self._client.read(pieces)

    def next_stored(self, offset: int) -> int:
        """Return where the next bytes at or after `offset` lie that may differ from zero; the size if none do."""
        if wire.ALLOCATION not in self._client.terms.contexts:
            return min(offset, self.size_bytes)
        while offset < self.size_bytes:
            window = self._window_at(offset)
            row = int(np.searchsorted(window.stored[:, 1], offset, "right"))
            if row < len(window.stored):
                return max(offset, int(window.stored[row, 0]))
            offset = window.stop
        return self.size_bytes

    def _window_at(self, offset: int) -> _Window:
        with self._asking:
            for window in self._windows:
                if window.start <= offset < window.stop:
                    return window
            extents = self._extents(offset, wire.ALLOCATION)
            window = _Window.of(offset, extents, extents[:, 1] & wire.READS_ZERO == 0)
            self._windows = [window, *self._windows[: _KEPT_WINDOWS - 1]]
            return window

    def _extents(self, offset: int, context: bytes) -> Extents:
        """Ask for the extents from an offset on; they may reach beyond the end."""
        size = min(self.size_bytes - offset, _STATUS_BYTES)
        return self._client.block_status(offset, size)[context]

    def marked(self) -> Iterator[Ranges] | None:
        """Yield what the dirty bitmap marks; None without one."""
        return None if self._bitmap is None else self._marked(self._bitmap)

    def _marked(self, bitmap: bytes) -> Iterator[Ranges]:
        offset = 0
        while offset < self.size_bytes:
            extents = self._extents(offset, bitmap)
            window = _Window.of(offset, extents, extents[:, 1] & wire.DIRTY != 0)
            clipped = np.minimum(window.stored, self.size_bytes)
            yield clipped[clipped[:, 0] < clipped[:, 1]]
            offset = window.stop

    def confirm(self) -> None:
        """Do nothing: an export keeps its size, and whoever froze it vouches for the rest."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


class _Window:
    """Part of an export, and the ranges of it that are of interest.

    Args:
        start: its first byte.
        stop: its end.
        stored: the ranges.
    """

    def __init__(self, start: int, stop: int, stored: Ranges) -> None:
        self.start, self.stop, self.stored = start, stop, stored

    @classmethod
    def of(cls, start: int, extents: Extents, wanted: npt.NDArray[np.bool_]) -> _Window:
        """Turn extents into ranges, neighbours joined.

        Args:
            start: where the first extent begins.
            extents: what the server says.
            wanted: bool, one an extent.
        """
        ends = start + np.cumsum(extents[:, 0], dtype=np.int64)
        edges = np.flatnonzero(np.diff(np.concatenate(([False], wanted, [False])).astype(np.int8)))
        borders = np.append(start, ends)
        return cls(start, int(ends[-1]), borders[edges.reshape(-1, 2)].reshape(-1, 2))
