"""Agents over one folder, each in processes of its own: with one catalogue they share it, else one is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from storage.catalog import EventKind
from storage.ledger_owner import read_owner
from tests.bed import quick_folder
from tests.checks.agents import share_a_folder
from tests.command import in_this_process
from tests.integration.agent_run import AgentRun, wait_for
from tests.integration.conftest import Stock
from tests.postgres import PostgresServer, postgres_server, server_program
from tests.queue_server import RedisServer

OTHERS = "is looked after by another agent"


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    if server_program("postgres") is None:
        pytest.skip("needs the PostgreSQL server: Debian's package postgresql")
    with postgres_server() as server:
        yield server


def test_two_agents_share_a_folder_and_one_takes_over(tmp_path: Path, postgres: PostgresServer):
    with quick_folder() as place, RedisServer(tmp_path) as redis:
        assert share_a_folder(place, postgres.new_url(), redis, days=1, per_day=2, kills=1)


def test_an_agent_with_another_catalogue_is_refused_until_it_may(tmp_path: Path, stock: Stock):
    often = {"ROLLFORWARD_HERALD_S": "0.2"}
    first = AgentRun(tmp_path / "first", often)
    second = AgentRun(tmp_path / "second", often, beside=first)
    folder = first.folder
    with ExitStack() as stack:
        stack.enter_context(first)
        shutil.copyfile(stock.images[0], folder / stock.names[0])
        first.wait_good(stock.names[0])
        owner = read_owner(folder)
        stack.enter_context(second)
        _must_be_refused(second, times=1)
        second.advance_until(lambda: _notices(second))
        shutil.copyfile(stock.images[1], folder / stock.names[1])
        first.wait_good(*stock.names[:2])
        assert not second.images()
        assert len(_notices(second)) == 1
        assert read_owner(folder) == owner
        _must("folder", "remove", folder, "--state", first.state_dir)
        second.wait_good(*stock.names[:2])
        assert len(second.events(EventKind.FOLDER_BACK)) == 1
        _must("folder", "add", folder, "--take-over", "--state", first.state_dir)
        first.wait_good(*stock.names[:2])
        _must_be_refused(second, times=2)
        assert not first.events(EventKind.FOLDER_LOST)


def _must_be_refused(run: AgentRun, times: int) -> None:
    """It says so in its log, in its state and in one notice, and does no more."""
    wait_for(lambda: OTHERS in (run.folders()[0].problem or ""), "it to be refused")
    assert len(run.events(EventKind.FOLDER_LOST)) == times
    lost = run.log_events("folder_lost")
    assert [OTHERS in str(line["text"]) for line in lost] == [True] * times
    status = _must("status", "--state", run.state_dir, "--json")
    assert OTHERS in status


def _notices(run: AgentRun) -> list[str]:
    return [event.text for event in run.events(EventKind.NOTICE) if OTHERS in event.text]


def _must(*words: str | Path) -> str:
    ran = in_this_process(*words)
    assert ran.code == 0, str(ran)
    return ran.output
