"""Work in threads that stays in order and within bounds."""

from __future__ import annotations

import mmap
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS: Final = min(os.cpu_count() or 1, 8)
"""Worker threads of one operation: what they call frees the GIL."""

_KEPT_BYTES_MAX: Final = 96 << 20
"""Buffers kept between operations, all sizes together."""

Buffer = npt.NDArray[np.uint8]
"""Bytes of a pool: uint8, one dimension, writable."""

Progress = Callable[[int, int], None]
"""Called with (done_bytes, total_bytes), now and then."""


def no_progress(done_bytes: int, total_bytes: int) -> None:
    """Report nothing."""


def ordered_map(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int = THREADS, ahead: int | None = None
) -> Generator[Result, None, None]:
    """Apply `work` in threads; yield results in the order of the items.

    Args:
        work: called in a worker thread.
        items: taken one by one, at most `ahead` more than results were taken.
        threads: how many run at once.
        ahead: how many items may be under way; twice the threads by default.

    Yields:
        Each result. The first error of `work` or of `items` is raised in place of its result, after the work
        already begun has ended.
    """
    limit = ahead or 2 * threads
    pool = ThreadPoolExecutor(threads, thread_name_prefix="rollforward")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= limit:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class BufferPool:
    """A fixed set of buffers, used again and again; taking one waits until one is free.

    Buffers outlive their pool: the next pool of that size takes them over, since the first use of fresh memory is
    slow on virtual machines.

    Args:
        count: how many.
        size_bytes: size of each; they start on a page boundary, as direct I/O wants it.
    """

    def __init__(self, count: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._free: queue.SimpleQueue[Buffer] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(_KEPT.take(size_bytes))
        weakref.finalize(self, _KEPT.keep_all, self._free, size_bytes)

    def take(self) -> Buffer:
        """Return a free buffer: uint8, `size_bytes` long, contents undefined."""
        return self._free.get()

    def give(self, buffer: Buffer) -> None:
        """Hand a buffer back."""
        self._free.put(buffer)


class _KeptBuffers:
    """Buffers of pools that are gone, up to a limit. Those that were never handed back are not among them."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept_bytes = 0
        self._by_size: dict[int, list[Buffer]] = {}
        self._lock = threading.RLock()  # a pool may end wherever memory is asked for, here too

    def take(self, size_bytes: int) -> Buffer:
        with self._lock:
            kept = self._by_size.get(size_bytes)
            if kept:
                self._kept_bytes -= size_bytes
                return kept.pop()
        return np.frombuffer(mmap.mmap(-1, size_bytes), np.uint8)

    def keep_all(self, free: queue.SimpleQueue[Buffer], size_bytes: int) -> None:
        with self._lock:
            while self._kept_bytes + size_bytes <= self._limit_bytes:
                try:
                    buffer = free.get_nowait()
                except queue.Empty:
                    return
                self._by_size.setdefault(size_bytes, []).append(buffer)
                self._kept_bytes += size_bytes


_KEPT: Final = _KeptBuffers(_KEPT_BYTES_MAX)
