"""Writing a file from front to back while more of it is being made."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from storage import pipeline
from storage.partial_set import PartialSet

_FLUSH_BYTES: Final = 8 << 20
_PIECE_BYTES: Final = 4 << 20
_PIECES: Final = 4
_PAST_CACHE_BYTES: Final = 32 << 20
"""Smaller parts are written through the page cache."""


class Output(Protocol):
    """Takes the bytes of a file, one piece after the other. What is wrong may show with a later piece only."""

    def write(self, piece: memoryview) -> None:
        """Append bytes; they may be reused when this returns.

        Raises:
            OSError: the medium refuses.
        """

    def finish(self) -> None:
        """Hand everything to the file; syncing it is left to the caller.

        Raises:
            OSError: the medium refuses, or refused before.
        """

    def close(self) -> None:
        """End at once, whatever is still to be written; harmless after `finish`."""


def open_output(fd: int, path: Path, *, past_cache: bool) -> Output:
    """Begin to write an empty file.

    Args:
        fd: the file, open for writing.
        path: its path.
        past_cache: write past the page cache, where the file system can do that. It spares the cache for others,
            and on virtual machines the first use of fresh memory costs more than the writing.
    """
    if past_cache:
        with contextlib.suppress(OSError):  # not every file system can; every one can do without
            return _DirectOutput(fd, os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC))
    return _CachedOutput(fd)


class SetOutput:
    """Writes an image into its files, one after the other; each but the last is filled to the part size.

    Args:
        partial: the files.
        past_cache: write past the page cache, where that pays and the file system can do it.
    """

    def __init__(self, partial: PartialSet, *, past_cache: bool) -> None:
        self._partial = partial
        self._part_bytes = partial.part_bytes or sys.maxsize
        self._past_cache = past_cache and self._part_bytes >= _PAST_CACHE_BYTES
        self._room_bytes = self._part_bytes
        self._output = self._open()

    def _open(self) -> Output:
        return open_output(self._partial.fd, self._partial.path, past_cache=self._past_cache)

    def write(self, piece: memoryview) -> None:
        """Append bytes; they may be reused when this returns.

        Raises:
            ConfigurationError: the image needs more parts than there may be.
            OSError: the medium refuses.
            StorageError: likewise, at the end of a part.
        """
        while piece:
            if self._room_bytes == 0:
                self._next_part()
            here = piece[: self._room_bytes]
            self._output.write(here)
            self._room_bytes -= len(here)
            piece = piece[len(here) :]

    def _next_part(self) -> None:
        self._output.finish()
        self._output.close()
        self._partial.begin_part()
        self._output, self._room_bytes = self._open(), self._part_bytes

    def finish(self) -> None:
        """Hand everything to the files; syncing the last one is left to the caller.

        Raises:
            OSError: the medium refuses, or refused before.
        """
        self._output.finish()

    def close(self) -> None:
        """End at once, whatever is still to be written; harmless after `finish`."""
        self._output.close()


def _write_all(fd: int, piece: memoryview, offset: int) -> None:
    while piece:
        done = os.pwrite(fd, piece, offset)
        offset += done
        piece = piece[done:]


class _CachedOutput:
    """Writes through the page cache, and has it flushed in the background."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0
        self._flusher = _BackgroundFlush(fd)

    def write(self, piece: memoryview) -> None:
        _write_all(self._fd, piece, self._at)
        self._at += len(piece)
        self._flusher.wrote(self._at)

    def finish(self) -> None:
        self._flusher.stop()
        self._flusher.raise_failure()

    def close(self) -> None:
        self._flusher.stop()


class _DirectOutput:
    """Gathers bytes in aligned buffers, and writes those past the page cache in a thread of its own."""

    def __init__(self, fd: int, direct_fd: int) -> None:
        self._fd = fd
        self._direct_fd = direct_fd
        self._buffers = pipeline.BufferPool(_PIECES, _PIECE_BYTES)
        self._current = self._buffers.take()
        self._filled = 0
        self._at = 0
        self._full: queue.SimpleQueue[tuple[pipeline.Buffer, int] | None] = queue.SimpleQueue()
        self._failure: OSError | None = None
        # A daemon: where a signal comes while it starts, nobody is left to end it, and it holds no command up.
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name="rollforward-output", daemon=True
        )
        self._thread.start()

    def write(self, piece: memoryview) -> None:
        while piece:
            size = min(len(piece), _PIECE_BYTES - self._filled)
            self._current[self._filled : self._filled + size] = np.frombuffer(piece[:size], np.uint8)
            self._filled += size
            piece = piece[size:]
            if self._filled == _PIECE_BYTES:
                self._full.put((self._current, self._at))
                self._at += _PIECE_BYTES
                self._current, self._filled = self._buffers.take(), 0
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (item := self._full.get()) is not None:
            buffer, offset = item
            try:
                if self._failure is None:
                    self._write_directly(buffer.data, offset)
            except OSError as error:
                self._failure = error
            self._buffers.give(buffer)

    def _write_directly(self, piece: memoryview, offset: int) -> None:
        try:
            done = os.pwrite(self._direct_fd, piece, offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            done = 0  # the medium wants another alignment: the cache takes any
        _write_all(self._fd, piece[done:], offset + done)

    def finish(self) -> None:
        self._end_thread()
        if self._failure is not None:
            raise self._failure
        _write_all(self._fd, self._current.data[: self._filled], self._at)
        self._filled = 0

    def close(self) -> None:
        self._end_thread()
        if self._direct_fd >= 0:
            os.close(self._direct_fd)
            self._direct_fd = -1

    def _end_thread(self) -> None:
        if self._thread is not None:
            self._full.put(None)
            self._thread.join()
            self._thread = None


class _BackgroundFlush:
    """Pushes written data to the medium while more is being made, so that the last sync is short."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._due = threading.Event()
        self._ended = False
        self._flushed_bytes = 0
        self._failure: OSError | None = None
        self._thread: threading.Thread | None = None

    def wrote(self, total_bytes: int) -> None:
        if total_bytes - self._flushed_bytes < _FLUSH_BYTES:
            return
        self._flushed_bytes = total_bytes
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rollforward-flush", daemon=True)
            self._thread.start()
        self._due.set()

    def _run(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._ended:
                return
            try:
                os.fdatasync(self._fd)
            except OSError as error:  # the kernel reports a lost write once only: keep it for the writer
                self._failure = error
                return

    def stop(self) -> None:
        if self._thread is not None:
            self._ended = True
            self._due.set()
            self._thread.join()
            self._thread = None

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
