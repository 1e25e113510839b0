"""A PostgreSQL server of the tests' own, in a temporary folder, reached through a socket there alone."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg

from storage.catalog import Catalog

_MEMORY = Path("/dev/shm")
_DEBIAN = "/usr/lib/postgresql"
_STARTS_WITHIN_S = 60
_OPTIONS = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "listen_addresses=",
    "shared_buffers=32MB",
)


@functools.cache
def server_program(name: str) -> Path | None:
    """Find a program of the server: on PATH, or where Debian keeps it."""
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path)
    return max(Path(_DEBIAN).glob(f"*/bin/{name}"), default=None)


@dataclass
class PostgresServer:
    """A server; it may be stopped and started again.

    Attributes:
        folder: its data, its log and its socket are there.
        user: who its superuser is.
        command: runs it.
    """

    folder: Path
    user: str
    command: Sequence[str | Path]
    _running: subprocess.Popen[bytes] | None = None
    _numbers: count[int] = field(default_factory=lambda: count(1))
    _template: str | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._running = subprocess.Popen(self.command, stdout=log, stderr=log, cwd=self.folder)
        _wait(self, self._running, self.folder / "log")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it, if it runs.

        Args:
            how: SIGINT ends all connections and stops; SIGKILL is a crash.
        """
        running, self._running = self._running, None
        if running is not None:
            running.send_signal(how)
            running.wait(_STARTS_WITHIN_S)

    def new_url(self, *, prepared: bool = True) -> str:
        """Make a database, and return its URL.

        Args:
            prepared: whether it has the catalogue's tables.
        """
        name = f"trial_{next(self._numbers)}"
        template = self._prepared_template() if prepared else "template1"
        with self.connect("template1" if template != "template1" else "postgres") as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return self.url(name)

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql+psycopg://{self.user}@/{database}?host={self.folder}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """Open a connection that commits each statement."""
        return psycopg.connect(host=str(self.folder), user=self.user, dbname=database, autocommit=True)

    def _prepared_template(self) -> str:
        if self._template is None:
            with self.connect() as connection:
                connection.execute("CREATE DATABASE prepared")
            catalog = Catalog(self.url("prepared"))
            catalog.prepare()
            catalog.close()
            self._template = "prepared"
        return self._template


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run a server; it ends with the block, and with this process, however that ends."""
    initdb, postgres = server_program("initdb"), server_program("postgres")
    assert initdb is not None
    assert postgres is not None
    where = _MEMORY if _MEMORY.is_dir() else None
    user = _server_user()
    with tempfile.TemporaryDirectory(prefix="rollforward-pg-", dir=where) as name:
        folder = Path(name)
        owner = pwd.getpwnam(user)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        as_user = ["setpriv", "--pdeathsig", "INT"]
        if os.geteuid() == 0:
            as_user += ["--reuid", user, "--regid", str(owner.pw_gid), "--clear-groups"]
        settings = ["-U", "rollforward", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            [*as_user, initdb, "-D", folder / "data", *settings], check=True, capture_output=True, cwd=folder
        )
        options = [
            part for option in (*_OPTIONS, f"unix_socket_directories={folder}") for part in ("-c", option)
        ]
        server = PostgresServer(folder, "rollforward", [*as_user, postgres, "-D", folder / "data", *options])
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _server_user() -> str:
    """Choose who runs the server: it refuses to be run by root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _wait(found: PostgresServer, server: subprocess.Popen[bytes], log: Path) -> None:
    pause = threading.Event()
    for _ in range(_STARTS_WITHIN_S * 20):
        with contextlib.suppress(psycopg.OperationalError), found.connect():
            return
        if server.poll() is not None:
            break
        pause.wait(0.05)
    raise AssertionError(f"the server does not start: {log.read_text()}")
