"""Taking clients: one listening socket, which outlives a shortage of file descriptors."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

_SHORT: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_PAUSE_S: Final = 0.5
_SILENCE_S: Final = 60.0
"""The log is told of a shortage, which may come and go, only so often."""

_AT_ONCE: Final = 16
"""Clients that are taken before others have their turn."""

_WAITING: Final = 128

_log = structlog.get_logger("serve")


class Listener:
    """Accepts clients in the running event loop.

    Where the process or the machine is out of file descriptors or memory, those who knock wait in the kernel, and it is
    looked again twice a second; the log says so, once a minute at most.

    Args:
        sock: bound; it belongs to the listener from here on.
        welcome: makes the protocol of a new client.
    """

    def __init__(self, sock: socket.socket, welcome: Callable[[], asyncio.BaseProtocol]) -> None:
        self._sock = sock
        self._welcome = welcome
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._is_told = False
        self._silent_until = 0.0
        self._arriving: set[asyncio.Task[None]] = set()
        sock.setblocking(False)
        sock.listen(_WAITING)
        self._watch()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, of a TCP socket."""
        name = self._sock.getsockname()
        return name[0], name[1]

    def _watch(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._wait(error)
                return
            if self._is_told:
                self._is_told = False
                _log.info("clients_taken", text="clients are taken again")
            task = self._loop.create_task(self._connect(accepted))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._welcome, accepted)
        except OSError as error:  # it has gone already
            accepted.close()
            _log.info("client_dropped", text=str(error))

    def _wait(self, error: OSError) -> None:
        """Look again later: the socket stays readable, so looking at once would keep a processor busy."""
        self._loop.remove_reader(self._sock)
        self._pause = self._loop.call_later(_PAUSE_S, self._watch)
        if self._loop.time() >= self._silent_until:
            self._is_told = True
            self._silent_until = self._loop.time() + _SILENCE_S
            reason = error.strerror or str(error)
            if error.errno in _SHORT:
                reason = f"{reason}; those who are connected are served, others wait"
            _log.warning("clients_wait", text=f"no more clients can be taken: {reason}")

    async def close(self) -> None:
        """Take no more clients; those accepted have become connections when this returns."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock)
        if self._arriving:
            await asyncio.wait(self._arriving)
        self._sock.close()


def private_socket(path: Path) -> socket.socket:
    """Make a Unix socket that only this user may use, from its first moment on.

    Args:
        path: where; a socket that nobody listens on any more is replaced.

    Raises:
        OSError: it cannot be made there.
    """
    made = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket() and _is_abandoned(path):
            path.unlink()
        before = os.umask(0o177)
        try:
            made.bind(str(path))
            made.listen(_WAITING)  # at once: a socket that nobody listens on counts as abandoned
        finally:
            os.umask(before)
    except OSError:
        made.close()
        raise
    return made


def _is_abandoned(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        return False


def port_socket(host: str, port: int) -> socket.socket:
    """Make a TCP socket that is bound to an address.

    Args:
        host: a number, IPv4 or IPv6.
        port: 0 means any.

    Raises:
        OSError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made
