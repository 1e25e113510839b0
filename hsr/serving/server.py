"""A read-only NBD server for one point in time."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog

from hsr.serving.batches import BATCH_BYTES
from hsr.serving.connection import Connection
from hsr.serving.haggling import Export, haggle
from hsr.serving.listener import Listener, port_socket, private_socket
from hsr.serving.readable import Readable
from hsr.serving.shelf import Shelf
from hsr.serving.transmission import Ground, Transmission
from policies.errors import ConfigurationError, RollforwardError
from storage.pipeline import THREADS

HANDSHAKE_S: Final = 30.0
_CLIENTS_MAX: Final = 64
_FINISH_S: Final = 10.0

_log = structlog.get_logger("serve")


class NbdServer:
    """Serves one point to many clients.

    Args:
        point: the volume.
        export: what it is called.
        tls: certificates; clients must then use TLS, and have one themselves.
        handshake_s: how long a client may take to choose, in seconds.
        on_failure: told of every read that failed, instead of the log.
    """

    def __init__(
        self,
        point: Readable,
        export: Export,
        tls: ssl.SSLContext | None = None,
        *,
        handshake_s: float = HANDSHAKE_S,
        on_failure: Callable[[RollforwardError], None] | None = None,
    ) -> None:
        self._export = export
        self._tls = tls
        self._handshake_s = handshake_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="serve")
        self._ground = Ground(point, self._threads, Shelf(BATCH_BYTES), on_failure or self._tell_failure)
        self._connections: dict[Connection, Transmission | None] = {}
        self._listener: Listener | None = None
        self._told: set[tuple[str | None, int | None]] = set()
        self._is_crowded = False

    async def listen_on_socket(self, path: Path) -> None:
        """Listen on a new Unix socket, for this user alone.

        Raises:
            ConfigurationError: it cannot be made there.
        """
        with _refusing(str(path)):
            self._listener = Listener(private_socket(path), self._welcome)

    async def listen_on_port(self, host: str, port: int) -> tuple[str, int]:
        """Listen on a TCP port; return where, since port 0 means any.

        Raises:
            ConfigurationError: it cannot be had.
        """
        with _refusing(f"{host}:{port}"):
            self._listener = Listener(port_socket(host, port), self._welcome)
        return self._listener.address

    async def _finish_all(self) -> None:
        left = list(self._connections)
        for connection in left:
            await connection.made.wait()
            transmission = self._connections.get(connection)
            if transmission is None:
                connection.abort()
            else:
                transmission.finish()
        for connection in left:
            await connection.closed.wait()

    def _welcome(self) -> Connection:
        connection = Connection(self._talk, self._forget)
        self._connections[connection] = None
        return connection

    async def _talk(self, connection: Connection) -> None:
        try:
            if len(self._connections) > _CLIENTS_MAX:
                self._tell_crowd()
                return
            self._is_crowded = False
            async with asyncio.timeout(self._handshake_s):
                terms = await haggle(connection, self._export, self._tls)
            if terms is not None:
                transmission = Transmission(connection, terms, self._ground)
                self._connections[connection] = transmission
                await transmission.run()
        except (OSError, TimeoutError) as error:
            _log.info("client_dropped", text=str(error) or "did not choose an export in time")

    def _forget(self, connection: Connection) -> None:
        self._connections.pop(connection, None)

    def _tell_crowd(self) -> None:
        if not self._is_crowded:
            self._is_crowded = True
            _log.warning("client_refused", text=f"there are {_CLIENTS_MAX} clients already")

    def _tell_failure(self, error: RollforwardError) -> None:
        place = (error.path, error.offset)
        if place not in self._told and len(self._told) < 10_000:
            self._told.add(place)
            _log.error("read_failed", path=error.path, offset=error.offset, text=str(error))

    async def close(self) -> None:
        """Take no more clients and requests, answer those taken, hang up."""
        if self._listener is not None:
            await self._listener.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FINISH_S):
                await self._finish_all()
        left = [connection for connection in self._connections if connection.made.is_set()]
        for connection in left:
            connection.abort()
        for connection in left:
            await connection.closed.wait()
        self._threads.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _refusing(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"cannot be listened on: {error.strerror or error}", path=where) from error


def tls_context(folder: Path) -> ssl.SSLContext:
    """Load certificates as qemu's `tls-creds-x509` expects them; clients must have one of the same authority.

    Args:
        folder: holds ca-cert.pem, server-cert.pem and server-key.pem.

    Raises:
        ConfigurationError: one is missing, or they do not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(folder / "ca-cert.pem")
        context.load_cert_chain(folder / "server-cert.pem", folder / "server-key.pem")
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f"holds no usable certificates: {error.strerror or error}",
            path=str(folder),
            hint="It must hold ca-cert.pem, server-cert.pem and server-key.pem.",
        ) from error
    return context
