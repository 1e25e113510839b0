"""A plain NBD client for tests, which can also misbehave; `bench.nbd` has one that writes.

Source: the NBD protocol, https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md; written apart from the
server's own layouts, so that a mistake there shows here.
"""

from __future__ import annotations

import socket
import ssl
import struct
from pathlib import Path
from typing import Self

GO, LIST, STARTTLS, STRUCTURED, SET_CONTEXT = 7, 3, 5, 8, 10
READ, WRITE, DISCONNECT, FLUSH, TRIM, CACHE, STATUS = 0, 1, 2, 3, 4, 5, 7
ACK = 1


class NbdClient:
    """A connection to an NBD server.

    Args:
        address: a Unix socket, or (host, port).
    """

    def __init__(self, address: Path | tuple[str, int]) -> None:
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET)
        self.socket.settimeout(20)
        self.socket.connect(str(address) if isinstance(address, Path) else address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def greet(self) -> None:
        assert self.take(16) == b"NBDMAGICIHAVEOPT"
        assert self.take(2) == b"\0\3"
        self.socket.sendall(struct.pack(">I", 3))

    def option(self, number: int, content: bytes = b"") -> list[tuple[int, bytes]]:
        """Send an option; return its replies, (type, content), the last of which ends them."""
        self.socket.sendall(b"IHAVEOPT" + struct.pack(">II", number, len(content)) + content)
        replies = []
        while True:
            magic, asked, kind, size = struct.unpack(">QIII", self.take(20))
            assert (magic, asked) == (0x0003E889045565A9, number)
            replies.append((kind, self.take(size)))
            if kind == ACK or kind >> 31:
                return replies

    def go(self, *, structured: bool = True, status: bool = False, name: bytes = b"") -> None:
        self.greet()
        if structured:
            assert self.option(STRUCTURED)[-1][0] == ACK
        if status:
            query = b"base:allocation"
            content = struct.pack(">I", len(name)) + name + struct.pack(">II", 1, len(query)) + query
            assert [kind for kind, _ in self.option(SET_CONTEXT, content)] == [4, ACK]
        replies = self.option(GO, struct.pack(">I", len(name)) + name + struct.pack(">HH", 1, 3))
        assert replies[-1][0] == ACK
        self.size = struct.unpack(">HQH", dict_of(replies)[0])[1]

    def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        assert self.option(STARTTLS)[-1][0] == ACK
        self.socket = context.wrap_socket(self.socket, server_hostname=host)

    def request(
        self, command: int, offset: int = 0, size: int = 0, *, cookie: int = 1, flags: int = 0
    ) -> None:
        self.socket.sendall(struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, size))

    def simple_reply(self, size: int = 0) -> tuple[int, bytes]:
        """Take a simple reply: error, and the bytes of a read that went well."""
        magic, error, _ = struct.unpack(">IIQ", self.take(16))
        assert magic == 0x67446698
        return error, b"" if error else self.take(size)

    def chunks(self) -> list[tuple[int, bytes]]:
        """Take a structured reply: (type, content) of its chunks."""
        chunks = []
        while True:
            magic, flags, kind, _, size = struct.unpack(">IHHQI", self.take(20))
            assert magic == 0x668E33EF
            chunks.append((kind, self.take(size)))
            if flags & 1:
                return chunks

    def read(self, offset: int, size: int) -> bytes:
        """Read by structured replies; raises OSError for an error chunk."""
        self.request(READ, offset, size)
        plain = bytearray(b"?" * size)
        for kind, content in self.chunks():
            if kind >> 15:
                raise OSError(struct.unpack_from(">I", content)[0], content[6:].decode())
            if kind:
                (at,) = struct.unpack_from(">Q", content)
                part = content[8:] if kind == 1 else bytes(struct.unpack_from(">I", content, 8)[0])
                assert offset <= at <= at + len(part) <= offset + size
                plain[at - offset : at - offset + len(part)] = part
        return bytes(plain)

    def status(self, offset: int, size: int, *, flags: int = 0) -> list[tuple[int, int]]:
        self.request(STATUS, offset, size, flags=flags)
        ((kind, content),) = self.chunks()
        assert kind == 5, content
        return list(struct.iter_unpack(">II", content[4:]))

    def take(self, size: int) -> bytes:
        taken = b""
        while len(taken) < size:
            piece = self.socket.recv(size - len(taken))
            if not piece:
                raise ConnectionError("the server hung up")
            taken += piece
        return taken

    def is_cut_off(self) -> bool:
        """Wait until the server hangs up."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True


def dict_of(replies: list[tuple[int, bytes]]) -> dict[int, bytes]:
    """Sort the information replies by their kind."""
    return {struct.unpack_from(">H", content)[0]: content for kind, content in replies if kind == 3}
