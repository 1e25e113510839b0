"""Frames that newer ones hide: read and checked where only what is seen is needed otherwise.

Whoever writes a point from its images is the one who reads them as a whole. Damage that nobody sees today is in what
another point will need: see docs/decisions/0013-read-everything.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Final

import numpy as np

from storage.overlay import Overlay, Window
from storage.pipeline import THREADS, BufferPool, Progress, ordered_map

_LOAD_BYTES: Final = 4 << 20
_AHEAD: Final = 2 * THREADS


def check_hidden(overlay: Overlay, progress: Progress) -> None:
    """Check the segment tables, all indexes, and the stored bytes of each frame that the overlay's end does not show.

    Together with the frames that it shows, that is all there is in the images.

    Args:
        overlay: the images.
        progress: told how many stored bytes of all frames are behind it, hidden or not.

    Raises:
        FormatError: an image is damaged.
        StorageError: one cannot be read.
    """
    overlay.check_tables()
    buffers = BufferPool(_AHEAD, _LOAD_BYTES + overlay.frame_bytes_max)

    def check(window: Window) -> int:
        shown = window.seen & (window.records["block"] < overlay.block_count)
        hidden = np.flatnonzero(~shown)
        buffer = buffers.take()
        try:
            overlay.load(window, hidden, buffer.data)
        finally:
            buffers.give(buffer)
        return int(window.records["length"].sum(dtype=np.int64))

    done = 0
    with closing(ordered_map(check, _batches(overlay), ahead=_AHEAD)) as results:
        for size in results:
            done += size
            progress(done, overlay.frames_bytes)


def _batches(overlay: Overlay) -> Iterator[Window]:
    for window in overlay.windows():
        yield from window.batches(_LOAD_BYTES)
