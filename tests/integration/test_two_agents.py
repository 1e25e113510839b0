"""Two agents over one folder, with one catalogue in PostgreSQL: what one does, the other does not do again."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from policies.errors import BusyError, CatalogError
from storage.catalog import EventKind, ImageState, TombstoneState
from storage.catalog.leases import take_lease
from tests.bed import quick_folder
from tests.checks.fortnight import FIRST, midnight_after
from tests.household import Household, Source
from tests.postgres import PostgresServer, postgres_server, server_program

DAYS = 4
LAYER = {"retention": {"keep_intraday_days": 1, "keep_daily_days": 1}}
ONCE = (EventKind.VERIFIED, EventKind.CONSOLIDATED, EventKind.RETIRING, EventKind.RETIRED, EventKind.DELETED)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    if server_program("postgres") is None:
        pytest.skip("needs the PostgreSQL server: Debian's package postgresql")
    with postgres_server() as server:
        yield server


@pytest.fixture
def place() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


@pytest.fixture
def houses(place: Path, postgres: PostgresServer) -> Iterator[tuple[Household, Household]]:
    url = postgres.new_url()
    first = Household(place, FIRST, url=url, host="castor")
    second = Household(place, FIRST, url=url, host="pollux")
    first.set_layer(LAYER)
    try:
        yield first, second
    finally:
        first.catalog.close()
        second.catalog.close()


def settle_together(*houses: Household) -> None:
    """Have agents work at once, until neither has anything to do."""
    for _ in range(4):
        with ThreadPoolExecutor(len(houses)) as beside:
            for done in [beside.submit(_work_a_while, house) for house in houses]:
                done.result()
        for house in houses:
            for chain_id in house.due():
                house.inbox.chain_due(chain_id)
    houses[0].settle()


def _work_a_while(house: Household) -> None:
    """Do what a worker does; one that is too late, or gave way to the other, is told again by the next tick."""
    with contextlib.suppress(BusyError, CatalogError):
        for _ in range(3):
            house.scan()
            house.drain()


def test_nothing_is_done_twice(place: Path, houses: tuple[Household, Household]):
    source = Source(place / "volume.raw", 1 << 20)
    for day in range(DAYS):
        for hours in (0, 5):
            now = FIRST + timedelta(days=day, hours=hours)
            source.capture_into(houses[0].folder, now)
            for house in houses:
                house.now = now
            settle_together(*houses)
        for house in houses:
            house.now = midnight_after(now) + timedelta(hours=day)
        settle_together(*houses)
    for kind in ONCE:
        told = Counter(event.subject for event in houses[0].events(kind))
        assert told, kind
        assert set(told.values()) == {1}, f"{kind}: {told}"
    assert not houses[0].events(EventKind.QUARANTINED)
    assert not houses[0].events(EventKind.BROUGHT_BACK)
    assert {stone.state for stone in houses[1].stones().values()} <= {
        TombstoneState.RETIRED,
        TombstoneState.DELETED,
    }


def test_one_takes_over_what_the_other_had_begun(place: Path, houses: tuple[Household, Household]):
    first, second = houses
    source = Source(place / "volume.raw", 1 << 20)
    for hours in (0, 1, 2):
        source.capture_into(first.folder, FIRST + timedelta(hours=hours))
    first.now = second.now = FIRST + timedelta(hours=3)
    first.settle()
    first.now = second.now = midnight_after(FIRST)
    moment = first.context.moment()
    with first.catalog.write() as session:
        take_lease(
            session, 1, moment.holder, machine_now=moment.machine_now, lease_time=timedelta(milliseconds=1)
        )  # and then it is heard of no more
    second.settle()
    assert second.states()["V-b001-i002-cd.spi"] is ImageState.GOOD
