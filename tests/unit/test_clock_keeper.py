"""A system clock that is set, forward or back, while the agent runs or is off: noted, frozen, nothing left waiting."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from ops.clock_keeper import ClockKeeper, read_clocks
from policies.attempts import LONGEST_WAIT
from policies.clock_watch import CLOCK_PROBATION, ClockReading
from policies.freezing import FreezeKind
from storage.catalog import Attempt, Catalog, Chain, Event, EventKind, Folder, Lease, WorkKind, sqlite_url
from storage.catalog.chains import AT_ONCE, chain_for
from storage.catalog.folders import add_folder
from storage.catalog.freezes import stored_freezes

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
DAY, YEAR = timedelta(days=1), timedelta(days=365)
LEASE_TIME = timedelta(minutes=1)


class Machine:
    """A machine whose clock can be set."""

    def __init__(self) -> None:
        self.wall, self.running, self.boot = NOON, timedelta(hours=5), "first"

    def __call__(self) -> datetime:
        return self.wall

    def read(self) -> ClockReading:
        return ClockReading(self.wall, self.running, self.boot)

    def run(self, passed: timedelta) -> None:
        self.wall += passed
        self.running += passed

    def restart(self) -> None:
        self.running, self.boot = timedelta(0), self.boot + "'"


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = Catalog(sqlite_url(tmp_path / "catalogue.sqlite"))
    made.prepare()
    with made.write() as session:
        folder = add_folder(session, tmp_path, "UTC", now=NOON, machine_now=NOON)
        for number, due in enumerate((NOON + timedelta(hours=9), NOON + YEAR), 1):
            chain_for(session, folder.id, bytes(16), "V", number, now=NOON).next_due_at = due
        far = NOON + YEAR
        for subject, retry_at in (("soon", NOON + timedelta(minutes=5)), ("far", far)):
            session.add(
                Attempt(
                    kind=WorkKind.VERIFY,
                    subject=subject,
                    engine_version="1",
                    started_at=NOON,
                    retry_at=retry_at,
                )
            )
        session.add(Lease(chain_id=1, holder="elsewhere boot 1 1", fence=1, expires_at=far))
        folder.rescan_at = far
    yield made
    made.close()


def keeper_of(catalog: Catalog, machine: Machine) -> ClockKeeper:
    return ClockKeeper(catalog, machine, lease_time=LEASE_TIME, read=machine.read)


def freezes(catalog: Catalog) -> list[FreezeKind]:
    with catalog.read() as session:
        return [row.kind for row in stored_freezes(session)]


def told(catalog: Catalog) -> list[EventKind]:
    with catalog.read() as session:
        kinds = (EventKind.FROZEN, EventKind.UNFROZEN)
        return list(session.scalars(select(Event.kind).where(Event.kind.in_(kinds)).order_by(Event.id)))


def test_the_real_clocks_can_be_read():
    first, second = read_clocks(), read_clocks()
    assert first.boot == second.boot != ""
    assert first.running <= second.running


def test_at_a_start_nothing_waits_for_a_time_far_ahead(catalog: Catalog, machine: Machine):
    keeper_of(catalog, machine).tick()
    with catalog.read() as session:
        assert session.scalars(select(Chain.next_due_at).order_by(Chain.id)).all() == [
            NOON + timedelta(hours=9),
            NOON,
        ]
        retries = session.scalars(select(Attempt.retry_at).order_by(Attempt.id)).all()
        assert retries == [NOON + timedelta(minutes=5), NOON + LONGEST_WAIT]
        assert session.scalars(select(Lease.expires_at)).one() == NOON + LEASE_TIME
        assert session.scalars(select(Folder.rescan_at)).one() == NOON
    assert freezes(catalog) == []


def test_a_clock_that_runs_is_left_in_peace(catalog: Catalog, machine: Machine):
    keeper = keeper_of(catalog, machine)
    for _ in range(100):
        keeper.tick()
        machine.run(timedelta(minutes=7))
    assert freezes(catalog) == []
    assert told(catalog) == []


def test_a_year_forward_and_back(catalog: Catalog, machine: Machine):
    keeper = keeper_of(catalog, machine)
    keeper.tick()
    machine.run(timedelta(seconds=1))
    machine.wall += YEAR
    for _ in range(3):
        keeper.tick()
        machine.run(timedelta(seconds=1))
    assert freezes(catalog) == [FreezeKind.CLOCK]
    with catalog.write() as session:  # planned while it was a year ahead
        session.get_one(Chain, 1).next_due_at = machine.wall + DAY
    machine.wall -= YEAR
    keeper.tick()
    assert freezes(catalog) == []
    with catalog.read() as session:
        assert session.get_one(Chain, 1).next_due_at == AT_ONCE
    assert told(catalog) == [EventKind.FROZEN, EventKind.UNFROZEN]


def test_a_clock_that_runs_on_is_believed_in_the_end(catalog: Catalog, machine: Machine):
    keeper = keeper_of(catalog, machine)
    keeper.tick()
    machine.wall += YEAR
    keeper.tick()
    machine.run(CLOCK_PROBATION)
    keeper.tick()
    assert freezes(catalog) == []


def test_a_clock_set_while_the_agent_was_off(catalog: Catalog, machine: Machine):
    keeper_of(catalog, machine).tick()
    machine.run(timedelta(hours=1))
    machine.wall += 30 * DAY
    keeper_of(catalog, machine).tick()
    assert freezes(catalog) == [FreezeKind.CLOCK]
    machine.restart()
    machine.wall -= 30 * DAY
    keeper_of(catalog, machine).tick()
    assert freezes(catalog) == []


def test_a_calendar_that_goes_back_a_little_pulls_back_what_waits(catalog: Catalog, machine: Machine):
    keeper = keeper_of(catalog, machine)
    keeper.tick()
    with catalog.write() as session:
        session.get_one(Chain, 1).next_due_at = NOON + 3 * DAY
    machine.run(timedelta(seconds=5))
    keeper.tick()
    with catalog.read() as session:
        assert session.get_one(Chain, 1).next_due_at == NOON + 3 * DAY
    machine.wall -= timedelta(minutes=20)
    keeper.tick()
    with catalog.read() as session:
        assert session.get_one(Chain, 1).next_due_at == machine.wall
    assert freezes(catalog) == []
