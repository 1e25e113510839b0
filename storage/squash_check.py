"""Whether a squashed image shows just what the image shows that it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from policies.errors import DigestMismatchError
from storage.amplification import SquashLimits, block_costs
from storage.overlay import Overlay, Window
from storage.pipeline import Progress
from storage.replay import BlockReader
from storage.verify import verify_image

if TYPE_CHECKING:
    from storage.keys import ChainKey

_COMPARED_BYTES: Final = 4 << 20
_HINT: Final = "Remove this file. The image that it was made from was not touched."

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]


def check_squashed(
    source: Path, result: Path, limits: SquashLimits, key: ChainKey | None, progress: Progress
) -> None:
    """Read a squashed image back from its medium, and compare it with its source.

    Blocks that were coded anew are decoded from both; of the others, the records are compared, which hold digests of
    the stored bytes.

    Args:
        source: the image it was made from.
        result: the squashed image.
        limits: those that it was made with.
        key: the key of an encrypted chain; None of a plain one.
        progress: told how many bytes of the result were verified.

    Raises:
        DigestMismatchError: the result is damaged, or shows something else than its source.
        FormatError: the source is damaged.
        StorageError: a medium fails.
    """
    verified = verify_image(result, deep=True, key=key, progress=progress)
    if verified.status != "good":
        raise DigestMismatchError(
            f"was not written as it should be: {verified.reason}", path=str(result), hint=_HINT
        )
    with Overlay([source]) as old, Overlay([result]) as new:
        _compare_headers(old, new, result)
        readers = BlockReader(old, key), BlockReader(new, key)
        count = 0
        for window in old.windows():
            if len(window):
                anew = _coded_anew(old, window, limits)
                found = new.between(window.first_block, window.stop_block)
                count += len(found)
                _compare_records(window, found, anew, result)
                for blocks in _pieces(anew, max(_COMPARED_BYTES // old.block_bytes, 1)):
                    _compare_masks(old.of_blocks(blocks), new.of_blocks(blocks), blocks, result)
                    if not np.array_equal(readers[0].read(blocks), readers[1].read(blocks)):
                        raise _another(result)
        if count != new.layers[0].record_count:
            raise _another(result)


def _another(result: Path) -> DigestMismatchError:
    return DigestMismatchError(
        "shows something else than the image that it was made from", path=str(result), hint=_HINT
    )


def _compare_headers(old: Overlay, new: Overlay, result: Path) -> None:
    before, after = old.layers[0].header, new.layers[0].header
    names = ("chain_id", "granule_bytes", "start", "covers", "encrypted", "zero_from_bytes", "volume")
    if any(getattr(before, name) != getattr(after, name) for name in names):
        raise _another(result)


def _coded_anew(old: Overlay, window: Window, limits: SquashLimits) -> I64:
    """Name the blocks that the result does not hold byte for byte: int64, ascending."""
    costs = block_costs(window)
    blocks = window.records["block"][costs.starts].astype(np.int64)
    anew = costs.above(limits)
    if old.encrypted:
        end = len(old.layers[0].header.covers) - 1
        anew = anew | np.logical_or.reduceat(window.records["origin"] == end, costs.starts)
    return blocks[anew]


def _pieces(blocks: I64, at_once: int) -> Iterator[I64]:
    for first in range(0, len(blocks), at_once):
        yield blocks[first : first + at_once]


def _compare_records(before: Window, after: Window, anew: I64, result: Path) -> None:
    """Hold the records of all other blocks against each other; only offsets may differ."""
    kept, found = (
        window.records[~np.isin(window.records["block"], anew)].copy() for window in (before, after)
    )
    kept["offset"] = found["offset"] if len(kept) == len(found) else 0
    if kept.tobytes() != found.tobytes():
        raise _another(result)


def _compare_masks(before: Window, after: Window, blocks: I64, result: Path) -> None:
    """Make sure that the same granules are seen: those that are not written must not become zeros that are."""
    for one, other in zip(_seen(before, blocks), _seen(after, blocks), strict=True):
        if not np.array_equal(one, other):
            raise _another(result)


def _seen(window: Window, blocks: I64) -> tuple[U64, U64]:
    lo, hi = np.zeros(len(blocks), np.uint64), np.zeros(len(blocks), np.uint64)
    rows = np.searchsorted(blocks, window.records["block"])
    np.bitwise_or.at(lo, rows, window.need_lo)
    np.bitwise_or.at(hi, rows, window.need_hi)
    return lo, hi
