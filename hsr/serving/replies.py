"""Requests and replies over NBD, simple or in chunks.

Source: the NBD protocol, sections "Request message", "Simple reply message" and "Structured reply chunk message".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from storage import nbd_wire as wire
from storage.nbd_wire import ChunkType, NbdError

_WORDS_BYTES_MAX: Final = 1024

Piece = bytes | bytearray | memoryview
"""Part of a reply."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for; offset and size in bytes."""

    flags: int
    command: int
    cookie: int
    offset: int
    size: int


class Replies:
    """Writes replies.

    Args:
        structured: in chunks, as the client has chosen.
    """

    def __init__(self, *, structured: bool) -> None:
        self.structured = structured

    def success(self, cookie: int) -> bytes:
        """Reply that all went well."""
        if self.structured:
            return wire.CHUNK.pack(wire.CHUNK_MAGIC, wire.CHUNK_DONE, ChunkType.NONE, cookie, 0)
        return wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, NbdError.NONE, cookie)

    def refusal(self, cookie: int, error: NbdError, words: str) -> bytes:
        """Reply that a request failed, in words where there is room for them."""
        if not self.structured:
            return wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, error, cookie)
        text = words.encode(errors="replace")[:_WORDS_BYTES_MAX]
        kind = (wire.CHUNK_MAGIC, wire.CHUNK_DONE, ChunkType.ERROR)
        return wire.CHUNK_ERROR.pack(*kind, cookie, 6 + len(text), error, len(text)) + text

    def head(self, cookie: int, offset: int, size: int) -> bytes:
        """Return what goes before the bytes of a read that are sent in one piece."""
        if self.structured:
            return self.data_head(cookie, offset, size, is_last=True)
        return wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, NbdError.NONE, cookie)

    def data_head(self, cookie: int, offset: int, size: int, *, is_last: bool) -> bytes:
        """Return what goes before the bytes of a chunk."""
        kind = (wire.CHUNK_MAGIC, wire.CHUNK_DONE if is_last else 0, ChunkType.DATA)
        return wire.CHUNK_DATA.pack(*kind, cookie, size + 8, offset)

    def hole(self, cookie: int, offset: int, size: int, *, is_last: bool) -> bytes:
        """Return a chunk that says that all is zero."""
        kind = (wire.CHUNK_MAGIC, wire.CHUNK_DONE if is_last else 0, ChunkType.HOLE)
        return wire.CHUNK_HOLE.pack(*kind, cookie, 12, offset, size)

    def status(self, cookie: int, extents: Sequence[tuple[int, bool]]) -> bytes:
        """Reply where the volume holds anything: (bytes, whether a frame holds any of them)."""
        content = wire.U32.pack(wire.ALLOCATION_ID) + b"".join(
            wire.STATUS.pack(length, 0 if is_filled else wire.HOLE_ZERO) for length, is_filled in extents
        )
        kind = (wire.CHUNK_MAGIC, wire.CHUNK_DONE, ChunkType.BLOCK_STATUS)
        return wire.CHUNK.pack(*kind, cookie, len(content)) + content
