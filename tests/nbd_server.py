"""A plain NBD server for tests, whose replies each test may spoil; written apart from the client's own layouts."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

READ, DISCONNECT, STATUS = 0, 2, 7
GO, STRUCTURED, SET_CONTEXT = 7, 8, 10


@dataclass
class Lies:
    """What a server does otherwise than an honest one.

    Attributes:
        greeting: what it sends first.
        answers: replaces answers to options: (option, honest bytes) -> bytes.
        reply: replaces replies to requests: (command, cookie, offset, size, honest bytes) -> bytes; None hangs up.
        flags: of the export; 3 is read-only.
        size: what it says of its size.
        swaps: answers pairs of requests the other way round.
    """

    greeting: bytes = b"NBDMAGICIHAVEOPT\0\3"
    answers: Callable[[int, bytes], bytes] = lambda _option, honest: honest
    reply: Callable[[int, int, int, int, bytes], bytes | None] = lambda *request: request[-1]
    flags: int = 3
    size: int | None = None
    swaps: bool = False


def chunk(kind: int, cookie: int, content: bytes = b"", *, done: bool = True) -> bytes:
    return struct.pack(">IHHQI", 0x668E33EF, int(done), kind, cookie, len(content)) + content


@contextlib.contextmanager
def plain_nbd_server(path: Path, content: bytes, lies: Lies | None = None) -> Iterator[None]:
    """Serve some bytes on a Unix socket; 64 KiB pieces that are zero are holes. It serves one client."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=_serve, args=(listening, content, lies or Lies()))
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            path.unlink()


def _serve(listening: socket.socket, content: bytes, lies: Lies) -> None:
    with contextlib.suppress(OSError, EOFError):
        client, _ = listening.accept()
        with client:
            client.sendall(lies.greeting)
            _take(client, 4)
            _haggle(client, len(content) if lies.size is None else lies.size, lies)
            _transmit(client, content, lies)


def _haggle(client: socket.socket, size: int, lies: Lies) -> None:
    while True:
        _, option, length = struct.unpack(">8sII", _take(client, 16))
        asked = _take(client, length)
        answers = []
        if option == SET_CONTEXT:
            answers = [(4, struct.pack(">I", 1) + b"base:allocation")]
        elif option == GO:
            answers = [(3, struct.pack(">HQH", 0, size, lies.flags))]
        head = struct.pack(">QI", 0x0003E889045565A9, option)
        honest = b"".join(
            head + struct.pack(">II", kind, len(told)) + told for kind, told in [*answers, (1, b"")]
        )
        del asked
        client.sendall(lies.answers(option, honest))
        if option == GO:
            return


def _transmit(client: socket.socket, content: bytes, lies: Lies) -> None:
    held: list[bytes] = []
    while True:
        _, _, command, cookie, offset, size = struct.unpack(">IHHQQI", _take(client, 28))
        if command == DISCONNECT:
            return
        if command == STATUS:
            pieces = [content[at : at + 65536] for at in range(offset, offset + size, 65536)]
            extents = b"".join(struct.pack(">II", len(piece), 0 if any(piece) else 3) for piece in pieces)
            honest = chunk(5, cookie, struct.pack(">I", 1) + extents)
        else:
            middle = size // 2
            parts = [(offset + middle, size - middle), (offset, middle)] if middle else [(offset, size)]
            chunks = []
            for at, length in parts:
                told = content[at : at + length]
                body = struct.pack(">Q", at) + (told if any(told) else struct.pack(">I", length))
                chunks.append(chunk(1 if any(told) else 2, cookie, body, done=False))
            honest = b"".join(chunks) + chunk(0, cookie)
        answer = lies.reply(command, cookie, offset, size, honest)
        if answer is None:
            return
        if lies.swaps and command == READ and not held:
            held.append(answer)
            continue
        client.sendall(answer + b"".join(held))
        held.clear()


def _take(client: socket.socket, size: int) -> bytes:
    taken = b""
    while len(taken) < size:
        piece = client.recv(size - len(taken))
        if not piece:
            raise EOFError
        taken += piece
    return taken
