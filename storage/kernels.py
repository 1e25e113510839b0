"""Loops over records and granules, compiled by numba; each has a plain twin in tests/unit/plain_kernels.py.

All release the GIL and are cached on disk, so that only the first run on a machine compiles them.
A mask is 128 bits in two words: granule g of a block is bit g of `lo` below 64, bit g - 64 of `hi` from there on.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from storage import layout

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Int = int | np.int64
Structured = npt.NDArray[np.void]

FAULT_ORDER: Final = 1
FAULT_ORIGIN: Final = 2
FAULT_FLAGS: Final = 3
FAULT_MASK: Final = 4
FAULT_LENGTH: Final = 5
FAULT_OFFSET: Final = 6

FAULTS: Final = {
    FAULT_ORDER: "the index is not in order",
    FAULT_ORIGIN: "the index names a point that the header does not",
    FAULT_FLAGS: "the index uses a frame coding unknown to this version",
    FAULT_MASK: "the index names granules outside the volume, or none",
    FAULT_LENGTH: "the index gives a frame an impossible length",
    FAULT_OFFSET: "the index points outside the stored stream, or leaves a gap in it",
}
"""What each fault number means, in words."""

_ZERO: Final = layout.FRAME_ZERO
_RAW: Final = layout.FRAME_RAW
_ZSTD: Final = layout.FRAME_ZSTD
_TRACE: Final = layout.FRAME_TRACE
_GRANULES: Final = layout.GRANULES_PER_BLOCK


@njit(nogil=True, cache=True)
def popcount(word: np.uint64) -> Int:
    """Count the set bits of a 64-bit word."""
    word = np.uint64(word)
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(nogil=True, cache=True)
def low_bits(count: Int) -> np.uint64:
    """Return a word with its `count` lowest bits set; counts below 0 and above 64 are clamped."""
    if count <= 0:
        return np.uint64(0)
    if count >= 64:
        return np.uint64(0xFFFFFFFFFFFFFFFF)
    return (np.uint64(1) << np.uint64(count)) - np.uint64(1)


@njit(nogil=True, cache=True)
def _has(lo: np.uint64, hi: np.uint64, granule: int) -> bool:
    word = lo if granule < 64 else hi
    return bool((word >> np.uint64(granule & 63)) & np.uint64(1))


@njit(nogil=True, cache=True)
def granules_before(limit_bytes: Int, block: Int, granule_bytes: int) -> Int:
    """Count the granules of a block that begin before `limit_bytes`: 0 to 128."""
    whole = (np.int64(limit_bytes) + granule_bytes - 1) // granule_bytes - np.int64(block) * _GRANULES
    return min(max(whole, np.int64(0)), np.int64(_GRANULES))


@njit(nogil=True, cache=True)
def _length_fits(flags: Int, length: Int, plain: Int, tag_bytes: int) -> bool:
    if flags == _ZERO or flags & _TRACE:
        return length == 0
    if flags == _RAW:
        return length == plain + tag_bytes
    return bool(tag_bytes < length < plain + tag_bytes)


@njit(nogil=True, cache=True)
def check_records(
    records: Structured,
    volume_sizes: I64,
    granule_bytes: int,
    frames_offset: int,
    frames_end: int,
    tag_bytes: int = 0,
) -> tuple[int, int]:
    """Find the first record that cannot be right.

    Args:
        records: layout.RECORD, consecutive.
        volume_sizes: bytes, for each covered point.
        granule_bytes: size of a granule.
        frames_offset: where the stored stream begins in the file.
        frames_end: where it ends.
        tag_bytes: how much longer encryption makes a frame; 0 in a plain image, which has no traces either.

    Returns:
        One of the FAULT numbers and the row, or (0, -1).
    """
    for row in range(len(records)):
        record = records[row]
        origin = np.int64(record["origin"])
        offset = np.int64(record["offset"])
        length = np.int64(record["length"])
        if origin >= len(volume_sizes):
            return FAULT_ORIGIN, row
        if offset < frames_offset or offset > frames_end or length > frames_end - offset:
            return FAULT_OFFSET, row
        if row > 0:
            before = records[row - 1]
            same = before["block"] == record["block"]
            if before["block"] > record["block"] or (same and np.int64(before["origin"]) <= origin):
                return FAULT_ORDER, row
            if np.int64(before["offset"]) + np.int64(before["length"]) != offset:
                return FAULT_OFFSET, row
        lo, hi = record["mask_lo"], record["mask_hi"]
        granules = popcount(lo) + popcount(hi)
        allowed = granules_before(volume_sizes[origin], record["block"], granule_bytes)
        if granules == 0 or lo & ~low_bits(allowed) or hi & ~low_bits(allowed - 64):
            return FAULT_MASK, row
        flags = np.int64(record["flags"])
        if (flags & ~_TRACE if tag_bytes else flags) > _ZSTD:
            return FAULT_FLAGS, row
        if not _length_fits(flags, length, granules * granule_bytes, tag_bytes):
            return FAULT_LENGTH, row
    return 0, -1


@njit(nogil=True, cache=True)
def plain_bytes_of(records: Structured, granule_bytes: int) -> Int:
    """Add up the plain size of the frames, in bytes; traces have none."""
    total = np.int64(0)
    for row in range(len(records)):
        if not records[row]["flags"] & _TRACE:
            total += popcount(records[row]["mask_lo"]) + popcount(records[row]["mask_hi"])
    return total * granule_bytes


@njit(nogil=True, cache=True)
def overlay_masks(records: Structured, cuts: I64, granule_bytes: int, need_lo: U64, need_hi: U64) -> None:
    """Work out which granules of each frame a reader sees, newest frame first.

    A granule is hidden by its frame's cut (the smallest volume size after the frame's origin: what lies at or
    beyond it counted as zero in between) and by every newer frame of its block that shows it.

    Args:
        records: layout.RECORD, sorted by block, then newest first.
        cuts: bytes, for each record.
        granule_bytes: size of a granule.
        need_lo: uint64, as long as `records`; receives bits of granules 0 to 63 that are seen.
        need_hi: likewise, granules 64 to 127.
    """
    covered_lo = np.uint64(0)
    covered_hi = np.uint64(0)
    for row in range(len(records)):
        record = records[row]
        block = record["block"]
        if row == 0 or records[row - 1]["block"] != block:
            covered_lo = np.uint64(0)
            covered_hi = np.uint64(0)
        allowed = granules_before(cuts[row], block, granule_bytes)
        lo = record["mask_lo"] & low_bits(allowed)
        hi = record["mask_hi"] & low_bits(allowed - 64)
        need_lo[row] = lo & ~covered_lo
        need_hi[row] = hi & ~covered_hi
        covered_lo |= lo
        covered_hi |= hi


@njit(nogil=True, cache=True)
def _copy(source: U8, start: Int, target: U8, at: Int, size: Int) -> None:
    """Copy bytes that do not overlap.

    The indexes are unsigned, so that none of them can mean "from the end": only then does the compiler copy in
    wide steps, which is ten times faster than assigning one slice to another.
    """
    first, stop = np.uint64(at), np.uint64(at) + np.uint64(size)
    copied, run = target[first:stop], source[np.uint64(start) : np.uint64(start) + np.uint64(size)]
    for byte in range(np.uint64(size)):
        copied[byte] = run[byte]


@njit(nogil=True, cache=True)
def scatter_granules(
    packed: U8,
    mask_lo: np.uint64,
    mask_hi: np.uint64,
    need_lo: np.uint64,
    need_hi: np.uint64,
    granule_bytes: int,
    block: U8,
) -> None:
    """Put the needed granules of a decoded frame to their places in a block.

    Args:
        packed: uint8, the frame's granules in order.
        mask_lo: granules 0 to 63 that the frame holds.
        mask_hi: granules 64 to 127 that it holds.
        need_lo: those of them that are wanted.
        need_hi: likewise.
        granule_bytes: size of a granule.
        block: uint8, 128 granules; the others stay as they are.
    """
    at = 0
    granule = 0
    while granule < _GRANULES:
        if not _has(mask_lo, mask_hi, granule):
            granule += 1
            continue
        wanted = _has(need_lo, need_hi, granule)
        first = granule
        while (
            granule < _GRANULES
            and _has(mask_lo, mask_hi, granule)
            and _has(need_lo, need_hi, granule) == wanted
        ):
            granule += 1
        size = (granule - first) * granule_bytes
        if wanted:
            _copy(packed, at, block, first * granule_bytes, size)
        at += size


@njit(nogil=True, cache=True)
def zero_granules(need_lo: np.uint64, need_hi: np.uint64, granule_bytes: int, block: U8) -> None:
    """Set the given granules of a block (uint8, 128 granules) to zero."""
    for granule in range(_GRANULES):
        wants = need_lo if granule < 64 else need_hi
        if wants & (np.uint64(1) << np.uint64(granule & 63)):
            block[granule * granule_bytes : (granule + 1) * granule_bytes] = 0


@njit(nogil=True, cache=True)
def gather_granules(block: U8, mask_lo: np.uint64, mask_hi: np.uint64, granule_bytes: int, packed: U8) -> int:
    """Collect the granules that a mask names, in order.

    Args:
        block: uint8, 128 granules.
        mask_lo: granules 0 to 63 to take.
        mask_hi: granules 64 to 127 to take.
        granule_bytes: size of a granule.
        packed: uint8, at least as long as what is taken.

    Returns:
        How many bytes were written to `packed`.
    """
    at = 0
    granule = 0
    while granule < _GRANULES:
        first = granule
        while granule < _GRANULES and _has(mask_lo, mask_hi, granule):
            granule += 1
        if granule == first:
            granule += 1
            continue
        size = (granule - first) * granule_bytes
        _copy(block, first * granule_bytes, packed, at, size)
        at += size
    return at


@njit(nogil=True, cache=True)
def gather_runs(source: U8, starts: I64, lengths: I64, packed: U8) -> int:
    """Copy runs of bytes, one after the other.

    Args:
        source: where they lie.
        starts: int64, where each begins in it.
        lengths: int64, as long as `starts`: bytes of each.
        packed: where they go, long enough for all.

    Returns:
        Bytes copied.
    """
    at = 0
    for row in range(len(starts)):
        _copy(source, starts[row], packed, at, lengths[row])
        at += lengths[row]
    return at


@njit(nogil=True, cache=True)
def _mark(lo: U64, hi: U64, row: int, granule: int) -> None:
    bit = np.uint64(1) << np.uint64(granule & 63)
    if granule < 64:
        lo[row] |= bit
    else:
        hi[row] |= bit


@njit(nogil=True, cache=True)
def nonzero_masks(blocks: U64, words_per_granule: int, lo: U64, hi: U64) -> None:
    """Find the granules that hold anything but zeros.

    Args:
        blocks: uint64, shape (blocks, words of a block).
        words_per_granule: granule size in 8-byte words.
        lo: uint64, a word a block; receives granules 0 to 63.
        hi: likewise, granules 64 to 127.
    """
    for row in range(len(blocks)):
        lo[row] = np.uint64(0)
        hi[row] = np.uint64(0)
        for granule in range(_GRANULES):
            start = granule * words_per_granule
            for first in range(start, start + words_per_granule, 16):
                seen = np.uint64(0)
                for word in range(first, first + 16):
                    seen |= blocks[row, word]
                if seen != 0:
                    _mark(lo, hi, row, granule)
                    break


@njit(nogil=True, cache=True)
def changed_masks(new: U64, old: U64, words_per_granule: int, lo: U64, hi: U64) -> None:
    """Find the granules that differ between two states.

    Args:
        new: uint64, shape (blocks, words of a block).
        old: likewise.
        words_per_granule: granule size in 8-byte words.
        lo: uint64, a word a block; receives granules 0 to 63.
        hi: likewise, granules 64 to 127.
    """
    for row in range(len(new)):
        lo[row] = np.uint64(0)
        hi[row] = np.uint64(0)
        for granule in range(_GRANULES):
            start = granule * words_per_granule
            for first in range(start, start + words_per_granule, 16):
                seen = np.uint64(0)
                for word in range(first, first + 16):
                    seen |= new[row, word] ^ old[row, word]
                if seen != 0:
                    _mark(lo, hi, row, granule)
                    break


@njit(nogil=True, cache=True)
def filled_blocks(blocks: U64) -> npt.NDArray[np.bool_]:
    """Tell which blocks hold anything but zeros.

    Args:
        blocks: uint64, shape (blocks, words of a block; a multiple of 16).

    Returns:
        bool, one a block.
    """
    filled = np.zeros(len(blocks), np.bool_)
    for row in range(len(blocks)):
        for first in range(0, blocks.shape[1], 16):
            seen = np.uint64(0)
            for word in range(first, first + 16):
                seen |= blocks[row, word]
            if seen != 0:
                filled[row] = True
                break
    return filled


@njit(nogil=True, cache=True)
def filled_runs(source: U8, starts: I64, lengths: I64) -> npt.NDArray[np.bool_]:
    """Tell which runs of bytes hold anything but zeros.

    Args:
        source: where they lie.
        starts: int64, where each begins in it.
        lengths: int64, as long as `starts`: bytes of each.

    Returns:
        bool, one a run.
    """
    filled = np.zeros(len(starts), np.bool_)
    for row in range(len(starts)):
        at, stop = np.uint64(starts[row]), np.uint64(starts[row] + lengths[row])
        while at < stop:
            end = min(at + np.uint64(512), stop)
            seen = np.uint8(0)
            for byte in source[at:end]:
                seen |= byte
            if seen != 0:
                filled[row] = True
                break
            at = end
    return filled


@njit(nogil=True, cache=True)
def _count_runs(lo: U64, hi: U64) -> Int:
    count = np.int64(0)
    for row in range(len(lo)):
        low, high = lo[row], hi[row]
        count += popcount(low & ~(low << np.uint64(1)))
        count += popcount(high & ~((high << np.uint64(1)) | (low >> np.uint64(63))))
    return count


@njit(nogil=True, cache=True)
def granule_runs(lo: U64, hi: U64, granule_bytes: int) -> tuple[I64, I64, I64]:
    """Find the runs of granules that masks name, none of them longer than its block.

    Args:
        lo: uint64, one a block: granules 0 to 63.
        hi: likewise, granules 64 to 127.
        granule_bytes: size of a granule.

    Returns:
        For each run, in order, all int64: the row of its block, where it begins in the block, and how long it is, in
        bytes.
    """
    count = _count_runs(lo, hi)
    rows, firsts, lengths = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    at = 0
    for row in range(len(lo)):
        granule = 0
        while granule < _GRANULES:
            if not _has(lo[row], hi[row], granule):
                granule += 1
                continue
            first = granule
            while granule < _GRANULES and _has(lo[row], hi[row], granule):
                granule += 1
            rows[at], firsts[at] = row, first * granule_bytes
            lengths[at] = (granule - first) * granule_bytes
            at += 1
    return rows, firsts, lengths
