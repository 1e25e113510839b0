"""Reading only what is marked as changed; the rest of each touched block is as the parent point has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from storage.source import Ranges, Source

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MarkedBlocks:
    """Blocks that marked ranges touch.

    Attributes:
        blocks: int64, ascending: their numbers.
        plain: uint8, shape (blocks, block bytes); only what is marked has been read.
        gaps: first and end byte, in the flat `plain`, of all that has not.
        end: first byte of the volume that lies behind them.
        buffer: what `plain` is part of.
    """

    blocks: I64
    plain: U8
    gaps: Ranges
    end: int
    buffer: U8

    def fill_gaps(self, old: U8, size_bytes: int) -> None:
        """Complete the blocks.

        Args:
            old: uint8, shape of `plain`: the same blocks at the parent point.
            size_bytes: size of the volume, behind which all is zero.
        """
        flat, old_flat = self.plain.reshape(-1), old.reshape(-1)
        for start, stop in self.gaps.tolist():
            flat[start:stop] = old_flat[start:stop]
        behind = self.end_of_last_block - size_bytes
        if behind > 0:
            flat[flat.size - behind :] = 0

    @property
    def end_of_last_block(self) -> int:
        """Where the last block ends, in bytes of the volume."""
        block_bytes: int = self.plain.shape[1]
        return (int(self.blocks[-1]) + 1) * block_bytes


def ranges_to_read(marked: Iterator[Ranges], parent_bytes: int, size_bytes: int) -> Iterator[Ranges]:
    """Confine marks to the volume, and add all by which it grew, of which marks may say nothing.

    Args:
        marked: what is marked.
        parent_bytes: size of the volume at the parent point.
        size_bytes: its size now.
    """
    known = min(parent_bytes, size_bytes)
    for some in marked:
        clipped = np.minimum(some, known)
        yield clipped[clipped[:, 0] < clipped[:, 1]]
    if size_bytes > known:
        yield np.array([[known, size_bytes]], np.int64)


def batches_of(ranges: Iterator[Ranges], block_bytes: int, blocks_max: int) -> Iterator[Ranges]:
    """Gather ranges that touch at most `blocks_max` blocks; no block is in two batches."""
    held: list[tuple[int, int]] = []
    count, last = 0, -1
    for some in ranges:
        for first_byte, stop in some.tolist():
            start = first_byte
            while start < stop:
                block = start // block_bytes
                if block > last and count == blocks_max:
                    yield np.array(held, np.int64)
                    held, count = [], 0
                before = max(last, block - 1)
                last = min((stop - 1) // block_bytes, before + blocks_max - count)
                end = min(stop, (last + 1) * block_bytes)
                held.append((start, end))
                count += last - before
                start = end
    if held:
        yield np.array(held, np.int64)


def blocks_of(ranges: Ranges, block_bytes: int) -> I64:
    """List the blocks that some ranges touch: int64, ascending, without repeats."""
    spans = zip(ranges[:, 0] // block_bytes, (ranges[:, 1] - 1) // block_bytes + 1, strict=True)
    return np.unique(np.concatenate([np.arange(first, stop) for first, stop in spans]))


def read_marked(source: Source, ranges: Ranges, blocks: I64, buffer: U8, block_bytes: int) -> MarkedBlocks:
    """Read some ranges, all at once.

    Args:
        source: where from.
        ranges: a batch, at least one.
        blocks: all blocks that they touch.
        buffer: uint8, large enough for these.
        block_bytes: size of a block.

    Raises:
        SourceError: the source fails.
    """
    first_rows = np.searchsorted(blocks, ranges[:, 0] // block_bytes)
    starts = first_rows * block_bytes + ranges[:, 0] % block_bytes
    stops = starts + ranges[:, 1] - ranges[:, 0]
    total = len(blocks) * block_bytes
    content = buffer[:total].data
    source.read_pieces(
        [
            (offset, content[start:stop])
            for offset, start, stop in zip(
                ranges[:, 0].tolist(), starts.tolist(), stops.tolist(), strict=True
            )
        ]
    )
    gaps = np.stack([np.append(0, stops), np.append(starts, total)], axis=1).astype(np.int64)
    gaps = gaps[gaps[:, 0] < gaps[:, 1]]
    return MarkedBlocks(blocks, buffer[:total].reshape(-1, block_bytes), gaps, int(ranges[-1, 1]), buffer)
