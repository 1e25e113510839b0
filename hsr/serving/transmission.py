"""The second half of a conversation over NBD: requests and replies.

Small reads that need no medium are answered where they arrive; all else goes through threads, many at once, and
replies leave in the order in which they are ready.

Source: the NBD protocol, sections "Transmission phase" and "Request types".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, TypeVar, TypeVarTuple

from hsr.serving.budget import Budget, Shelf
from hsr.serving.connection import Connection
from hsr.serving.haggling import Terms
from hsr.serving.point import PointReader
from policies.errors import RollforwardError
from storage import nbd_wire as wire
from storage.nbd_wire import ChunkType, Command, CommandFlag, NbdError

_AT_ONCE_BYTES: Final = 64 << 10
PIECE_BYTES: Final = 512 << 10
_UNANSWERED_MAX: Final = 256
_CLIENT_BYTES: Final = wire.READ_BYTES_MAX
_TURN_S: Final = 0.004
"""How long one client is answered before another has its turn."""

_AHEAD_BYTES: Final = 4 << 20
_IN_ORDER_BYTES: Final = 256 << 10
"""A client that has read so much in order will read on, presumably."""

_ALLOWED_FLAGS: Final = {Command.READ: CommandFlag.DF, Command.BLOCK_STATUS: CommandFlag.REQ_ONE}
_CHANGES: Final = {Command.WRITE, Command.TRIM, Command.WRITE_ZEROES}

Result = TypeVar("Result")
Given = TypeVarTuple("Given")

Failed = Callable[[RollforwardError], None]
"""Called with each error of an image."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What all clients of a server share.

    Attributes:
        point: the volume.
        threads: where blocks are decoded.
        budget: memory for replies of all clients.
        shelf: buffers for pieces of replies.
        failed: told of errors of images.
    """

    point: PointReader
    threads: Executor
    budget: Budget
    shelf: Shelf
    failed: Failed


@dataclass(frozen=True, slots=True)
class _Request:
    flags: int
    command: int
    cookie: int
    offset: int
    size: int


class Transmission:
    """Answers one client's requests until it hangs up.

    Args:
        connection: the client.
        terms: what was agreed on.
        ground: what all clients share.
    """

    def __init__(self, connection: Connection, terms: Terms, ground: Ground) -> None:
        self._connection = connection
        self._structured = terms.structured
        self._allocation = terms.allocation
        self._ground = ground
        self._point = ground.point
        self._budget = Budget(_CLIENT_BYTES)
        self._tasks: set[asyncio.Task[None]] = set()
        self._payload_bytes = 0
        self._has_turn = True
        self._is_over = asyncio.Event()
        self._next_offset = self._in_order_bytes = self._warm_until = 0

    async def run(self) -> None:
        """Answer requests; returns when the client has gone, said so, or does not keep to the protocol."""
        self._connection.consume_with(self._consume)
        waits = [asyncio.ensure_future(event.wait()) for event in (self._is_over, self._connection.closed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            await self.settle()
        finally:
            self._is_over.set()
            for task in (*waits, *self._tasks):
                task.cancel()

    async def settle(self) -> None:
        """Wait until everything asked for is answered."""
        while self._tasks and not self._connection.is_lost:
            await asyncio.wait(self._tasks)

    def finish(self) -> None:
        """Take no more requests; `run` returns when those taken are answered."""
        self._is_over.set()

    # --- taking requests

    def _consume(self) -> None:
        """Take what has come, for as long as a turn lasts and the client takes its answers."""
        if not self._has_turn:
            return
        connection = self._connection
        replies: list[bytes] = []
        turn_ends = time.perf_counter() + _TURN_S
        while self._may_take():
            self._skip_payload()
            if self._payload_bytes or connection.available_bytes < wire.REQUEST.size:
                break
            if time.perf_counter() > turn_ends:
                self._has_turn = False
                asyncio.get_running_loop().call_soon(self._next_turn)
                break
            reply = self._take()
            if reply is not None:
                replies.append(reply)
        if replies:
            connection.write(b"".join(replies) if len(replies) > 1 else replies[0])

    def _may_take(self) -> bool:
        return (
            not self._is_over.is_set() and len(self._tasks) < _UNANSWERED_MAX and self._connection.is_writable
        )

    def _next_turn(self) -> None:
        self._has_turn = True
        self._consume()

    def _skip_payload(self) -> None:
        size = min(self._payload_bytes, self._connection.available_bytes)
        if size:
            self._payload_bytes -= size
            self._connection.skip(size)

    def _take(self) -> bytes | None:
        """Take one request; return its reply, if that is ready at once."""
        buffer, at = self._connection.peek()
        magic, flags, command, cookie, offset, size = wire.REQUEST.unpack_from(buffer, at)
        self._connection.skip(wire.REQUEST.size)
        if magic != wire.REQUEST_MAGIC:
            self._is_over.set()
            return None
        if command == Command.READ and not flags and 0 < size <= _AT_ONCE_BYTES:
            reply = self._read_at_once(cookie, offset, size)
            if reply is not None:
                return reply
        return self._take_slowly(_Request(flags, command, cookie, offset, size))

    def _read_at_once(self, cookie: int, offset: int, size: int) -> bytes | None:
        if offset + size > self._point.size_bytes:
            return None
        try:
            plain = self._point.read_at_once(offset, size)
        except RollforwardError as error:
            self._ground.failed(error)
            return self._refusal(cookie, NbdError.EIO, str(error))
        self._read_ahead(offset, size)
        if plain is None:
            return None
        if self._structured:
            kind = (wire.CHUNK_MAGIC, wire.CHUNK_DONE, ChunkType.DATA)
            return wire.CHUNK_DATA.pack(*kind, cookie, size + 8, offset) + plain
        return wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, NbdError.NONE, cookie) + plain

    def _take_slowly(self, request: _Request) -> bytes | None:
        cookie, command = request.cookie, request.command
        if command == Command.DISCONNECT:
            self._is_over.set()
            return None
        if command == Command.WRITE:
            self._payload_bytes = request.size
            if request.size > wire.READ_BYTES_MAX:
                self._is_over.set()
                return None
        if command in _CHANGES:
            return self._refusal(cookie, NbdError.EPERM, "this is a backup: it is read-only")
        if command == Command.FLUSH and not request.flags:
            return self._success(cookie)
        fault = self._fault(request)
        if fault is not None:
            return self._refusal(cookie, NbdError.EINVAL, fault)
        work = {Command.READ: self._read, Command.CACHE: self._cache, Command.BLOCK_STATUS: self._status}
        task = asyncio.get_running_loop().create_task(self._answer(request, work[Command(command)]))
        self._tasks.add(task)
        task.add_done_callback(self._answered)
        return None

    def _fault(self, request: _Request) -> str | None:
        """Say what is wrong with a request, if anything is."""
        command, flags = request.command, request.flags
        if command not in (Command.READ, Command.CACHE, Command.BLOCK_STATUS):
            return "unknown command"
        allowed = int(_ALLOWED_FLAGS.get(Command(command), 0))
        if flags & ~allowed or (flags & CommandFlag.DF and not self._structured):
            return "unknown flags"
        if command == Command.BLOCK_STATUS and not self._allocation:
            return "no metadata context was chosen"
        if request.size == 0 or request.offset + request.size > self._point.size_bytes:
            return "outside the volume"
        if command == Command.READ and request.size > wire.READ_BYTES_MAX:
            return "more than 32 MiB at once"
        return None

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a request failed unexpectedly", "exception": task.exception()}
            )
            self._connection.abort()
        self._consume()

    # --- answering in threads

    async def _answer(self, request: _Request, work: Callable[[_Request], Awaitable[None]]) -> None:
        try:
            await work(request)
        except RollforwardError as error:
            self._ground.failed(error)
            self._connection.write(self._refusal(request.cookie, NbdError.EIO, str(error)))

    async def _read(self, request: _Request) -> None:
        size = request.size
        async with self._budget.lend(size), self._ground.budget.lend(size):
            if not self._structured or request.flags & CommandFlag.DF:
                await self._read_whole(request)
            elif size <= PIECE_BYTES:
                await self._send_piece(request.cookie, request.offset, size, wire.CHUNK_DONE)
            else:
                await _all_of([self._send_piece(request.cookie, *piece, 0) for piece in _pieces(request)])
                self._connection.write(self._success(request.cookie))
            await self._connection.writable()
        self._read_ahead(request.offset, size)

    async def _read_whole(self, request: _Request) -> None:
        plain = bytearray(request.size)
        view = memoryview(plain)

        async def read(offset: int, size: int) -> None:
            start = offset - request.offset
            await self._in_thread(self._point.read_into, offset, view[start : start + size])

        await _all_of([read(*piece) for piece in _pieces(request)])
        if self._structured:
            kind = (wire.CHUNK_MAGIC, wire.CHUNK_DONE, ChunkType.DATA)
            head = wire.CHUNK_DATA.pack(*kind, request.cookie, request.size + 8, request.offset)
        else:
            head = wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, NbdError.NONE, request.cookie)
        self._connection.write(head, plain)

    async def _send_piece(self, cookie: int, offset: int, size: int, last: int) -> None:
        buffer = self._ground.shelf.take()
        chunks = await self._in_thread(self._chunks, cookie, offset, last, memoryview(buffer)[:size])
        await self._connection.writable()
        self._connection.write(*chunks)
        if self._connection.is_sent:
            self._ground.shelf.give(buffer)

    def _chunks(self, cookie: int, offset: int, last: int, room: memoryview) -> list[bytes | memoryview]:
        """Read, in a thread, what chunks of data and holes are made of."""
        chunks: list[bytes | memoryview] = []
        start, end = offset, offset + len(room)
        while offset < end:
            extents = self._point.extents(offset, end - offset)
            for length, is_filled in extents:
                flags = last if offset + length == end else 0
                if is_filled:
                    plain = room[offset - start : offset - start + length]
                    self._point.read_into(offset, plain)
                    kind = (wire.CHUNK_MAGIC, flags, ChunkType.DATA)
                    chunks += [wire.CHUNK_DATA.pack(*kind, cookie, length + 8, offset), plain]
                else:
                    kind = (wire.CHUNK_MAGIC, flags, ChunkType.HOLE)
                    chunks.append(wire.CHUNK_HOLE.pack(*kind, cookie, 12, offset, length))
                offset += length
        return chunks

    async def _cache(self, request: _Request) -> None:
        size = min(request.size, _AHEAD_BYTES)
        await self._in_thread(self._point.warm, request.offset, size)
        self._connection.write(self._success(request.cookie))

    async def _status(self, request: _Request) -> None:
        extents = await self._in_thread(self._point.extents, request.offset, request.size)
        if request.flags & CommandFlag.REQ_ONE:
            extents = extents[:1]
        content = wire.U32.pack(wire.ALLOCATION_ID) + b"".join(
            wire.STATUS.pack(length, 0 if is_filled else wire.HOLE_ZERO) for length, is_filled in extents
        )
        kind = (wire.CHUNK_MAGIC, wire.CHUNK_DONE, ChunkType.BLOCK_STATUS)
        self._connection.write(wire.CHUNK.pack(*kind, request.cookie, len(content)) + content)

    def _read_ahead(self, offset: int, size: int) -> None:
        """Have blocks decoded that a client who reads in order, waiting for each answer, will ask for next."""
        self._in_order_bytes = self._in_order_bytes + size if offset == self._next_offset else 0
        self._next_offset = offset + size
        if self._in_order_bytes < _IN_ORDER_BYTES or len(self._tasks) > 1:
            return
        if not self._next_offset <= self._warm_until <= self._next_offset + _AHEAD_BYTES:
            self._warm_until = self._next_offset
        target = min(self._next_offset + _AHEAD_BYTES, self._point.size_bytes)
        while self._warm_until + PIECE_BYTES <= target:
            self._ground.threads.submit(self._warm, self._warm_until)
            self._warm_until += PIECE_BYTES

    def _warm(self, offset: int) -> None:
        try:
            self._point.warm(offset, PIECE_BYTES)
        except RollforwardError:
            return  # whoever asks for these blocks is told then

    async def _in_thread(self, work: Callable[[*Given], Result], *arguments: *Given) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._ground.threads, work, *arguments)

    # --- replies

    def _success(self, cookie: int) -> bytes:
        if self._structured:
            return wire.CHUNK.pack(wire.CHUNK_MAGIC, wire.CHUNK_DONE, ChunkType.NONE, cookie, 0)
        return wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, NbdError.NONE, cookie)

    def _refusal(self, cookie: int, error: NbdError, words: str) -> bytes:
        if not self._structured:
            return wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, error, cookie)
        text = words.encode(errors="replace")[:1024]
        kind = (wire.CHUNK_MAGIC, wire.CHUNK_DONE, ChunkType.ERROR)
        return wire.CHUNK_ERROR.pack(*kind, cookie, 6 + len(text), error, len(text)) + text


def _pieces(request: _Request) -> list[tuple[int, int]]:
    """Cut a read into (offset, size), which end at multiples of a piece."""
    at, end = request.offset, request.offset + request.size
    pieces = []
    while at < end:
        stop = min((at // PIECE_BYTES + 1) * PIECE_BYTES, end)
        pieces.append((at, stop - at))
        at = stop
    return pieces


async def _all_of(pieces: Sequence[Awaitable[None]]) -> None:
    """Wait for all pieces, then raise the first error."""
    results = await asyncio.gather(*pieces, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
