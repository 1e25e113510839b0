"""One layout of the catalogue follows another: nothing is lost, and the tables are those that the models declare."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine

from policies.names import Tier
from storage.catalog import Catalog, ImageState, WorkKind, sqlite_url
from storage.catalog.attempts import Moment, Work, begin_attempt, end_attempt
from storage.catalog.database import MIGRATIONS
from storage.catalog.folders import add_folder, all_folders, folder_policy
from storage.catalog.holders import Holder
from storage.catalog.images import images_in_folder
from storage.catalog.ledger_lines import add_line, forget_lines, waiting_lines
from storage.catalog.models import SCHEMA_REVISION, Model
from storage.catalog.status import counts_by_folder
from storage.ledger_entries import SeenEntry
from tests.postgres import PostgresServer

FIRST = "0001"
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MOMENT = Moment(NOON, NOON, timedelta(minutes=1), Holder.of_this_process())


def migrate(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def differences(url: str) -> list[object]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), Model.metadata)
    engine.dispose()
    return list(found)


def test_the_models_are_what_the_steps_lead_to(catalog: Catalog):
    assert differences(catalog.url) == []


def test_the_last_step_is_the_layout_that_is_asked_for():
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA_REVISION]


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "c.sqlite")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_url(prepared=False)


def make_first_version(url: str) -> None:
    """Make a catalogue of the first layout, which kept no record of that."""
    engine = create_engine(url)
    with engine.begin() as connection:
        migrate(connection, FIRST)
        connection.exec_driver_sql("DROP TABLE alembic_version")
        for statement in (
            "INSERT INTO meta VALUES (1, 1)",
            "INSERT INTO folder VALUES (1, '/images', 'UTC', '2026-03-01', '2026-03-01', NULL)",
            "INSERT INTO image (id, folder_id, name, state, stored_bytes, mtime_ns, still_since, first_seen_at,"
            " verified_at, covers) VALUES"
            " (1, 1, 'A-b001.spf', 'good', 30, 1, '2026-03-01', '2026-03-01', '2026-03-02', '[]'),"
            " (2, 1, 'A-b001-i004-cd.spi', 'landed', 10, 1, '2026-03-01', '2026-03-04', NULL, '[]')",
        ):
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_what_the_first_layout_knew_is_kept(empty_url: str):
    make_first_version(empty_url)
    catalog = Catalog(empty_url)
    catalog.prepare()
    with catalog.read() as session:
        [folder] = all_folders(session)
        images = images_in_folder(session, folder.id)
        policy = folder_policy(session, folder)
        counts = counts_by_folder(session)[folder.id]
    catalog.close()
    assert differences(empty_url) == []
    assert folder.newest_image_at is not None
    assert (folder.newest_image_at.day, folder.settings, policy.retention.keep_daily_days) == (4, {}, 15)
    assert images["A-b001-i004-cd.spi"].tier is Tier.DAILY
    base = images["A-b001.spf"]
    assert (base.tier, base.state, base.checked_at) == (Tier.INCREMENTAL, ImageState.GOOD, base.verified_at)
    assert {state: tally.stored_bytes for state, tally in counts.by_state.items()} == {
        ImageState.GOOD: 30,
        ImageState.LANDED: 10,
    }
    assert counts.by_tier[Tier.DAILY].images == 1


@pytest.mark.parametrize("begun_with", ["first layout", "nothing"])
def test_numbers_of_attempts_and_ledger_lines_are_used_once(empty_url: str, begun_with: str):
    """Another process may be about to forget what had them."""
    if begun_with == "first layout":
        make_first_version(empty_url)
    catalog = Catalog(empty_url)
    catalog.prepare()
    with catalog.write() as session:
        known = all_folders(session) or [
            add_folder(session, Path("/images"), "UTC", now=NOON, machine_now=NOON)
        ]
        folder_id = known[0].id
    used: list[tuple[int, int]] = []
    for _ in range(2):
        with catalog.write() as session:
            add_line(session, folder_id, SeenEntry("00" * 32, "A-b001.spf", NOON))
            begun = begin_attempt(session, Work(WorkKind.VERIFY, "A-b001.spf", "1"), MOMENT)
            [(line_id, _)] = waiting_lines(session, folder_id)
            used.append((begun.attempt_id, line_id))
        with catalog.write() as session:
            assert end_attempt(session, begun.attempt_id, MOMENT.holder)
            forget_lines(session, [line_id])
    catalog.close()
    assert used[1][0] > used[0][0]
    assert used[1][1] > used[0][1]
    assert differences(empty_url) == []


def test_a_step_that_fails_leaves_the_catalogue_as_it_was(empty_url: str, monkeypatch: pytest.MonkeyPatch):
    make_first_version(empty_url)
    engine = create_engine(empty_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE notice (id INTEGER)")  # in the way of a later step
    catalog = Catalog(empty_url)
    with pytest.raises(Exception, match="notice"):
        catalog.prepare()
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT schema_version FROM meta").scalar() == 1
        assert connection.exec_driver_sql("SELECT count(*) FROM image").scalar() == 2
        connection.exec_driver_sql("DROP TABLE notice")
    engine.dispose()
    catalog.prepare()
    catalog.close()
    assert differences(empty_url) == []
