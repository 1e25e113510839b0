"""Coding granules into frames and back, with Zstandard (RFC 8878)."""

from __future__ import annotations

import threading
from typing import Final

import numpy as np
import numpy.typing as npt
import zstandard

from policies.errors import FormatError
from storage import kernels, layout
from storage.digests import Buffer
from storage.native_zstd import LEVEL

_UNTOLD: Final = -1
"""What Zstandard says of a frame that does not tell the length of its content, as ours do not."""

U8 = npt.NDArray[np.uint8]

_local = threading.local()


def _compressor() -> zstandard.ZstdCompressor:
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(
            level=LEVEL, write_content_size=False, write_checksum=False
        )
    compressor: zstandard.ZstdCompressor = _local.compressor
    return compressor


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor(max_window_size=layout.FRAME_WINDOW_BYTES_MAX)
    decompressor: zstandard.ZstdDecompressor = _local.decompressor
    return decompressor


def encode_frame(plain: memoryview) -> tuple[int, Buffer]:
    """Code the granules of a frame.

    Args:
        plain: the granules, one after the other; not all zero.

    Returns:
        The record's flags and the stored bytes: compressed, or as they are where that is not smaller.
    """
    packed: bytes = _compressor().compress(plain)
    if len(packed) < len(plain):
        return layout.FRAME_ZSTD, packed
    return layout.FRAME_RAW, bytes(plain)


def decode_frame(flags: int, stored: Buffer, plain_bytes: int) -> Buffer:
    """Decode a frame.

    Args:
        flags: the record's flags.
        stored: the stored bytes, their digest checked, decrypted.
        plain_bytes: how many bytes the mask promises; at most a block.

    Returns:
        The granules, one after the other.

    Raises:
        FormatError: the bytes do not decode to that length.
    """
    if flags == layout.FRAME_RAW:
        if len(stored) != plain_bytes:
            raise FormatError(
                "a frame has another length than its mask says", expected=plain_bytes, actual=len(stored)
            )
        return stored
    if flags == layout.FRAME_ZERO:
        return bytes(plain_bytes)
    try:
        told = zstandard.frame_content_size(stored)
        if told not in (_UNTOLD, plain_bytes):  # it would be believed, and that much allocated
            raise FormatError(
                "a frame has another length than its mask says", expected=plain_bytes, actual=told
            )
        plain: bytes = _decompressor().decompress(stored, max_output_size=plain_bytes, allow_extra_data=False)
    except zstandard.ZstdError:
        raise FormatError("a frame cannot be decompressed") from None
    if len(plain) != plain_bytes:
        raise FormatError(
            "a frame has another length than its mask says", expected=plain_bytes, actual=len(plain)
        )
    return plain


def lay_frame(
    record: np.void, need: tuple[np.uint64, np.uint64], stored: Buffer, granule_bytes: int, block: U8
) -> None:
    """Decode a frame and lay the needed granules into a block.

    Args:
        record: its index record.
        need: masks of the granules wanted.
        stored: the frame's stored bytes, their digest checked, decrypted.
        granule_bytes: size of a granule.
        block: uint8, one block; granules not wanted stay as they are.

    Raises:
        FormatError: the frame does not decode.
    """
    lo, hi = record["mask_lo"], record["mask_hi"]
    if record["flags"] == layout.FRAME_ZERO:
        kernels.zero_granules(need[0], need[1], granule_bytes, block)
        return
    granules = int(lo).bit_count() + int(hi).bit_count()
    plain = decode_frame(int(record["flags"]), stored, granules * granule_bytes)
    packed = _read_only(plain)
    if granules == layout.GRANULES_PER_BLOCK and need == (lo, hi):
        block[:] = packed
    else:
        kernels.scatter_granules(packed, lo, hi, need[0], need[1], granule_bytes, block)


def _read_only(plain: Buffer) -> U8:
    """See bytes as an array of one and the same type, whatever holds them: each type takes a kernel of its own."""
    packed = np.frombuffer(plain, np.uint8)
    packed.flags.writeable = False
    return packed


def load_kernels(granule_bytes: int) -> None:
    """Have ready what `lay_frame` calls, so that it opens no file later.

    Args:
        granule_bytes: size of a granule.
    """
    none, block = np.uint64(0), np.zeros(layout.GRANULES_PER_BLOCK * granule_bytes, np.uint8)
    kernels.scatter_granules(_read_only(b"\0"), none, none, none, none, granule_bytes, block)
    kernels.zero_granules(none, none, granule_bytes, block)
