"""Holds, claims and retirements: each makes the others' judgement out of date, in either kind of database."""

from __future__ import annotations

import dataclasses
import threading
from datetime import timedelta

import pytest

from policies.cursor import Cursor
from policies.errors import BusyError, ConfigurationError
from policies.holdings import Claim, Hold
from policies.points import PointId
from storage.catalog import Catalog, Chain, ImageState, StoredHold, TombstoneState
from storage.catalog.claims import (
    claims_of_chain,
    drop_dead_claims,
    place_claim,
    release_claim,
    stored_claims,
)
from storage.catalog.facts import chain_facts
from storage.catalog.holds import holds_of_folder, place_hold, release_hold, stored_holds
from storage.catalog.leases import renew
from storage.catalog.ledger_lines import waiting_lines
from storage.catalog.tombstones import begin_retirements, retiring_tombstones
from storage.ledger_entries import HoldEntry
from tests.unit.shelf import (
    DAILY,
    DAY,
    ME,
    MINUTE,
    NOON,
    POINTS,
    image_named,
    incremental,
    lease,
    put_chain,
    removal,
)

GONE = dataclasses.replace(ME, started_ticks=1)
NEED = Claim("the copy to 'offsite'", NOON, names=frozenset({incremental(1)}))


def hold_on(number: int) -> Hold:
    return Hold("audit", "ann", NOON, name=incremental(number))


# --- holds


def test_a_hold_is_kept_in_the_catalogue_and_for_the_ledger(catalog: Catalog):
    folder_id, chain_id = put_chain(catalog)
    point = Hold("keep", "bob", NOON, point=PointId(b"p" * 16), until=NOON + DAY)
    with catalog.write() as session:
        first = place_hold(session, chain_id, hold_on(1))
        place_hold(session, chain_id, point)
    with catalog.read() as session:
        assert holds_of_folder(session, folder_id) == (hold_on(1), point)
        assert len(stored_holds(session)) == 2
        entries = [entry for _, entry in waiting_lines(session, folder_id)]
    assert [isinstance(entry, HoldEntry) and entry.reason for entry in entries] == ["audit", "keep"]
    with catalog.write() as session:
        released = release_hold(session, first.id, now=NOON + MINUTE)
        assert isinstance(released, StoredHold)
        assert release_hold(session, 99, now=NOON) is None
    with catalog.read() as session:
        assert holds_of_folder(session, folder_id) == (point,)
        last = waiting_lines(session, folder_id)[-1][1]
    assert isinstance(last, HoldEntry)
    assert last.released_at == NOON + MINUTE


@pytest.mark.parametrize("name", ["A-b001-i009.spi", incremental(2)])
def test_what_is_not_there_cannot_be_held(catalog: Catalog, name: str):
    _, chain_id = put_chain(catalog)
    fence, revision = lease(catalog, chain_id)
    with catalog.write() as session:
        begin_retirements(session, chain_id, [removal(2)], fence=fence, revision=revision, now=NOON)
    with catalog.write() as session, pytest.raises(ConfigurationError, match=r"no such image|on its way out"):
        place_hold(session, chain_id, Hold("late", "ann", NOON, name=name))


# --- claims


def test_a_claim_is_made_once_and_given_up(catalog: Catalog):
    _, chain_id = put_chain(catalog)
    cursor = Claim("stand-by", NOON, target=POINTS[3], standing=Cursor((POINTS[1], POINTS[2])))
    with catalog.write() as session:
        assert place_claim(session, chain_id, "copy", NEED, now=NOON) == ()
        assert place_claim(session, chain_id, "copy", NEED, now=NOON) == ()
        assert place_claim(session, chain_id, "headstart", cursor, now=NOON) == ()
    with catalog.read() as session:
        assert claims_of_chain(session, chain_id, machine_now=NOON + 99 * DAY) == (NEED, cursor)
    with catalog.write() as session:
        assert release_claim(session, chain_id, "copy", now=NOON)
        assert not release_claim(session, chain_id, "copy", now=NOON)
        assert not release_claim(session, 99, "copy", now=NOON)
        assert len(stored_claims(session)) == 1


def test_a_claim_of_work_ends_with_its_process_or_its_time(catalog: Catalog):
    _, chain_id = put_chain(catalog)
    soon = NOON + MINUTE
    with catalog.write() as session:
        place_claim(session, chain_id, "mine", NEED, now=NOON, holder=ME, expires_at=soon)
        place_claim(session, chain_id, "dead", NEED, now=NOON, holder=GONE, expires_at=soon)
        place_claim(session, chain_id, "person", NEED, now=NOON)
        renew(session, ME, (), (), expires_at=NOON + 2 * MINUTE)
        before = session.get_one(Chain, chain_id).revision
    with catalog.write() as session:
        assert len(claims_of_chain(session, chain_id, machine_now=NOON)) == 2
        assert len(claims_of_chain(session, chain_id, machine_now=NOON + 2 * MINUTE)) == 1
        assert drop_dead_claims(session, now=NOON, machine_now=NOON) == 1
        assert drop_dead_claims(session, now=NOON, machine_now=NOON + 2 * MINUTE) == 1
        assert [stored.key for stored in stored_claims(session, chain_id)] == ["person"]
    with catalog.read() as session:
        assert session.get_one(Chain, chain_id).revision == before + 2


def test_what_is_on_its_way_out_cannot_be_claimed(catalog: Catalog):
    _, chain_id = put_chain(catalog)
    fence, revision = lease(catalog, chain_id)
    with catalog.write() as session:
        begin_retirements(session, chain_id, [removal(1)], fence=fence, revision=revision, now=NOON)
    with catalog.write() as session:
        assert place_claim(session, chain_id, "copy", NEED, now=NOON) == (incremental(1),)
        assert place_claim(session, 99, "copy", NEED, now=NOON) == (incremental(1),)
        assert stored_claims(session) == []


# --- which comes first


def test_a_plan_made_before_a_claim_or_hold_retires_nothing(catalog: Catalog):
    _, chain_id = put_chain(catalog)
    fence, revision = lease(catalog, chain_id)
    with catalog.write() as session:
        place_claim(session, chain_id, "copy", NEED, now=NOON)
    with catalog.write() as session:
        assert (
            begin_retirements(session, chain_id, [removal(1)], fence=fence, revision=revision, now=NOON) == []
        )
        revision = session.get_one(Chain, chain_id).revision
    with catalog.write() as session:
        place_hold(session, chain_id, hold_on(2))
    with catalog.write() as session:
        assert (
            begin_retirements(session, chain_id, [removal(3)], fence=fence, revision=revision, now=NOON) == []
        )
    image = image_named(catalog, incremental(3))
    assert image is not None
    assert image.state is ImageState.GOOD


def test_a_retirement_under_an_old_lease_is_refused(catalog: Catalog):
    _, chain_id = put_chain(catalog)
    fence, revision = lease(catalog, chain_id)
    with catalog.write() as session, pytest.raises(BusyError):
        begin_retirements(session, chain_id, [removal(1)], fence=fence - 1, revision=revision, now=NOON)


@pytest.mark.parametrize("claim_first", [True, False])
def test_of_two_connections_the_second_sees_what_the_first_did(catalog: Catalog, claim_first: bool):
    """Both have judged before either is done; the one that waits for the lock goes by what it finds then."""
    _, chain_id = put_chain(catalog)
    fence, revision = lease(catalog, chain_id)
    locked, go_on = threading.Event(), threading.Event()
    results: dict[str, object] = {}

    def claim(first: bool) -> None:
        with catalog.write() as session:
            session.get_one(
                Chain, chain_id
            )  # read before the other is done: PostgreSQL would go on believing it
            if not first:
                locked.wait(60)
            results["claim"] = place_claim(session, chain_id, "copy", NEED, now=NOON)
            _hold_lock(first)

    def retire(first: bool) -> None:
        with catalog.write() as session:
            session.get_one(Chain, chain_id)
            if not first:
                locked.wait(60)
            results["retired"] = begin_retirements(
                session, chain_id, [removal(1)], fence=fence, revision=revision, now=NOON
            )
            _hold_lock(first)

    def _hold_lock(first: bool) -> None:
        if first:
            locked.set()
            go_on.wait(60)

    first, second = (claim, retire) if claim_first else (retire, claim)
    one = threading.Thread(target=first, args=(True,))
    other = threading.Thread(target=second, args=(False,))
    one.start()
    assert locked.wait(60)
    other.start()
    other.join(0.3)  # it waits for the lock as long as the first holds it
    assert other.is_alive()
    go_on.set()
    for thread in (one, other):
        thread.join(60)
    if claim_first:
        assert results == {"claim": (), "retired": []}
    else:
        assert results["claim"] == (incremental(1),)
        with catalog.read() as session:
            assert [stone.state for stone in retiring_tombstones(session)] == [TombstoneState.RETIRING]


def test_the_planner_is_given_all_that_is_known(catalog: Catalog):
    _, chain_id = put_chain(catalog)
    with catalog.write() as session:
        place_hold(session, chain_id, hold_on(1))
        place_claim(session, chain_id, "copy", NEED, now=NOON)
    with catalog.read() as session:
        chain = session.get_one(Chain, chain_id)
        facts = chain_facts(
            session, chain, now=NOON, machine_now=NOON, blocked={DAILY: "quarantined"}, taken={"x"}
        )
    assert [holding.name for holding in facts.holdings if holding.is_proven] == sorted(
        ["A-b001.spf", DAILY, *map(incremental, (1, 2, 3))]
    )
    assert (facts.holds, facts.claims, facts.taken) == ((hold_on(1),), (NEED,), {"x"})
    assert facts.blocked == {DAILY: "quarantined"}
    assert facts.zone.utcoffset(NOON) == timedelta(0)
