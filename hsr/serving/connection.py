"""One client's connection: bytes in, bytes out, within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

BUFFER_BYTES: Final = 128 << 10
"""What a client may have sent and not been answered for; more waits in the socket."""

_UNSENT_BYTES: Final = 1 << 20
"""What may wait for a client to take it, before its next requests do."""

_AT_ONCE_PIECES: Final = 64
_HANDED_BYTES: Final = 64 << 10
"""What the transport is given to wait with, when the kernel takes no more: it copies it."""

_STUCK_S: Final = 60.0
"""A client that takes nothing for so long, though answers wait for it, is cut off."""

_TLS_S: Final = 15.0


class HostileClientError(ConnectionError):
    """A client says what the protocol does not allow: its connection ends."""


class Connection(asyncio.BufferedProtocol):
    """Receives into one fixed buffer, and stops receiving while the client leaves answers untaken.

    Args:
        serve: talks with the client; the connection ends when it returns.
        lost: called when the connection is closed.
    """

    def __init__(
        self, serve: Callable[[Connection], Awaitable[None]], lost: Callable[[Connection], None]
    ) -> None:
        self._serve = serve
        self._lost = lost
        self._transport: asyncio.Transport
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._unsent: deque[tuple[memoryview, Callable[[], None] | None]] = deque()
        self._unsent_bytes = 0
        self._taken_bytes = 0
        self._is_full = False
        self._is_ending = False
        self._wake: asyncio.Event = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._stuck: asyncio.TimerHandle | None = None
        self._consume: Callable[[], None] | None = None
        self.is_lost = False
        self.made = asyncio.Event()
        self.closed = asyncio.Event()
        self.has_tls = False
        self._task: asyncio.Task[None]

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to talk."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - tells the type checker, no more
        self._transport = transport
        transport.set_write_buffer_limits(high=0)
        self._task = asyncio.get_running_loop().create_task(self._talk())
        self.made.set()

    async def _talk(self) -> None:
        try:
            await self._serve(self)
        finally:
            if self.is_writable:
                self.end()
            else:
                self.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give room for bytes; there always is some while the transport reads."""
        del sizehint
        if self._start:
            rest = self._end - self._start
            self._view[:rest] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, rest
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take note of bytes."""
        self._end += nbytes
        if self._consume is not None:
            self._consume()
        else:
            self._wake.set()
        if self._end - self._start == BUFFER_BYTES:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Close; nothing is owed to a client that has gone."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake whoever waits for the client."""
        del exc
        self.is_lost = True
        self._drop_unsent()
        self._wake.set()
        self._may_write.set()
        self.closed.set()
        self._unstick()
        self._lost(self)

    def pause_writing(self) -> None:
        """Hold answers back: the kernel takes no more."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Go on."""
        self._is_full = False
        self._push()
        if self._consume is not None:
            self._consume()

    def _push(self) -> None:
        """Give the kernel what it takes."""
        while self._unsent and not self._is_full and not self._transport.is_closing():
            sent = 0 if self.has_tls else self._send_at_once()
            if not sent:  # the transport waits, and tells when there is room again
                first, _ = self._unsent[0]
                sent = min(len(first), _HANDED_BYTES)
                self._transport.write(bytes(first[:sent]))
            self._take_away(sent)
        if self._unsent_bytes <= _UNSENT_BYTES:
            self._may_write.set()
        if self._unsent:
            if self._stuck is None:
                self._watch()
        elif self._is_ending:
            self._watch()
            self._transport.close()
        else:
            self._unstick()

    def _send_at_once(self) -> int:
        """Send several pieces in one go, as they are; return how many bytes the kernel took."""
        pieces = [piece for piece, _ in itertools.islice(self._unsent, _AT_ONCE_PIECES)]
        with contextlib.suppress(OSError):  # full; or the client has gone, which the transport finds, too
            return os.writev(self._transport.get_extra_info("socket").fileno(), pieces)
        return 0

    def _take_away(self, size: int) -> None:
        self._unsent_bytes -= size
        self._taken_bytes += size
        while self._unsent:
            piece, sent = self._unsent[0]
            if size < len(piece):
                self._unsent[0] = (piece[size:], sent)
                return
            size -= len(piece)
            self._unsent.popleft()
            if sent is not None:
                sent()

    def _drop_unsent(self) -> None:
        dropped, self._unsent_bytes = list(self._unsent), 0
        self._unsent.clear()
        for _, sent in dropped:
            if sent is not None:
                sent()

    def _watch(self) -> None:
        """Cut the client off if it has taken nothing when the time is up; a slow one takes some."""
        self._unstick()
        taken_bytes = self._taken_bytes

        def look() -> None:
            if self._taken_bytes > taken_bytes:
                self._watch()
            else:
                self._transport.abort()

        self._stuck = asyncio.get_running_loop().call_later(_STUCK_S, look)

    def _unstick(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    # --- called by those who talk with the client

    @property
    def available_bytes(self) -> int:
        """How many bytes have come and not been taken."""
        return self._end - self._start

    @property
    def is_writable(self) -> bool:
        """Whether the client takes its answers."""
        return self._unsent_bytes <= _UNSENT_BYTES

    def peek(self) -> tuple[bytearray, int]:
        """Return the buffer, and where in it the bytes begin that have not been taken."""
        return self._buffer, self._start

    def skip(self, size: int) -> None:
        """Take bytes away that have come."""
        is_full = self._end - self._start == BUFFER_BYTES
        self._start += size
        if is_full and size:
            self._transport.resume_reading()

    async def receive(self, size: int) -> bytes:
        """Take so many bytes, at most BUFFER_BYTES, waiting for them.

        Raises:
            ConnectionError: the client has gone.
        """
        while self.available_bytes < size:
            if self.is_lost:
                raise ConnectionResetError("the client has gone")
            self._wake.clear()
            await self._wake.wait()
        received = bytes(self._view[self._start : self._start + size])
        self.skip(size)
        return received

    def write(self, *pieces: bytes | bytearray | memoryview, sent: Callable[[], None] | None = None) -> None:
        """Send bytes, now or as soon as the client takes them; nothing where it has gone.

        Args:
            pieces: bytes, which must not change until they are sent.
            sent: called when the last of them has left, or never will.
        """
        if self.is_lost or self._is_ending:
            if sent is not None:
                sent()
            return
        for piece in pieces:
            self._unsent.append((memoryview(piece), None))
            self._unsent_bytes += len(piece)
        if sent is not None:
            self._unsent.append((memoryview(b""), sent))
        self._push()
        if not self.is_writable:
            self._may_write.clear()

    async def writable(self) -> None:
        """Wait until the client takes its answers, or has gone."""
        await self._may_write.wait()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Encrypt from here on.

        Raises:
            HostileClientError: the client sent something before, which would then count as encrypted.
            OSError: no agreement was reached.
        """
        if self.available_bytes:
            raise HostileClientError("bytes before the TLS handshake")
        transport = await asyncio.get_running_loop().start_tls(
            self._transport, self, context, server_side=True, ssl_handshake_timeout=_TLS_S
        )
        if transport is None:
            raise ConnectionResetError("the client has gone")
        self._transport = transport
        transport.set_write_buffer_limits(high=1)  # at 0 it would take itself for full when it is empty
        self._is_full = False
        self.has_tls = True

    def consume_with(self, consume: Callable[[], None]) -> None:
        """Have bytes taken by a function, called whenever some have come or the client takes answers again."""
        self._consume = consume
        consume()

    def end(self) -> None:
        """Close the connection once what was written is sent, or the client leaves it; `closed` tells when."""
        if not self.is_lost:
            self._is_ending = True
            self._push()

    def abort(self) -> None:
        """Close the connection at once."""
        if not self.is_lost:
            self._transport.abort()
