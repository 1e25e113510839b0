"""A client for the few NBD commands it takes to have qemu write its own images.

Source: the NBD protocol, https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md (fixed newstyle
handshake, transmission phase with simple replies).
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_SERVER_MAGIC: Final = b"NBDMAGICIHAVEOPT"
_OPTION_MAGIC: Final = b"IHAVEOPT"
_REQUEST_MAGIC: Final = 0x25609513
_REPLY_MAGIC: Final = 0x67446698
_FIXED_NEWSTYLE_NO_ZEROES: Final = 3
_OPTION_EXPORT_NAME: Final = 1
_WRITE: Final = 1
_DISCONNECT: Final = 2
_FLUSH: Final = 3
_IN_FLIGHT: Final = 16


class NbdWriter:
    """A connection to an NBD server's unnamed export, for writing.

    Args:
        path: the server's Unix socket.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._unanswered = 0
        try:
            self._socket.connect(str(path))
            self._handshake()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._socket:
            if error is None:
                self._request(_FLUSH)
                self._settle(0)
                self._socket.sendall(struct.pack(">IHHQQI", _REQUEST_MAGIC, 0, _DISCONNECT, 0, 0, 0))

    def write(self, offset: int, content: bytes | memoryview) -> None:
        """Send bytes to be written at an offset; errors may show with a later request.

        Raises:
            OSError: the server refused.
        """
        self._request(_WRITE, offset, content)

    def _handshake(self) -> None:
        if self._receive(16) != _SERVER_MAGIC:
            raise OSError("this is no NBD server of the newstyle kind")
        self._receive(2)
        self._socket.sendall(struct.pack(">I", _FIXED_NEWSTYLE_NO_ZEROES))
        self._socket.sendall(_OPTION_MAGIC + struct.pack(">II", _OPTION_EXPORT_NAME, 0))
        self._receive(10)

    def _request(self, command: int, offset: int = 0, content: bytes | memoryview = b"") -> None:
        self._settle(_IN_FLIGHT)
        head = struct.pack(">IHHQQI", _REQUEST_MAGIC, 0, command, 0, offset, len(content))
        self._socket.sendall(head)
        self._socket.sendall(content)
        self._unanswered += 1

    def _settle(self, allowed: int) -> None:
        """Take answers until no more than that many are open."""
        while self._unanswered > allowed:
            magic, error, _ = struct.unpack(">IIQ", self._receive(16))
            if magic != _REPLY_MAGIC or error:
                raise OSError(error, "the NBD server refused a request")
            self._unanswered -= 1

    def _receive(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            piece = self._socket.recv(size - len(received))
            if not piece:
                raise ConnectionError("the NBD server hung up")
            received += piece
        return received
