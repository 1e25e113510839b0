"""Decoded blocks that are kept, in buffers that are used again."""

from __future__ import annotations

import mmap
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import numpy.typing as npt

from policies.errors import ConfigurationError

U8 = npt.NDArray[np.uint8]


class BlockCache:
    """The blocks used last, up to a limit. Safe to share between threads.

    A block is copied out of the cache while it cannot change, so a buffer is used again at any time.

    Args:
        limit_bytes: memory for blocks; it is touched as it is needed.
        block_bytes: size of a block.

    Raises:
        ConfigurationError: there is not so much memory.
    """

    def __init__(self, limit_bytes: int, block_bytes: int) -> None:
        count = max(limit_bytes // block_bytes, 4)
        try:
            memory = mmap.mmap(-1, count * block_bytes)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"there is no room in memory for {count * block_bytes:,} bytes of decoded blocks",
                hint="Let it keep fewer: --cache.",
            ) from error
        if hasattr(mmap, "MADV_HUGEPAGE"):  # the first use of memory in small pages costs more than decoding
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._memory = np.frombuffer(memory, np.uint8).reshape(count, block_bytes)
        self._views = [memoryview(row.data) for row in self._memory]
        self._free = list(range(count - 1, -1, -1))
        self._slots: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, block: int) -> bool:
        return block in self._slots

    @property
    def has_room(self) -> bool:
        """Whether a block can be kept without another having to go."""
        return bool(self._free)

    def get(self, block: int, start: int, stop: int) -> bytes | None:
        """Return bytes `start` to `stop` of a block; None if it is not kept."""
        with self._lock:
            slot = self._slots.get(block)
            if slot is None:
                return None
            self._slots.move_to_end(block)
            return bytes(self._views[slot][start:stop])

    def copy_into(self, block: int, start: int, out: memoryview) -> bool:
        """Fill `out` with bytes of a block from `start` on; tell whether it was kept."""
        with self._lock:
            slot = self._slots.get(block)
            if slot is None:
                return False
            self._slots.move_to_end(block)
            out[:] = self._views[slot][start : start + len(out)]
            return True

    @contextmanager
    def filling(self, block: int) -> Iterator[U8 | None]:
        """Lend a buffer for a block; it is kept as the block's, unless an error is raised meanwhile.

        Yields:
            uint8, one block, contents undefined; None while all buffers are lent.
        """
        slot = self._borrow()
        if slot is None:
            yield None
            return
        try:
            yield self._memory[slot]
        except BaseException:
            with self._lock:
                self._free.append(slot)
            raise
        with self._lock:
            replaced = self._slots.pop(block, None)
            if replaced is not None:
                self._free.append(replaced)
            self._slots[block] = slot

    def _borrow(self) -> int | None:
        with self._lock:
            if self._free:
                return self._free.pop()
            if self._slots:
                return self._slots.popitem(last=False)[1]
            return None


class AskedBefore:
    """Remembers which blocks were asked for lately. Safe to share between threads."""

    _KEPT: Final = 4096

    def __init__(self) -> None:
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, block: int) -> bool:
        """Remember a block; tell whether it was remembered, which ends with that."""
        with self._lock:
            if block in self._blocks:
                del self._blocks[block]
                return True
            self._blocks[block] = None
            if len(self._blocks) > self._KEPT:
                self._blocks.popitem(last=False)
            return False
