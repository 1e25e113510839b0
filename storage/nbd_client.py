"""The second half of a conversation with an NBD server: many requests at once over one connection.

Whichever thread waits receives for all: bytes go straight into the buffer of the thread that asked for them.

Source: the NBD protocol, sections "Transmission phase", "Structured reply chunk message" and "Block status".
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from policies.errors import SourceError
from storage import nbd_wire as wire
from storage.nbd_handshake import NbdTerms, agree
from storage.nbd_stream import NbdStream
from storage.nbd_uri import NbdUri
from storage.nbd_wire import ChunkType, Command, CommandFlag

Extents = npt.NDArray[np.uint32]
"""uint32, shape (extents, 2): size of each in bytes, and its flags."""

_REPLY_S: Final = 120.0
_UNDER_WAY_MAX: Final = 256
"""Requests of one thread that are under way at once: so few that sending them never waits for a server that waits for
its replies to be taken."""
_CHUNKS_MAX: Final = 1 << 12
_EXTENTS_MAX: Final = 1 << 20
_WORDS_BYTES_MAX: Final = 4096
_WORDS_MAX: Final = 200


@dataclass(slots=True)
class _Request:
    """A request that is under way.

    Attributes:
        offset: where in the export.
        size: how many bytes it is about.
        buffer: where a read goes; None for a block status.
        covered: first and end byte of what has come of a read, in its buffer.
        extents: what has come of a block status, by number of the context.
        chunks: how many chunks have come.
        error: why the server refused.
        done: whether the reply is complete.
    """

    offset: int
    size: int
    buffer: memoryview | None
    covered: list[tuple[int, int]] = field(default_factory=list)
    extents: dict[int, Extents] = field(default_factory=dict)
    chunks: int = 0
    error: SourceError | None = None
    done: bool = False


class NbdClient:
    """A connection to an export, for reading; safe to share between threads.

    Args:
        uri: the export.
        contexts: names of the meta contexts that are of interest.

    Attributes:
        terms: what was agreed on.

    Raises:
        SourceError: the server cannot be reached, refuses, or does not keep to the protocol.
    """

    def __init__(self, uri: NbdUri, contexts: Sequence[bytes] = ()) -> None:
        self._stream = NbdStream(uri)
        try:
            self.terms: NbdTerms = agree(self._stream, uri.export, contexts)
        except BaseException:
            self._stream.close()
            raise
        self.name = self._stream.name
        self._open: dict[int, _Request] = {}
        self._cookie = 0
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        self._broken: SourceError | None = None

    def read(self, pieces: Sequence[tuple[int, memoryview]]) -> None:
        """Fill buffers, each from its offset.

        Raises:
            SourceError: the server refuses, hangs up, dawdles, or does not keep to the protocol.
        """
        step = self.terms.request_bytes
        requests = [
            _Request(offset + at, len(buffer[at : at + step]), buffer[at : at + step])
            for offset, buffer in pieces
            for at in range(0, len(buffer), step)
        ]
        for at in range(0, len(requests), _UNDER_WAY_MAX):
            some = requests[at : at + _UNDER_WAY_MAX]
            self._send(Command.READ, some)
            self._wait(some)

    def block_status(self, offset: int, size: int) -> Mapping[bytes, Extents]:
        """Ask what a range is, in each of the contexts.

        Args:
            offset: where it begins.
            size: its size, less than 4 GiB; the answer may end earlier or later.

        Returns:
            The extents from `offset` on, by name of the context.

        Raises:
            SourceError: as in `read`.
        """
        request = _Request(offset, size, None)
        self._send(Command.BLOCK_STATUS, [request])
        self._wait([request])
        missing = [name for name, number in self.terms.contexts.items() if number not in request.extents]
        if missing:
            raise self._stream.failed("the NBD server keeps part of the block status to itself", offset)
        return {name: request.extents[number] for name, number in self.terms.contexts.items()}

    def close(self) -> None:
        """Say goodbye and hang up."""
        try:
            if self._broken is None:
                self._stream.send(wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, Command.DISCONNECT, 0, 0, 0))
        except SourceError:
            return  # it hung up first
        finally:
            self._stream.close()

    def _send(self, command: Command, requests: Sequence[_Request]) -> None:
        with self._sending:
            heads = []
            for request in requests:
                self._cookie += 1
                self._open[self._cookie] = request
                flags = CommandFlag.DF if command is Command.READ and self._in_one(request) else 0
                head = (wire.REQUEST_MAGIC, flags, command, self._cookie, request.offset, request.size)
                heads.append(wire.REQUEST.pack(*head))
            self._stream.send(b"".join(heads))

    def _in_one(self, request: _Request) -> bool:
        """Tell whether a read is so short that a server has more to do with looking for holes than with sending."""
        return self.terms.whole_reads and request.size <= wire.DF_BYTES

    def _wait(self, requests: Sequence[_Request]) -> None:
        for request in requests:
            while not request.done:
                with self._receiving:
                    self._receive_for(request)
        for request in requests:
            if request.error is not None:
                raise request.error

    def _receive_for(self, request: _Request) -> None:
        """Take one message, unless another thread has taken the last one of this request meanwhile."""
        if request.done:
            return
        if self._broken is not None:
            raise self._broken
        try:
            self._stream.within(_REPLY_S)
            self._receive()
        except BaseException as error:
            self._broken = (
                error if isinstance(error, SourceError) else self._stream.failed("reading was broken off")
            )
            raise

    def _receive(self) -> None:
        """Take one message; it may belong to any request."""
        head = self._stream.take(wire.SIMPLE_REPLY.size)
        (magic,) = wire.U32.unpack_from(head)
        if magic == wire.SIMPLE_REPLY_MAGIC:
            _, error, cookie = wire.SIMPLE_REPLY.unpack(head)
            self._simple(cookie, self._request(cookie), error)
            return
        if magic != wire.CHUNK_MAGIC or not self.terms.structured:
            raise self._astray()
        head += self._stream.take(wire.CHUNK.size - len(head))
        _, flags, kind, cookie, size = wire.CHUNK.unpack(head)
        request = self._request(cookie)
        request.chunks += 1
        if request.chunks > _CHUNKS_MAX:
            raise self._astray()
        is_last = bool(flags & wire.CHUNK_DONE)
        self._chunk(request, kind, size, is_last)
        if is_last:
            self._finish(cookie, request)

    def _simple(self, cookie: int, request: _Request, error: int) -> None:
        if error:
            request.error = self._refused(request, error, "")
        elif request.buffer is None or self.terms.structured:
            raise self._astray()
        else:
            self._stream.fill(request.buffer)
            request.covered.append((0, request.size))
        self._finish(cookie, request)

    def _chunk(self, request: _Request, kind: int, size: int, is_last: bool) -> None:
        if kind == ChunkType.DATA and wire.U64.size < size <= wire.U64.size + request.size:
            (offset,) = wire.U64.unpack(self._stream.take(wire.U64.size))
            self._stream.fill(self._part(request, offset, size - wire.U64.size))
        elif kind == ChunkType.HOLE and size == wire.HOLE.size:
            offset, hole_bytes = wire.HOLE.unpack(self._stream.take(size))
            np.frombuffer(self._part(request, offset, hole_bytes), np.uint8)[:] = 0
        elif kind == ChunkType.BLOCK_STATUS and request.buffer is None:
            self._take_extents(request, size)
        elif kind & wire.ERROR_KIND and wire.ERROR.size <= size <= _WORDS_BYTES_MAX:
            content = self._stream.take(size)
            error, words_bytes = wire.ERROR.unpack_from(content)
            words = content[wire.ERROR.size :][:words_bytes][:_WORDS_MAX].decode(errors="replace")
            request.error = request.error or self._refused(request, error, words)
        elif kind != ChunkType.NONE or size or not is_last:
            raise self._astray()

    def _part(self, request: _Request, offset: int, size: int) -> memoryview:
        """Return the part of a read's buffer that a chunk is for."""
        at = offset - request.offset
        if request.buffer is None or size == 0 or at < 0 or at + size > request.size:
            raise self._astray()
        request.covered.append((at, at + size))
        return request.buffer[at : at + size]

    def _take_extents(self, request: _Request, size: int) -> None:
        count, rest = divmod(size - wire.U32.size, wire.STATUS.size)
        if rest or not 0 < count <= _EXTENTS_MAX:
            raise self._astray()
        (context,) = wire.U32.unpack(self._stream.take(wire.U32.size))
        pairs = np.frombuffer(self._stream.take(size - wire.U32.size), ">u4").reshape(-1, 2)
        if context in request.extents or not pairs[:, 0].all():
            raise self._astray()
        request.extents[context] = pairs.astype(np.uint32)

    def _finish(self, cookie: int, request: _Request) -> None:
        """Close a request whose reply is complete; each byte of a read must have come once."""
        del self._open[cookie]
        if request.buffer is not None and request.error is None:
            at = 0
            for first, stop in sorted(request.covered):
                if first != at:
                    raise self._astray()
                at = stop
            if at != request.size:
                raise self._astray()
        request.done = True

    def _request(self, cookie: int) -> _Request:
        request = self._open.get(cookie)
        if request is None:
            raise self._astray()
        return request

    def _astray(self) -> SourceError:
        return self._stream.failed("the NBD server does not keep to the protocol")

    def _refused(self, request: _Request, error: int, words: str) -> SourceError:
        what = os.strerror(error) if error in errno.errorcode else f"error {error}"
        return self._stream.failed(f"cannot be read: {what}{f' ({words})' if words else ''}", request.offset)
