"""Plain-Python twins of the compiled loops in `storage.kernels`: slow, obvious, and written without looking at bits.

A mask is a set of granule numbers here; `granules_of` and `mask_of` go from one to the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from storage import kernels, layout

GRANULES = range(layout.GRANULES_PER_BLOCK)


def granules_of(lo, hi) -> set[int]:
    """Give the granules that two mask words name."""
    mask = int(lo) | int(hi) << 64
    return {granule for granule in GRANULES if mask >> granule & 1}


def mask_of(granules) -> tuple[np.uint64, np.uint64]:
    """Give the two mask words that name some granules."""
    mask = sum(1 << granule for granule in granules)
    return np.uint64(mask % (1 << 64)), np.uint64(mask >> 64)


def popcount(word: int) -> int:
    return bin(word).count("1")


def low_bits(count: int) -> int:
    return sum(1 << bit for bit in range(min(count, 64)))


def granules_before(limit_bytes: int, block: int, granule_bytes: int) -> int:
    first = block * layout.GRANULES_PER_BLOCK
    return sum((first + granule) * granule_bytes < limit_bytes for granule in GRANULES)


def check_records(
    records,
    volume_sizes: Sequence[int],
    granule_bytes: int,
    frames_offset: int,
    frames_end: int,
    tag_bytes: int = 0,
) -> tuple[int, int]:
    before = None
    for row, record in enumerate(records):
        fault = _fault(record, before, volume_sizes, granule_bytes, (frames_offset, frames_end), tag_bytes)
        if fault:
            return fault, row
        before = record
    return 0, -1


def _fault(record, before, volume_sizes, granule_bytes, frames, tag_bytes) -> int:
    block, origin = int(record["block"]), int(record["origin"])
    offset, length, flags = int(record["offset"]), int(record["length"]), int(record["flags"])
    if origin >= len(volume_sizes):
        return kernels.FAULT_ORIGIN
    if not frames[0] <= offset <= offset + length <= frames[1]:
        return kernels.FAULT_OFFSET
    if before is not None:
        if (int(before["block"]), -int(before["origin"])) >= (block, -origin):
            return kernels.FAULT_ORDER
        if int(before["offset"]) + int(before["length"]) != offset:
            return kernels.FAULT_OFFSET
    granules = granules_of(record["mask_lo"], record["mask_hi"])
    first = block * layout.GRANULES_PER_BLOCK
    if not granules or (first + max(granules)) * granule_bytes >= int(volume_sizes[origin]):
        return kernels.FAULT_MASK
    plain_bytes = len(granules) * granule_bytes
    fits = {
        layout.FRAME_ZERO: length == 0,
        layout.FRAME_RAW: length == plain_bytes + tag_bytes,
        layout.FRAME_ZSTD: tag_bytes < length < plain_bytes + tag_bytes,
    }
    if tag_bytes:
        fits |= {flags | layout.FRAME_TRACE: length == 0 for flags in tuple(fits)}
    if flags not in fits:
        return kernels.FAULT_FLAGS
    return 0 if fits[flags] else kernels.FAULT_LENGTH


def plain_bytes_of(records, granule_bytes: int) -> int:
    held = [row for row in records if not int(row["flags"]) & layout.FRAME_TRACE]
    return sum(len(granules_of(row["mask_lo"], row["mask_hi"])) for row in held) * granule_bytes


def overlay_masks(records, cuts, granule_bytes: int, need_lo, need_hi) -> None:
    shown: dict[int, set[int]] = {}
    for row, record in enumerate(records):
        block = int(record["block"])
        first = block * layout.GRANULES_PER_BLOCK
        held = granules_of(record["mask_lo"], record["mask_hi"])
        alive = {granule for granule in held if (first + granule) * granule_bytes < int(cuts[row])}
        covered = shown.setdefault(block, set())
        need_lo[row], need_hi[row] = mask_of(alive - covered)
        covered |= alive


def scatter_granules(packed, mask_lo, mask_hi, need_lo, need_hi, granule_bytes: int, block) -> None:
    wanted = granules_of(need_lo, need_hi)
    for place, granule in enumerate(sorted(granules_of(mask_lo, mask_hi))):
        if granule in wanted:
            for byte in range(granule_bytes):
                block[granule * granule_bytes + byte] = packed[place * granule_bytes + byte]


def zero_granules(need_lo, need_hi, granule_bytes: int, block) -> None:
    for granule in granules_of(need_lo, need_hi):
        for byte in range(granule_bytes):
            block[granule * granule_bytes + byte] = 0


def gather_granules(block, mask_lo, mask_hi, granule_bytes: int, packed) -> int:
    taken = [
        block[granule * granule_bytes + byte]
        for granule in sorted(granules_of(mask_lo, mask_hi))
        for byte in range(granule_bytes)
    ]
    packed[: len(taken)] = taken
    return len(taken)


def gather_runs(source, starts, lengths, packed) -> int:
    taken = b"".join(
        source[s : s + n].tobytes() for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)
    )
    packed[: len(taken)] = list(taken)
    return len(taken)


def nonzero_masks(blocks, words_per_granule: int, lo, hi) -> None:
    changed_masks(blocks, np.zeros_like(blocks), words_per_granule, lo, hi)


def changed_masks(new, old, words_per_granule: int, lo, hi) -> None:
    for row in range(len(new)):
        before, after = old[row].tolist(), new[row].tolist()
        lo[row], hi[row] = mask_of(
            granule
            for granule in GRANULES
            if before[granule * words_per_granule : (granule + 1) * words_per_granule]
            != after[granule * words_per_granule : (granule + 1) * words_per_granule]
        )


def filled_blocks(blocks):
    return np.array([any(row.tolist()) for row in blocks], np.bool_)


def filled_runs(source, starts, lengths):
    return np.array(
        [any(source[start : start + length].tolist()) for start, length in zip(starts, lengths, strict=True)],
        np.bool_,
    )


def granule_runs(lo, hi, granule_bytes: int) -> list[tuple[int, int, int]]:
    found = []
    for row in range(len(lo)):
        wanted = granules_of(lo[row], hi[row])
        for first in sorted(wanted):
            if first - 1 not in wanted:
                stop = next(granule for granule in range(first, 129) if granule not in wanted)
                found.append((row, first * granule_bytes, (stop - first) * granule_bytes))
    return found
