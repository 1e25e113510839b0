"""Work in threads that stays in order and within bounds."""

from __future__ import annotations

import mmap
import os
import queue
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
    """A fixed set of buffers, touched once and used again and again; taking one waits until one is free.

    Args:
        count: how many.
        size_bytes: size of each; they start on a page boundary, as direct I/O wants it.
    """

    def __init__(self, count: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._free: queue.SimpleQueue[npt.NDArray[np.uint8]] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(np.frombuffer(mmap.mmap(-1, size_bytes), np.uint8))

    def take(self) -> npt.NDArray[np.uint8]:
        """Return a free buffer: uint8, `size_bytes` long, contents undefined."""
        return self._free.get()

    def give(self, buffer: npt.NDArray[np.uint8]) -> None:
        """Hand a buffer back."""
        self._free.put(buffer)
