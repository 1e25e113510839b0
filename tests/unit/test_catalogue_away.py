"""A catalogue's server that is away: known for what it is, told of once, and nothing is held for ever because of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from actors.context import AgentContext
from actors.outage import Outage
from actors.trying import beginning, holding_chain
from policies.errors import CatalogAwayError, CatalogError
from storage.catalog import Attempt, Catalog, Lease, sqlite_url
from storage.catalog.attempts import begin_attempt
from storage.catalog.chains import chain_for
from storage.catalog.leases import let_go_of_all, renew, take_lease
from tests.postgres import PostgresServer
from tests.unit.test_catalogue import ME, MINUTE, NOON, WORK, make_chain, moment

NOWHERE = "postgresql+psycopg://somebody@/catalogue?host=/nowhere"


@pytest.mark.parametrize("way", ["read", "write"])
def test_a_server_that_is_not_there_is_away(way: str):
    catalog = Catalog(NOWHERE)
    with (
        pytest.raises(CatalogAwayError, match="does not answer") as caught,
        getattr(catalog, way)() as session,
    ):
        session.connection()
    assert "\n" not in caught.value.reason


def test_a_file_that_cannot_be_opened_is_not_away(tmp_path: Path):
    catalog = Catalog(sqlite_url(tmp_path / "no folder" / "c.sqlite"))
    with pytest.raises(CatalogError) as caught, catalog.write():
        pass
    assert not isinstance(caught.value, CatalogAwayError)


def test_a_server_that_cuts_off_is_away_and_comes_back(postgres: PostgresServer):
    url = postgres.new_url()
    catalog = Catalog(url)

    def be_cut_off() -> None:
        with catalog.write() as session:
            session.connection().exec_driver_sql("SELECT 1")
            with postgres.connect() as other:
                query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
                other.execute(query, [make_url(url).database])
            session.connection().exec_driver_sql("SELECT 1")

    with catalog.read() as session:
        shown = session.connection().exec_driver_sql("SHOW idle_in_transaction_session_timeout")
        assert shown.scalar() == "1min"
    with pytest.raises(CatalogAwayError):
        be_cut_off()
    make_chain(catalog)
    catalog.close()


def test_it_is_told_once_and_once_that_it_is_over():
    outage, error = Outage("worker"), CatalogAwayError("does not answer")
    with capture_logs() as said:
        for asked_at_s in (1.0, 2.0, 3.0):
            outage.begin(error, asked_at_s)
        outage.end(1.0)  # asked before it went
        assert outage.lasts
        outage.end(float("inf"))
        outage.begin(error, 4.0)  # begun before it was back
        outage.end(float("inf"))
    assert [line["log_level"] for line in said] == ["warning", "info"]
    assert not outage.lasts


class Forgetful(Catalog):
    """A catalogue whose answer to one commit is lost, though it was done: no server does that when it is told to."""

    loses_answer = False

    @contextmanager
    def write(self) -> Iterator[Session]:
        with super().write() as session:
            yield session
        if self.loses_answer:
            self.loses_answer = False
            raise CatalogAwayError("does not answer")


@pytest.fixture
def context(tmp_path: Path) -> Iterator[AgentContext]:
    catalog = Forgetful(sqlite_url(tmp_path / "c.sqlite"))
    catalog.prepare()
    yield AgentContext(catalog, lambda: NOON, lambda: NOON, "1.0", holder=ME)
    catalog.close()


def test_an_attempt_that_may_have_begun_is_let_go_of(context: AgentContext):
    begun: list[int] = []
    assert isinstance(context.catalog, Forgetful)
    context.catalog.loses_answer = True
    with pytest.raises(CatalogAwayError), beginning(context, begun) as session:
        begun.append(begin_attempt(session, WORK, moment()).attempt_id)
    with context.catalog.read() as session:
        attempt = session.get_one(Attempt, begun[0])
    assert (attempt.holder, attempt.crashes, attempt.failures) == (None, 0, 0)
    assert context.at_work.now() == (frozenset(), frozenset())


def test_a_lease_that_may_have_been_taken_is_given_back(context: AgentContext):
    _, chain_id = make_chain(context.catalog)
    assert isinstance(context.catalog, Forgetful)
    context.catalog.loses_answer = True
    with pytest.raises(CatalogAwayError), holding_chain(context, chain_id):
        pass
    with holding_chain(context, chain_id) as fence:
        assert fence == 2
        assert context.at_work.now() == (frozenset(), frozenset({chain_id}))


def test_only_what_is_under_way_is_renewed(catalog: Catalog):
    folder_id, forgotten = make_chain(catalog)
    with catalog.write() as session:
        held = chain_for(session, folder_id, b"d" * 16, "B", 1, now=NOON).id
        for chain_id in (held, forgotten):
            take_lease(session, chain_id, ME, machine_now=NOON, lease_time=MINUTE)
        attempt_id = begin_attempt(session, WORK, moment()).attempt_id
        lost_id = begin_attempt(session, dataclasses.replace(WORK, subject="another"), moment()).attempt_id
    with catalog.write() as session:
        renew(session, ME, [attempt_id], [held], expires_at=NOON + 2 * MINUTE)
    with catalog.read() as session:
        assert session.get_one(Lease, held).expires_at == NOON + 2 * MINUTE
        assert session.get_one(Lease, forgotten).expires_at == NOON + MINUTE
        assert session.get_one(Attempt, attempt_id).expires_at == NOON + 2 * MINUTE
        assert session.get_one(Attempt, lost_id).expires_at == NOON + MINUTE


def test_whoever_ends_lets_go_of_all_unharmed(catalog: Catalog):
    _, chain_id = make_chain(catalog)
    with catalog.write() as session:
        take_lease(session, chain_id, ME, machine_now=NOON, lease_time=MINUTE)
        attempt_id = begin_attempt(session, WORK, moment()).attempt_id
    with catalog.write() as session:
        let_go_of_all(session, ME)
    with catalog.read() as session:
        attempt = session.get_one(Attempt, attempt_id)
        assert (attempt.holder, attempt.crashes) == (None, 0)
        assert session.get(Lease, chain_id) is None
