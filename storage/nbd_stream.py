"""A socket to an NBD server that may die, dawdle or lie: whatever it does becomes a `SourceError` in time."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Final

from policies.errors import SourceError
from storage.nbd_uri import NbdUri

_CONNECT_S: Final = 20.0
_SILENCE_S: Final = 60.0
"""How long a server may say nothing at all while something is expected of it."""

_AHEAD_BYTES: Final = 256
"""So much is received ahead: the heads of some messages, but little of what has to be copied then."""

_TAKEN_BYTES_MAX: Final = 16 << 20


class NbdStream:
    """A connection to the server of an export.

    Args:
        uri: the export.

    Raises:
        SourceError: nobody listens there.
    """

    def __init__(self, uri: NbdUri) -> None:
        self.name = str(uri)
        self._deadline = time.monotonic() + _CONNECT_S
        try:
            self._socket = _connected(uri)
        except OSError as error:
            raise SourceError(
                f"no NBD server answers: {error.strerror or error}",
                path=self.name,
                hint="See that the server runs and that its address is right.",
            ) from error
        self._socket.settimeout(_SILENCE_S)
        self._ahead = memoryview(bytearray(_AHEAD_BYTES))
        self._held = self._ahead[:0]

    def within(self, limit_s: float) -> None:
        """Set how long all that is received from now on may take, in seconds."""
        self._deadline = time.monotonic() + limit_s

    def send(self, content: bytes) -> None:
        """Send bytes.

        Raises:
            SourceError: the connection is gone.
        """
        try:
            self._socket.sendall(content)
        except OSError as error:
            raise self.failed(f"the connection broke: {error.strerror or error}") from error

    def take(self, size: int) -> bytes:
        """Receive just so many bytes, which are few.

        Raises:
            SourceError: the server hung up or is too slow, or there are too many.
        """
        if size > _TAKEN_BYTES_MAX:
            raise self.failed(f"the server sends a message of {size:,} bytes")
        content = bytearray(size)
        self.fill(memoryview(content))
        return bytes(content)

    def fill(self, buffer: memoryview) -> None:
        """Receive as many bytes as fit; the head of the next message, if it has come, is received along with them.

        Raises:
            SourceError: the server hung up or is too slow.
        """
        if self._held:
            count = min(len(self._held), len(buffer))
            buffer[:count] = self._held[:count]
            self._held, buffer = self._held[count:], buffer[count:]
        while buffer:
            try:
                got, _, _, _ = self._socket.recvmsg_into([buffer, self._ahead])
            except TimeoutError as error:
                raise self.failed(f"the server says nothing for {_SILENCE_S:.0f} seconds") from error
            except OSError as error:
                raise self.failed(f"the connection broke: {error.strerror or error}") from error
            if got == 0:
                raise self.failed("the server hung up")
            self._held = self._ahead[: max(got - len(buffer), 0)]
            buffer = buffer[got:]
            if buffer and time.monotonic() > self._deadline:
                raise self.failed("the server is too slow")

    def failed(self, words: str, offset: int | None = None) -> SourceError:
        """Return the error that says so of this export."""
        return SourceError(words, path=self.name, offset=offset)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _connected(uri: NbdUri) -> socket.socket:
    if not isinstance(uri.address, Path):
        connection = socket.create_connection(uri.address, _CONNECT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_CONNECT_S)
        connection.connect(str(uri.address))
    except BaseException:
        connection.close()
        raise
    return connection
