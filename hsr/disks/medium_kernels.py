"""Writing many pieces to a file in one go, without the interpreter.

Its lock is what decoding threads need between two batches: taken and given back at each of a thousand writes, it makes
both wait for each other longer than the writes take.
"""

from __future__ import annotations

import ctypes
from typing import Final

import numpy as np
from numba import njit, types

from storage.c_calls import address_of, caller
from storage.kernels import I64, U8, Int

PWRITE: Final = np.uint64(address_of(ctypes.CDLL(None).pwrite))
"""Address of the system's `pwrite`. Source: pwrite(2)."""

_call_with_4 = caller(4)


@njit(nogil=True, cache=True)
def write_pieces(
    pwrite: np.uint64, fd: Int, buffer: U8, starts: I64, offsets: I64, lengths: I64, first: Int
) -> int:
    """Write pieces of a buffer to a file, one after the other, up to the first that is not written whole.

    Args:
        pwrite: address of the function that writes.
        fd: of the file.
        buffer: uint8, contiguous.
        starts: int64, where each piece begins in the buffer.
        offsets: int64, where each goes in the file.
        lengths: int64, bytes of each.
        first: the first to be written.

    Returns:
        Which piece was not written whole; their number, if all were.

    Raises:
        ValueError: a piece does not lie within the buffer.
    """
    address = np.uint64(buffer.ctypes.data)
    for row in range(first, len(starts)):
        start, length = starts[row], lengths[row]
        if start < 0 or length < 0 or length > len(buffer) - start or offsets[row] < 0:
            raise ValueError("a piece lies outside the buffer")
        words = (
            types.uintp(fd),
            types.uintp(address + np.uint64(start)),
            types.uintp(length),
            types.uintp(offsets[row]),
        )
        if _call_with_4(types.uintp(pwrite), words) != types.uintp(length):
            return row
    return len(starts)
