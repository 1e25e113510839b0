"""Opening the catalogue and its transactions: SQLite in a file, or a PostgreSQL server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from typing import Final

from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from policies.errors import CatalogAwayError, CatalogError, ConfigurationError
from storage.catalog.models import SCHEMA_REVISION

BUSY_TIMEOUT_MS: Final = 15_000
"""How long a SQLite transaction waits for another's to end."""

MIGRATIONS: Final = Path(__file__).with_name("migrations")
"""Where the steps from one layout to the next are kept."""

_WRITES: Final = {"catalogue_writes": True}
_SILENT_SERVER: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
"""A PostgreSQL server that is cut off without a word is given up after half a minute, not after hours: seconds, and
milliseconds for the last. *Source:* PostgreSQL's manual, libpq, parameter key words."""
_IDLE_MS_MAX: Final = 60_000
"""A transaction that stands still for so long is undone by the server, so that others get what it locked."""
_AWAY: Final = ("08", "53", "57P")
"""Beginnings of SQLSTATE that say so: connection exception, insufficient resources, operator intervention. *Source:*
PostgreSQL's manual, appendix A."""
_PREPARING: Final = 0x726F6C6C
"""Number of the lock that keeps two agents from preparing a PostgreSQL catalogue at once."""
_NEWER: Final = (
    "Install that version again; or take another catalogue, and have it built anew from the folders."
)


class Catalog:
    """The catalogue, opened. Safe to share between threads, not across a fork.

    Args:
        url: `sqlite:///PATH` or `postgresql+psycopg://…`.

    Raises:
        ConfigurationError: the URL is not one of these, or its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = _make_engine(url)
        sqlite = self._engine.dialect.name == "sqlite"
        self._writing: AbstractContextManager[object] = threading.RLock() if sqlite else nullcontext()

    def prepare(self) -> None:
        """Bring the catalogue to the present layout: make its tables, or add to them what is new.

        Raises:
            CatalogError: it cannot be opened, or was made by a later version.

        Crash: the catalogue is as before, or whole: one transaction.
        """
        try:
            with self._engine.connect().execution_options(**_WRITES) as connection, connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_PREPARING})")
                _migrate(connection, self.url)
        except SQLAlchemyError as error:
            raise _catalog_error(self.url, error) from error

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Give a session that only reads; what it loaded stays usable afterwards."""
        with Session(self._engine, expire_on_commit=False) as session:
            yield from _guarded(session, self.url)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Give a session in one transaction, committed at the end unless an error leaves the block.

        Keep it short: with SQLite nobody else writes meanwhile.

        Raises:
            CatalogError: the database refuses, or was busy for too long.

        Crash: nothing of the transaction happened.
        """
        with (
            self._writing,  # our own threads are woken here; SQLite would nap and look again
            Session(self._engine, expire_on_commit=False) as session,
        ):
            try:
                session.connection(execution_options=_WRITES)
            except SQLAlchemyError as error:
                raise _catalog_error(self.url, error) from error
            yield from _guarded(session, self.url)
            try:
                session.commit()
            except SQLAlchemyError as error:
                raise _catalog_error(self.url, error) from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @property
    def path(self) -> Path | None:
        """The file, for SQLite; None otherwise."""
        database = self._engine.url.database
        return Path(database) if self._engine.dialect.name == "sqlite" and database else None


def _migrate(connection: Connection, url: str) -> None:
    """Run the steps that a catalogue has not seen; it may be new, or of the first layout, which kept no record."""
    found = _revision_of(connection)
    if found == SCHEMA_REVISION:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = [step.revision for step in ScriptDirectory.from_config(config).walk_revisions()]
    if found is not None and found not in known:
        raise CatalogError(
            "the catalogue was made by a later version",
            path=make_url(url).render_as_string(hide_password=True),
            expected=SCHEMA_REVISION,
            actual=found,
            hint=_NEWER,
        )
    if found is not None and not _has_table(connection, "alembic_version"):
        command.stamp(config, found)
    command.upgrade(config, "head")


def _revision_of(connection: Connection) -> str | None:
    """Tell which layout a catalogue has; None for a new one."""
    if _has_table(connection, "alembic_version"):
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        return None if found is None else str(found)
    if _has_table(connection, "meta"):
        version = connection.exec_driver_sql("SELECT schema_version FROM meta").scalar()
        return "0001" if version in (None, 1) else str(version)
    return None


def _has_table(connection: Connection, name: str) -> bool:
    return inspect(connection).has_table(name)


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite catalogue in a file."""
    return f"sqlite:///{path}"


def _guarded(session: Session, url: str) -> Iterator[Session]:
    try:
        yield session
    except SQLAlchemyError as error:
        raise _catalog_error(url, error) from error


def _catalog_error(url: str, error: SQLAlchemyError) -> CatalogError:
    shown = make_url(url).render_as_string(hide_password=True)
    if isinstance(error, IntegrityError):
        return CatalogError("two workers recorded the same thing at once; it is looked at again", path=shown)
    cause = getattr(error, "orig", None) or error
    words = " ".join(str(cause).split())
    if _is_away(url, error):
        return CatalogAwayError(f"the catalogue's server does not answer: {words}", path=shown)
    return CatalogError(f"the catalogue cannot be used: {words}", path=shown)


def _is_away(url: str, error: SQLAlchemyError) -> bool:
    """Tell whether a PostgreSQL server is not there, or was not there for long enough."""
    if make_url(url).get_backend_name() != "postgresql" or not isinstance(error, OperationalError):
        return False
    state = getattr(error.orig, "sqlstate", None)  # none where the server had no chance to say one
    return state is None or state.startswith(_AWAY)


def _make_engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        kind = parsed.get_backend_name()
        if kind not in {"sqlite", "postgresql"}:
            raise ConfigurationError(
                "the catalogue is kept in SQLite or PostgreSQL", expected="sqlite or postgresql", actual=kind
            )
        if kind == "postgresql":
            chosen = {name: value for name, value in _SILENT_SERVER.items() if name not in parsed.query}
            engine = create_engine(parsed, pool_pre_ping=True, connect_args=chosen)
            event.listen(engine, "connect", _set_up_postgresql)
        else:
            engine = create_engine(parsed)
    except ArgumentError as error:
        raise ConfigurationError(
            f"not a database URL: {error}", hint="Example: sqlite:////var/lib/c.db"
        ) from error
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the database driver is not installed: {error.name}", hint="pip install 'psycopg[binary]'"
        ) from error
    if kind == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: SqliteConnection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver must not begin transactions by itself: we do, below
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _set_up_postgresql(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute(f"SET idle_in_transaction_session_timeout = {_IDLE_MS_MAX}")
    cursor.close()
    connection.commit()


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at once where we shall write: taking it later can fail without waiting."""
    writes = connection.get_execution_options().get("catalogue_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
