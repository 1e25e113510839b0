"""What a tick and a status ask is answered from few rows, found by an index, in either kind of database."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Select, select, text

from storage.catalog import Catalog, Chain, Folder, Image, Tombstone
from storage.catalog.models import Event, FolderTally
from tests.checks.standing import fill_catalogue
from tests.checks.ticking import tick_over
from tests.unit.shelf import NOON, put_chain
from watcher.pacing import Pacer


def test_a_tick_names_what_is_due_and_nothing_else(quick_path: Path):
    fill_catalogue(quick_path / "state", folders=300, images=20)
    assert tick_over(quick_path / "state", Pacer(timedelta(seconds=10))).named == 3


QUERIES: dict[str, Select[tuple[int]]] = {
    "chains that are due": select(Chain.id)
    .where(Chain.next_due_at <= NOON)
    .order_by(Chain.next_due_at)
    .limit(9),
    "folders that are due": select(Folder.id)
    .where(Folder.rescan_at <= NOON)
    .order_by(Folder.rescan_at)
    .limit(9),
    "images of a chain": select(Image.id).where(Image.chain_id == 1),
    "an image by name": select(Image.id).where(Image.folder_id == 1, Image.name == "x"),
    "a removed image": select(Tombstone.id).where(Tombstone.folder_id == 1, Tombstone.root == b"r"),
    "graces that end": select(Tombstone.id).where(Tombstone.state == "retired", Tombstone.retired_at <= NOON),
    "what happened to a file": select(Event.id).where(Event.folder_id == 1, Event.subject == "x"),
    "counts of a folder": select(FolderTally.images).where(FolderTally.folder_id == 1),
}


@pytest.mark.parametrize("asked", QUERIES)
def test_it_is_found_by_an_index(catalog: Catalog, asked: str):
    put_chain(catalog)
    with catalog.read() as session:
        connection = session.connection()
        is_sqlite = connection.dialect.name == "sqlite"
        if not is_sqlite:
            connection.execute(text("SET enable_seqscan = off"))  # few rows would be read one by one
        compiled = QUERIES[asked].compile(connection, compile_kwargs={"render_postcompile": True})
        explain = "EXPLAIN QUERY PLAN" if is_sqlite else "EXPLAIN"
        values = compiled.construct_params()
        processed = {
            name: compiled._bind_processors[name](value) if name in compiled._bind_processors else value
            for name, value in values.items()
        }
        rows = connection.exec_driver_sql(f"{explain} {compiled}", _driver_values(compiled, processed))
        plan = "\n".join(str(row) for row in rows)
    assert "Index" in plan or "USING INDEX" in plan or "USING COVERING INDEX" in plan, plan


def _driver_values(compiled, processed):
    if compiled.positional:
        return tuple(processed[name] for name in compiled.positiontup)
    return processed
