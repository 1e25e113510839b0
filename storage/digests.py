"""BLAKE3 in the three sizes that the container uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from blake3 import blake3

from storage import layout

Buffer = bytes | bytearray | memoryview

EMPTY_FRAME_DIGEST: Final = blake3(b"").digest(layout.FRAME_DIGEST_BYTES)
"""Digest that a zero frame carries: it has no stored bytes."""


def digest_of(*pieces: Buffer) -> bytes:
    """Return the 32-byte BLAKE3 digest of the pieces, one after the other."""
    hasher = blake3()
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()


def frame_digest(stored: Buffer) -> bytes:
    """Return the 24-byte digest of a frame's stored bytes."""
    return blake3(stored).digest(layout.FRAME_DIGEST_BYTES)


class SegmentDigests:
    """Hashes a stored stream MiB by MiB, however its bytes arrive.

    Args:
        take: given the 32-byte digest of each segment, in order, as soon as it is known.
    """

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._open = blake3()
        self._room_bytes = layout.SEGMENT_BYTES

    def update(self, stored: Buffer) -> None:
        """Take in the bytes that come next."""
        view = memoryview(stored)
        while view:
            piece = view[: self._room_bytes]
            self._open.update(piece)
            self._room_bytes -= len(piece)
            view = view[len(piece) :]
            if self._room_bytes == 0:
                self._end_segment()

    def finish(self) -> None:
        """End the last segment, however short; there are no more bytes."""
        if self._room_bytes < layout.SEGMENT_BYTES:
            self._end_segment()

    def _end_segment(self) -> None:
        digest = self._open.digest()
        self._open, self._room_bytes = blake3(), layout.SEGMENT_BYTES
        self._take(digest)


def root_of(signed: Buffer) -> bytes:
    """Return the root: the 32-byte identity of an image.

    Args:
        signed: the trailer without its last field, `layout.TRAILER_SIGNED_BYTES` long.
    """
    return blake3(signed, derive_key_context=layout.ROOT_CONTEXT).digest()
