"""What partly covered frames cost: how many granules an image stores, against those that are seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from storage.overlay import Overlay, Window, is_trace

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class SquashLimits:
    """What a block may cost before it is worth coding it anew.

    Attributes:
        factor: stored granules, against granules seen; 1 to 16.
        depth: frames, one over the other; at least 1.
    """

    factor: float = 2.0
    depth: int = 16

    def __post_init__(self) -> None:
        """Hold the limits to their range; memory is bounded by the factor."""
        if not 1 <= self.factor <= 16 or self.depth < 1:
            raise ValueError(f"limits out of range: factor {self.factor}, depth {self.depth}")


RECOMMENDED_LIMITS: Final = SquashLimits()
"""Below them, coding anew costs more than it saves: see docs/decisions/0024-squash.md."""


@dataclass(frozen=True, slots=True)
class BlockCosts:
    """What each block of a window costs. Frames without bytes (zeros, traces) take no room.

    Attributes:
        starts: int64, row of the window at which each block begins.
        counts: int64, how many rows it has.
        stored: int64, granules that its frames store.
        seen: int64, those of them that are seen.
        frames: int64, frames that lie one over the other; traces do not count.
    """

    starts: I64
    counts: I64
    stored: I64
    seen: I64
    frames: I64

    def above(self, limits: SquashLimits) -> npt.NDArray[np.bool_]:
        """Tell which blocks cost more than the limits allow."""
        above: npt.NDArray[np.bool_] = (self.stored > limits.factor * self.seen) | (
            self.frames > limits.depth
        )
        return above


def block_costs(window: Window) -> BlockCosts:
    """Count what the blocks of a window cost.

    Args:
        window: whole blocks of an overlay; not empty.
    """
    records = window.records
    blocks = records["block"]
    starts = np.flatnonzero(np.append(True, blocks[1:] != blocks[:-1])).astype(np.int64)
    takes_room = (records["length"] != 0).astype(np.int64)
    stored = _granules(records["mask_lo"], records["mask_hi"]) * takes_room
    seen = _granules(window.need_lo, window.need_hi) * takes_room
    return BlockCosts(
        starts,
        np.diff(np.append(starts, len(records))),
        np.add.reduceat(stored, starts),
        np.add.reduceat(seen, starts),
        np.add.reduceat((~is_trace(records)).astype(np.int64), starts),
    )


def _granules(lo: U64, hi: U64) -> I64:
    return np.bitwise_count(lo).astype(np.int64) + np.bitwise_count(hi)


@dataclass(frozen=True, slots=True)
class Amplification:
    """What partly covered frames cost an image.

    Attributes:
        stored_granules: granules that its frames store.
        seen_granules: those of them that are seen.
        depth: most frames that lie one over the other in a block.
        blocks: how many blocks it has frames of.
        blocks_above: how many of them are above the limits.
    """

    stored_granules: int
    seen_granules: int
    depth: int
    blocks: int
    blocks_above: int

    @property
    def factor(self) -> float:
        """Stored granules, against granules seen; 1 where nothing is stored."""
        return self.stored_granules / self.seen_granules if self.seen_granules else 1.0


def survey(path: Path, limits: SquashLimits = RECOMMENDED_LIMITS) -> Amplification:
    """Work out from an image's index alone what its partly covered frames cost. Needs no password.

    Args:
        path: the image.
        limits: what a block may cost.

    Raises:
        FormatError: the index is damaged.
        StorageError: the image cannot be read.
    """
    stored = seen = depth = blocks = above = 0
    with Overlay([path]) as overlay:
        for window in overlay.windows():
            if len(window):
                costs = block_costs(window)
                stored += int(costs.stored.sum())
                seen += int(costs.seen.sum())
                depth = max(depth, int(costs.frames.max()))
                blocks += len(costs.starts)
                above += int(costs.above(limits).sum())
    return Amplification(stored, seen, depth, blocks, above)
