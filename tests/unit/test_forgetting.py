"""What nobody asks for any more is forgotten, little by little, and not by a clock that is wrong."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import func, select

from ops.forgetting import Forgetting
from policies.clock_watch import ClockReading, ClockWatch
from policies.holdings import Claim
from storage.catalog import Catalog, Event, EventKind
from storage.catalog.agents import set_clock_watch
from storage.catalog.claims import place_claim, stored_claims
from storage.catalog.events import EVENTS_KEPT_FOR, PRUNED_AT_ONCE, record_event
from storage.catalog.memory_models import Tombstone
from storage.catalog.tombstones import begin_retirements, record_deleted, record_moved
from storage.ledger_entries import KEPT_FOR
from tests.unit.shelf import DAY, ME, MINUTE, NOON, lease, put_chain, removal

LATE = NOON + KEPT_FOR + DAY


class Machine:
    """A machine that has been running steadily since noon."""

    def __init__(self) -> None:
        self.wall, self.running = NOON, timedelta(hours=1)

    def run(self, passed: timedelta) -> None:
        self.wall += passed
        self.running += passed

    def clock(self) -> datetime:
        return self.wall

    def read(self) -> ClockReading:
        return ClockReading(self.wall, self.running, "boot")


def forgetting_of(catalog: Catalog, machine: Machine, *, every_s: float = 0.0) -> Forgetting:
    return Forgetting(catalog, machine.clock, read=machine.read, every_s=every_s)


def put_old_things(catalog: Catalog, machine: Machine) -> None:
    """Have events and a tombstone from noon, and a claim of work that is gone."""
    _, chain_id = put_chain(catalog)
    fence, revision = lease(catalog, chain_id)
    with catalog.write() as session:
        set_clock_watch(session, ClockWatch(machine.read()), now=NOON)
        [stone] = begin_retirements(session, chain_id, [removal(1)], fence=fence, revision=revision, now=NOON)
        record_moved(session, stone.id, now=NOON)
        record_deleted(session, stone.id, now=NOON)
        before = session.scalar(select(func.count()).select_from(Event)) or 0
        for number in range(PRUNED_AT_ONCE + 1 - before):
            record_event(session, EventKind.LANDED, f"{number}", "landed", at=NOON, machine_now=NOON)
        record_event(session, EventKind.LANDED, "new", "landed", at=NOON + 2 * DAY, machine_now=NOON)
        need = Claim("a copy", NOON)
        place_claim(session, chain_id, "copy", need, now=NOON, holder=ME, expires_at=NOON + MINUTE)


def left(catalog: Catalog) -> tuple[int, int, int]:
    """Count tombstones, events and claims."""
    with catalog.read() as session:
        stones = session.scalar(select(func.count()).select_from(Tombstone)) or 0
        events = session.scalar(select(func.count()).select_from(Event)) or 0
        return stones, events, len(stored_claims(session))


def test_what_is_over_goes_little_by_little(catalog: Catalog):
    machine = Machine()
    put_old_things(catalog, machine)
    forgetting = forgetting_of(catalog, machine)
    assert EVENTS_KEPT_FOR == KEPT_FOR
    forgetting.tick()  # the claim's worker is gone by the real clock; nothing is old yet
    assert left(catalog) == (1, PRUNED_AT_ONCE + 2, 0)
    machine.run(LATE - NOON)
    assert forgetting.tick() == 1 + PRUNED_AT_ONCE
    assert left(catalog) == (0, 2, 0)
    assert [forgetting.tick(), forgetting.tick()] == [1, 0]
    assert left(catalog) == (0, 1, 0)


def test_a_clock_that_jumped_makes_nothing_old(catalog: Catalog):
    machine = Machine()
    put_old_things(catalog, machine)
    machine.wall += LATE - NOON
    assert forgetting_of(catalog, machine).tick() == 0
    assert left(catalog) == (1, PRUNED_AT_ONCE + 2, 1)


def test_it_looks_once_an_hour(catalog: Catalog):
    machine = Machine()
    put_old_things(catalog, machine)
    forgetting = forgetting_of(catalog, machine, every_s=3600.0)
    forgetting.tick()
    assert forgetting.tick() == 0
    machine.run(LATE - NOON)
    assert forgetting.tick() == 0
