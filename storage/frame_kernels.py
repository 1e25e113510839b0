"""Coding and decoding many frames in one go, without the interpreter.

Handing the interpreter's lock back and forth costs more than decoding a small frame, and a frame that fills its
block can be decoded into its place. So a whole batch is coded or decoded by one compiled loop, which calls the system's
libzstd by address. Where that library is missing, it is done frame by frame (`storage.codec`); what was coded one way
is decoded the other way, too.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit, types

from storage import layout
from storage.c_calls import caller
from storage.kernels import (
    I64,
    U8,
    U64,
    Int,
    Structured,
    gather_granules,
    popcount,
    scatter_granules,
    zero_granules,
)

_ZERO: Final = layout.FRAME_ZERO
_RAW: Final = layout.FRAME_RAW
_GRANULES: Final = layout.GRANULES_PER_BLOCK

_MAGIC: Final = 0xFD2FB528
"""First four bytes of a Zstandard frame, little-endian. Source: RFC 8878, section 3.1.1."""

_WINDOW_BYTES_MAX: Final = layout.FRAME_WINDOW_BYTES_MAX
_SINGLE_SEGMENT: Final = 0x20
_LEAST_BYTES: Final = 6


_call_with_2 = caller(2)
_call_with_5 = caller(5)


@njit(nogil=True, cache=True)
def _is_one_frame(stored: U8, address: np.uint64, find_frame_bytes: np.uint64) -> bool:
    """Tell whether the bytes are one Zstandard frame whose window is no larger than the format allows."""
    if len(stored) < _LEAST_BYTES:
        return False
    magic = np.uint32(0)
    for byte in range(4):
        magic |= np.uint32(stored[byte]) << np.uint32(8 * byte)
    if magic != np.uint32(_MAGIC):
        return False
    if not stored[4] & _SINGLE_SEGMENT:  # RFC 8878, section 3.1.1.1.2
        base = np.int64(1) << np.int64(10 + (stored[5] >> 3))
        if base + base // 8 * np.int64(stored[5] & 7) > _WINDOW_BYTES_MAX:
            return False
    size = types.uintp(len(stored))
    return bool(_call_with_2(types.uintp(find_frame_bytes), (types.uintp(address), size)) == size)


@njit(nogil=True, cache=True)
def _decodes(library: U64, target: np.uint64, plain_bytes: Int, address: np.uint64, size: Int) -> bool:
    """Decode a frame from one address to another; tell whether it gave as many bytes as it should."""
    plain_size = types.uintp(plain_bytes)
    words = (
        types.uintp(library[0]),
        types.uintp(target),
        plain_size,
        types.uintp(address),
        types.uintp(size),
    )
    return bool(_call_with_5(types.uintp(library[1]), words) == plain_size)


@njit(nogil=True, cache=True)
def _refuse_other_sizes(plain: U8, scratch: U8, granule_bytes: int) -> None:
    """Raise a ValueError if blocks are not as long as their granules are together."""
    if plain.shape[1] != _GRANULES * granule_bytes or len(scratch) != _GRANULES * granule_bytes:
        raise ValueError("blocks have another size than their granules have together")


@njit(nogil=True, cache=True)
def _is_within(row: Int, first: Int, size: Int, row_count: int, stored_bytes: int) -> bool:
    """Tell whether a frame lies within its buffers: an address knows no bounds of its own."""
    return bool(0 <= row < row_count and first >= 0 and size >= 0 and size <= stored_bytes - first)


@njit(nogil=True, cache=True)
def lay_frames(
    records: Structured,
    rows: I64,
    need_lo: U64,
    need_hi: U64,
    stored: U8,
    starts: I64,
    lengths: I64,
    granule_bytes: int,
    plain: U8,
    scratch: U8,
    library: U64,
) -> int:
    """Decode frames, and lay the needed granules of each into its block.

    Args:
        records: layout.RECORD.
        rows: int64, as long as `records`: which row of `plain` each belongs to.
        need_lo: uint64, as long as `records`: granules 0 to 63 that are wanted.
        need_hi: likewise, granules 64 to 127; a frame of which nothing is wanted is passed over.
        stored: uint8, holds the frames' coded bytes.
        starts: int64, as long as `records`: where each begins.
        lengths: int64, as long as `records`: and how long it is.
        granule_bytes: size of a granule.
        plain: uint8, shape (blocks, block bytes); granules not wanted stay as they are.
        scratch: uint8, one block.
        library: uint64: a decoding context of this thread, and the addresses of `ZSTD_decompressDCtx` and
            `ZSTD_findFrameCompressedSize`.

    Returns:
        The first row that does not decode, or -1.

    Raises:
        ValueError: `plain` or `scratch` do not fit the granules.
    """
    _refuse_other_sizes(plain, scratch, granule_bytes)
    base = np.uint64(stored.ctypes.data)
    for at in range(len(records)):
        want_lo, want_hi = need_lo[at], need_hi[at]
        if want_lo == 0 and want_hi == 0:
            continue
        first, size = starts[at], lengths[at]
        if not _is_within(rows[at], first, size, len(plain), len(stored)):
            return at
        record = records[at]
        lo, hi, flags = record["mask_lo"], record["mask_hi"], record["flags"]
        block = plain[rows[at]]
        if flags == _ZERO:
            zero_granules(want_lo, want_hi, granule_bytes, block)
            continue
        coded = stored[first : first + size]
        plain_bytes = (popcount(lo) + popcount(hi)) * granule_bytes
        if flags == _RAW:
            if size != plain_bytes:
                return at
            scatter_granules(coded, lo, hi, want_lo, want_hi, granule_bytes, block)
            continue
        address = base + np.uint64(first)
        if not _is_one_frame(coded, address, library[2]):
            return at
        is_whole = plain_bytes == len(block) and want_lo == lo and want_hi == hi
        target = np.uint64((block if is_whole else scratch).ctypes.data)
        if not _decodes(library, target, plain_bytes, address, size):
            return at
        if not is_whole:
            scatter_granules(scratch, lo, hi, want_lo, want_hi, granule_bytes, block)
    return -1


@njit(nogil=True, cache=True)
def code_frames(
    plain: U8,
    rows: I64,
    masks_lo: U64,
    masks_hi: U64,
    granule_bytes: int,
    stored: U8,
    lengths: I64,
    scratch: U8,
    library: U64,
) -> int:
    """Code granules of some blocks as frames, one after the other: compressed, or as they are where that is smaller.

    Args:
        plain: uint8, shape (blocks, block bytes).
        rows: int64: the row of `plain` that each frame is of.
        masks_lo: uint64, as long as `rows`: granules 0 to 63 that it holds; none of one that stores nothing.
        masks_hi: likewise, granules 64 to 127.
        granule_bytes: size of a granule.
        stored: uint8, to be filled.
        lengths: int64, as long as `rows`, to be filled: how many bytes of `stored` each takes; one that could not be
            compressed takes as many as its granules have.
        scratch: uint8, one block.
        library: uint64: a coding context of this thread, and the address of `ZSTD_compress2`.

    Returns:
        How much of `stored` was filled.

    Raises:
        ValueError: `plain` or `scratch` do not fit the granules, a row is not there, or `stored` is too small.
    """
    _refuse_other_sizes(plain, scratch, granule_bytes)
    end = 0
    for at in range(len(rows)):
        size = (popcount(masks_lo[at]) + popcount(masks_hi[at])) * granule_bytes
        lengths[at] = 0
        if size == 0:
            continue
        if not 0 <= rows[at] < len(plain) or size > len(stored) - end:
            raise ValueError("frames do not lie within their buffers")
        gather_granules(plain[rows[at]], masks_lo[at], masks_hi[at], granule_bytes, scratch)
        words = (
            types.uintp(library[0]),
            types.uintp(np.uint64(stored.ctypes.data) + np.uint64(end)),
            types.uintp(size - 1),
            types.uintp(scratch.ctypes.data),
            types.uintp(size),
        )
        coded = _call_with_5(types.uintp(library[1]), words)
        if coded < types.uintp(size):  # an error, of too little room among others, is a very large number
            lengths[at] = np.int64(coded)
        else:
            stored[end : end + size] = scratch[:size]
            lengths[at] = size
        end += lengths[at]
    return end


def load_lay_frames(library: U64) -> None:
    """Have `lay_frames` ready, so that it opens no file later.

    Args:
        library: as for `lay_frames`.
    """
    none, words, block = np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(_GRANULES, np.uint8)
    records = np.empty(0, layout.RECORD)
    lay_frames(records, none, words, words, block, none, none, 1, block.reshape(1, -1), block, library)
