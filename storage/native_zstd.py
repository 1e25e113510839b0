"""The system's libzstd, for coding and decoding batches of frames; where it is missing, python-zstandard does it."""

from __future__ import annotations

import ctypes
import functools
import threading
from typing import Final

import numpy as np

from storage.c_calls import address_of
from storage.kernels import U64

LEVEL: Final = 1
"""Compression level: the fastest that still takes most of what there is to take."""

_LIBRARY: Final = "libzstd.so.1"
_OLDEST: Final = 10_400
"""Version 1.4.0: from it on, all functions used here are stable."""

_COMPRESSION_LEVEL: Final = 100
_CONTENT_SIZE_FLAG: Final = 200
_CHECKSUM_FLAG: Final = 201
"""Parameters by their numbers. Source: zstd.h, ZSTD_cParameter."""


class _Functions:
    def __init__(self, library: ctypes.CDLL) -> None:
        self.create = library.ZSTD_createDCtx
        self.create.restype = ctypes.c_void_p
        self.free = library.ZSTD_freeDCtx
        self.free.argtypes = (ctypes.c_void_p,)
        self.create_coding = library.ZSTD_createCCtx
        self.create_coding.restype = ctypes.c_void_p
        self.free_coding = library.ZSTD_freeCCtx
        self.free_coding.argtypes = (ctypes.c_void_p,)
        self.set_parameter = library.ZSTD_CCtx_setParameter
        self.set_parameter.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
        self.set_parameter.restype = ctypes.c_size_t
        self.compress = address_of(library.ZSTD_compress2)
        self.decompress = address_of(library.ZSTD_decompressDCtx)
        self.find_frame_bytes = address_of(library.ZSTD_findFrameCompressedSize)


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


class _CodingContext:
    """A coding context; freed with the thread that made it."""

    def __init__(self, functions: _Functions) -> None:
        self._functions = functions
        self._context = functions.create_coding()
        if not self._context:
            raise MemoryError("libzstd gave no coding context")
        for parameter, value in ((_COMPRESSION_LEVEL, LEVEL), (_CONTENT_SIZE_FLAG, 0), (_CHECKSUM_FLAG, 0)):
            functions.set_parameter(self._context, parameter, value)
        self.words: U64 = np.array((self._context, functions.compress), np.uint64)

    def __del__(self) -> None:
        self._functions.free_coding(self._context)


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


def coding_library() -> U64 | None:
    """Return what `frame_kernels.code_frames` needs to code in this thread.

    Returns:
        uint64, two words: a context that belongs to the calling thread, and an address; None where the machine has
        no libzstd, or too old a one.
    """
    context: _CodingContext | None = getattr(_local, "coding_context", None)
    if context is None:
        functions = _load()
        if functions is None:
            return None
        context = _local.coding_context = _CodingContext(functions)
    return context.words


@functools.cache
def _load() -> _Functions | None:
    try:
        library = ctypes.CDLL(_LIBRARY)
        return _Functions(library) if library.ZSTD_versionNumber() >= _OLDEST else None
    except (OSError, AttributeError):
        return None
