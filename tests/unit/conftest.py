"""What the tests of the engine share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.catalog import Catalog, sqlite_url
from tests.postgres import PostgresServer, postgres_server, server_program
from tests.unit.tiny import TinyVolume

_MEMORY = Path("/dev/shm")


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """An empty folder in memory, where the machine has that: syncing costs nothing there."""
    if not _MEMORY.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="rollforward-test-", dir=_MEMORY) as folder:
        yield Path(folder)


@pytest.fixture
def tiny(quick_path: Path) -> TinyVolume:
    """An empty volume with an empty folder for its images."""
    return TinyVolume(quick_path / "tiny")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of our own."""
    if server_program("postgres") is None:
        pytest.skip("needs the PostgreSQL server: Debian's package postgresql")
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def catalogue_url(request: pytest.FixtureRequest, quick_path: Path) -> str:
    """The URL of an empty catalogue, in either kind of database."""
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.new_url()
    folder = quick_path / "an odd n\u00e4me"
    folder.mkdir()
    return sqlite_url(folder / "c.sqlite")


@pytest.fixture
def catalog(catalogue_url: str) -> Iterator[Catalog]:
    """An empty catalogue, in either kind of database."""
    opened = Catalog(catalogue_url)
    opened.prepare()
    yield opened
    opened.close()
