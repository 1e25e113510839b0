"""The second half of a conversation over NBD: requests and replies.

Small reads that need no medium are answered where they arrive; all else goes through threads, in batches. Replies leave
as they are ready. What is under way for one client is bounded for each, so that none can take what others need.

Source: the NBD protocol, sections "Transmission phase" and "Request types".
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, TypeVar, TypeVarTuple

from hsr.serving.batches import BATCH_BYTES, Part, Read, decode_batch, take_batch
from hsr.serving.connection import Connection
from hsr.serving.haggling import Terms
from hsr.serving.point import EXTENTS_MAX
from hsr.serving.readable import Readable
from hsr.serving.replies import Piece, Replies, Request
from hsr.serving.shelf import Shelf
from policies.errors import RollforwardError
from storage import nbd_wire as wire
from storage.nbd_wire import Command, CommandFlag, NbdError

_AT_ONCE_BYTES: Final = 64 << 10
_JOBS: Final = 4
"""Batches of one client that are under way."""

_UNANSWERED_MAX: Final = 256
_CLIENT_BYTES: Final = 4 << 20
"""Memory for replies to one client, from the moment they are decoded until they have left."""

_STATUS_BYTES: Final = EXTENTS_MAX * wire.STATUS.size
_TURN_S: Final = 0.004
"""How long one client is answered before another has its turn."""

_TURN_BYTES: Final = 1 << 20
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
        shelf: buffers for batches, BATCH_BYTES each.
        failed: told of errors of images.
    """

    point: Readable
    threads: Executor
    shelf: Shelf
    failed: Failed


class Transmission:
    """Answers one client's requests until it hangs up.

    Args:
        connection: the client.
        terms: what was agreed on.
        ground: what all clients share.
    """

    def __init__(self, connection: Connection, terms: Terms, ground: Ground) -> None:
        self._connection = connection
        self._replies = Replies(structured=terms.structured)
        self._allocation = terms.allocation
        self._ground = ground
        self._point = ground.point
        self._loop = asyncio.get_running_loop()
        self._reads: deque[Read] = deque()
        self._others: deque[Request] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._held_bytes = 0
        self._moved = asyncio.Event()
        self._payload_bytes = 0
        self._has_turn = True
        self._is_streaming = False
        self._is_over = asyncio.Event()
        self._next_offset = self._in_order_bytes = self._warm_until = 0

    async def run(self) -> None:
        """Answer requests; returns when the client has gone, said so, or does not keep to the protocol."""
        self._connection.consume_with(self._consume)
        waits = [asyncio.ensure_future(event.wait()) for event in (self._is_over, self._connection.closed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            await self._settle()
        finally:
            self._is_over.set()
            self._reads.clear()
            self._others.clear()
            for task in (*waits, *self._tasks):
                task.cancel()

    async def _settle(self) -> None:
        """Wait until everything asked for is answered."""
        while self._unanswered and not self._connection.is_lost:
            await self._move()

    async def _move(self) -> None:
        """Wait until something was answered, or has left."""
        self._moved.clear()
        await self._moved.wait()

    def finish(self) -> None:
        """Take no more requests; `run` returns when those taken are answered."""
        self._is_over.set()

    @property
    def _unanswered(self) -> int:
        return len(self._reads) + len(self._others) + len(self._tasks)

    # --- taking requests

    def _consume(self) -> None:
        """Take what has come, for as long as a turn lasts and the client takes its answers."""
        if not self._has_turn:
            return
        connection = self._connection
        replies: list[bytes] = []
        replies_bytes = 0
        turn_ends = time.perf_counter() + _TURN_S
        while self._may_take():
            self._skip_payload()
            if self._payload_bytes or connection.available_bytes < wire.REQUEST.size:
                break
            if replies_bytes > _TURN_BYTES or time.perf_counter() > turn_ends:
                self._has_turn = False
                self._loop.call_soon(self._next_turn)
                break
            reply = self._take()
            if reply is not None:
                replies.append(reply)
                replies_bytes += len(reply)
        if replies:
            connection.write(b"".join(replies) if len(replies) > 1 else replies[0])
        if self._reads or self._others:
            self._start_jobs()

    def _may_take(self) -> bool:
        return (
            not self._is_over.is_set()
            and not self._is_streaming
            and self._unanswered < _UNANSWERED_MAX
            and self._connection.is_writable
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
        return self._take_slowly(Request(flags, command, cookie, offset, size))

    def _read_at_once(self, cookie: int, offset: int, size: int) -> bytes | None:
        if offset + size > self._point.size_bytes:
            return None
        try:
            plain = self._point.read_at_once(offset, size)
        except RollforwardError as error:
            self._ground.failed(error)
            return self._replies.refusal(cookie, NbdError.EIO, str(error))
        self._read_ahead(offset, size)
        return None if plain is None else self._replies.head(cookie, offset, size) + plain

    def _take_slowly(self, request: Request) -> bytes | None:
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
            return self._replies.refusal(cookie, NbdError.EPERM, "this is a backup: it is read-only")
        if command == Command.FLUSH and not request.flags:
            return self._replies.success(cookie)
        fault = self._fault(request)
        if fault is not None:
            return self._replies.refusal(cookie, *fault)
        if command == Command.READ and self._replies.structured and not request.flags:
            self._reads.append(Read(request, request.offset))
        else:
            self._others.append(request)
        return None

    def _fault(self, request: Request) -> tuple[NbdError, str] | None:
        """Say what is wrong with a request, if anything is."""
        command, flags = request.command, request.flags
        if command not in (Command.READ, Command.CACHE, Command.BLOCK_STATUS):
            return NbdError.EINVAL, "unknown command"
        allowed = int(_ALLOWED_FLAGS.get(Command(command), 0))
        is_unsplit = command == Command.READ and bool(flags & CommandFlag.DF)
        if flags & ~allowed or (is_unsplit and not self._replies.structured):
            return NbdError.EINVAL, "unknown flags"
        if command == Command.BLOCK_STATUS and not self._allocation:
            return NbdError.EINVAL, "no metadata context was chosen"
        if request.size == 0 or request.offset + request.size > self._point.size_bytes:
            return NbdError.EINVAL, "outside the volume"
        if command == Command.READ and request.size > wire.READ_BYTES_MAX:
            return NbdError.EINVAL, "more than 32 MiB at once"
        if is_unsplit and request.size > _CLIENT_BYTES:
            return NbdError.EOVERFLOW, "more than 4 MiB in one chunk"
        return None

    # --- answering in threads

    def _start_jobs(self) -> None:
        """Begin what waits, as far as memory for its replies is left."""
        while self._reads or self._others:
            if len(self._tasks) >= _JOBS or self._is_streaming or self._connection.is_lost:
                return
            if self._others:
                request = self._others[0]
                size = self._needed_bytes(request)
                if not self._hold(size):
                    return
                self._others.popleft()
                self._start(self._answer(request, size))
            else:
                if not self._hold(BATCH_BYTES):
                    return
                self._start(self._answer_batch(take_batch(self._reads)))

    def _needed_bytes(self, request: Request) -> int:
        if request.command == Command.READ:
            return request.size if request.size <= _CLIENT_BYTES else 0
        return _STATUS_BYTES if request.command == Command.BLOCK_STATUS else 0

    def _hold(self, size: int) -> bool:
        """Take memory from this client's share, if so much is left."""
        if self._held_bytes + size > _CLIENT_BYTES:
            return False
        self._held_bytes += size
        return True

    def _let_go(self, size: int) -> None:
        self._held_bytes -= size
        self._moved.set()
        self._loop.call_soon(self._start_jobs)

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._moved.set()
        if not task.cancelled() and task.exception() is not None:
            self._loop.call_exception_handler(
                {"message": "a request failed unexpectedly", "exception": task.exception()}
            )
            self._connection.abort()
        self._start_jobs()
        self._consume()

    async def _answer_batch(self, parts: Sequence[Part]) -> None:
        size = sum(part.size for part in parts)
        buffer = self._ground.shelf.take()
        room = memoryview(buffer)[:size]
        answers = await self._in_thread(decode_batch, self._point, self._replies, parts, room)
        pieces: list[Piece] = []
        for part, answer in zip(parts, answers, strict=True):
            pieces += self._part_reply(part, answer)

        def left() -> None:
            self._ground.shelf.give(buffer)
            self._let_go(BATCH_BYTES)

        self._connection.write(*pieces, sent=left)
        self._read_ahead(parts[0].offset, size)

    def _part_reply(self, part: Part, answer: list[Piece] | RollforwardError) -> list[Piece]:
        read = part.read
        read.open_parts -= 1
        pieces: list[Piece] = []
        if isinstance(answer, RollforwardError):
            self._ground.failed(answer)
            read.failure = read.failure or answer
        else:
            pieces = answer
        if read.is_answered and read.failure is not None:
            pieces = [*pieces, self._replies.refusal(read.request.cookie, NbdError.EIO, str(read.failure))]
        elif read.is_answered and read.is_long:
            pieces = [*pieces, self._replies.success(read.request.cookie)]
        return pieces

    async def _answer(self, request: Request, held_bytes: int) -> None:
        work = {
            Command.READ: self._read_whole,
            Command.CACHE: self._cache,
            Command.BLOCK_STATUS: self._status,
        }
        try:
            pieces = await work[Command(request.command)](request)
        except RollforwardError as error:
            self._ground.failed(error)
            pieces = [self._replies.refusal(request.cookie, NbdError.EIO, str(error))]
        self._connection.write(*pieces, sent=functools.partial(self._let_go, held_bytes))

    async def _read_whole(self, request: Request) -> list[Piece]:
        """Read what must be sent in one piece."""
        if request.size > _CLIENT_BYTES:
            return await self._stream(request)
        plain = bytearray(request.size)
        await self._in_thread(self._point.read_into, request.offset, memoryview(plain))
        self._read_ahead(request.offset, request.size)
        return [self._replies.head(request.cookie, request.offset, request.size), plain]

    async def _stream(self, request: Request) -> list[Piece]:
        """Send a long simple reply bit by bit, alone; all of it is read once before, while an error can be told."""
        self._is_streaming = True
        try:
            buffer = memoryview(self._ground.shelf.take())
            for offset, size in _pieces(request):
                await self._in_thread(self._point.read_into, offset, buffer[:size])
            while len(self._tasks) > 1:
                await self._move()
            self._connection.write(self._replies.head(request.cookie, request.offset, request.size))
            for offset, size in _pieces(request):
                plain = bytearray(size)
                try:
                    await self._in_thread(self._point.read_into, offset, memoryview(plain))
                except RollforwardError:
                    self._connection.abort()  # its bytes cannot be had any more, and nothing else may come
                    raise
                self._connection.write(plain)
                await self._connection.writable()
        finally:
            self._is_streaming = False
        return []

    async def _cache(self, request: Request) -> list[Piece]:
        await self._in_thread(self._point.warm, request.offset, min(request.size, _AHEAD_BYTES))
        return [self._replies.success(request.cookie)]

    async def _status(self, request: Request) -> list[Piece]:
        extents = await self._in_thread(self._point.extents, request.offset, request.size)
        if request.flags & CommandFlag.REQ_ONE:
            extents = extents[:1]
        return [self._replies.status(request.cookie, extents)]

    def _read_ahead(self, offset: int, size: int) -> None:
        """Have blocks decoded that a client who reads in order, waiting for each answer, will ask for next."""
        self._in_order_bytes = self._in_order_bytes + size if offset == self._next_offset else 0
        self._next_offset = offset + size
        if self._in_order_bytes < _IN_ORDER_BYTES or self._unanswered > 1:
            return
        if not self._next_offset <= self._warm_until <= self._next_offset + _AHEAD_BYTES:
            self._warm_until = self._next_offset
        target = min(self._next_offset + _AHEAD_BYTES, self._point.size_bytes)
        while self._warm_until + BATCH_BYTES <= target:
            self._ground.threads.submit(self._warm, self._warm_until)
            self._warm_until += BATCH_BYTES

    def _warm(self, offset: int) -> None:
        try:
            self._point.warm(offset, BATCH_BYTES)
        except RollforwardError:
            return  # whoever asks for these blocks is told then

    async def _in_thread(self, work: Callable[[*Given], Result], *arguments: *Given) -> Result:
        return await self._loop.run_in_executor(self._ground.threads, work, *arguments)


def _pieces(request: Request) -> list[tuple[int, int]]:
    """Cut a read into (offset, size), BATCH_BYTES each."""
    end = request.offset + request.size
    return [(at, min(BATCH_BYTES, end - at)) for at in range(request.offset, end, BATCH_BYTES)]
