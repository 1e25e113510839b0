"""Memory that is lent to requests, so that no client and not all together take more than there is."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final


class Budget:
    """Bytes that can be lent; who asks for more than are left waits, first come, first served.

    Args:
        limit_bytes: how many there are; at least as many as anybody asks for at once.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def lend(self, size: int) -> AsyncIterator[None]:
        """Lend bytes while the block lasts."""
        if self._waiting or size > self._left:
            turn = asyncio.get_running_loop().create_future()
            entry = (size, turn)
            self._waiting.append(entry)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give(size)
                elif entry in self._waiting:
                    self._waiting.remove(entry)
                raise
        else:
            self._left -= size
        try:
            yield
        finally:
            self._give(size)

    def _give(self, size: int) -> None:
        self._left += size
        while self._waiting and self._waiting[0][0] <= self._left:
            wanted, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._left -= wanted
                turn.set_result(None)


class Shelf:
    """Buffers of one size that are used again: the first use of fresh memory is slow on virtual machines.

    Args:
        size_bytes: size of each.
    """

    _KEPT: Final = 64

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._free: list[bytearray] = []

    def take(self) -> bytearray:
        """Return a buffer, contents undefined."""
        return self._free.pop() if self._free else bytearray(self._size_bytes)

    def give(self, buffer: bytearray) -> None:
        """Hand a buffer back that nobody reads any more."""
        if len(self._free) < self._KEPT:
            self._free.append(buffer)
