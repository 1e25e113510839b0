"""The system's libzstd, for decoding batches of frames; optional, since python-zstandard does the same, slower."""

from __future__ import annotations

import ctypes
import functools
import threading
from typing import Final

import numpy as np

from storage.kernels import U64

_LIBRARY: Final = "libzstd.so.1"
_OLDEST: Final = 10_400
"""Version 1.4.0: from it on, all functions used here are stable."""


class _Functions:
    def __init__(self, library: ctypes.CDLL) -> None:
        self.create = library.ZSTD_createDCtx
        self.create.restype = ctypes.c_void_p
        self.free = library.ZSTD_freeDCtx
        self.free.argtypes = (ctypes.c_void_p,)
        self.decompress = _address_of(library.ZSTD_decompressDCtx)
        self.find_frame_bytes = _address_of(library.ZSTD_findFrameCompressedSize)


class _Context:
    """A decoding context; freed with the thread that made it."""

    def __init__(self, functions: _Functions) -> None:
        self._functions = functions
        self._context = functions.create()
        if not self._context:
            raise MemoryError("libzstd gave no decoding context")
        words = (self._context, functions.decompress, functions.find_frame_bytes)
        self.words: U64 = np.array(words, np.uint64)

    def __del__(self) -> None:
        self._functions.free(self._context)


_local = threading.local()


def decoding_library() -> U64 | None:
    """Return what `frame_kernels.lay_frames` needs to decode in this thread.

    Returns:
        uint64, three words: a context that belongs to the calling thread, and two addresses; None where the
        machine has no libzstd, or too old a one.
    """
    context: _Context | None = getattr(_local, "context", None)
    if context is None:
        functions = _load()
        if functions is None:
            return None
        context = _local.context = _Context(functions)
    return context.words


@functools.cache
def _load() -> _Functions | None:
    try:
        library = ctypes.CDLL(_LIBRARY)
        return _Functions(library) if library.ZSTD_versionNumber() >= _OLDEST else None
    except (OSError, AttributeError):
        return None


def _address_of(function: object) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
    if address is None:
        raise AttributeError("a function of libzstd has no address")
    return address
