"""BLAKE3 in the three sizes that the container uses."""

from __future__ import annotations

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


def root_of(signed: Buffer) -> bytes:
    """Return the root: the 32-byte identity of an image.

    Args:
        signed: the trailer without its last field, `layout.TRAILER_SIGNED_BYTES` long.
    """
    return blake3(signed, derive_key_context=layout.ROOT_CONTEXT).digest()
