"""Removals in the catalogue, from the decision to what is left of them."""

from __future__ import annotations

import dataclasses

import pytest
from sqlalchemy.orm import Session

from policies.names import Tier
from policies.retention import PlannedRetirement
from storage.catalog import Catalog, Chain, Image, ImageState, Tombstone, TombstoneState
from storage.catalog.first_sights import first_seen_before, settle_first_sight
from storage.catalog.images import FileStamp, images_in_folder, new_image
from storage.catalog.ledger_lines import waiting_lines
from storage.catalog.tombstones import (
    GRACE,
    Removal,
    begin_retirements,
    deletions_due,
    in_grace,
    is_covered,
    lift_tombstones,
    marks_of,
    next_deletion_at,
    prune_tombstones,
    record_brought_back,
    record_deleted,
    record_moved,
    retiring_tombstones,
    tombstone_of,
    tombstones_named,
    tombstones_over,
)
from storage.ledger_entries import KEPT_FOR, LedgerState, TombstoneEntry
from tests.unit.shelf import DAILY, DAY, MINUTE, NOON, incremental, lease, put_chain, removal, root_of

LATER = NOON + DAY


def retire(catalog: Catalog, chain_id: int, *removals: Removal) -> list[int]:
    fence, revision = lease(catalog, chain_id)
    with catalog.write() as session:
        stones = begin_retirements(session, chain_id, removals, fence=fence, revision=revision, now=NOON)
        session.query(Chain).one().fence += 1
        from storage.catalog.leases import give_lease_back

        give_lease_back(session, chain_id, fence)
        return [stone.id for stone in stones]


def states_of(catalog: Catalog) -> dict[str, ImageState]:
    with catalog.read() as session:
        return {image.name: image.state for image in session.query(Image)}


def stone_of(catalog: Catalog, stone_id: int) -> Tombstone:
    with catalog.read() as session:
        return session.get_one(Tombstone, stone_id)


def test_the_way_of_a_removal(catalog: Catalog):
    folder_id, chain_id = put_chain(catalog)
    [stone_id] = retire(catalog, chain_id, removal(1))
    assert states_of(catalog)[incremental(1)] is ImageState.ASIDE
    with catalog.read() as session:
        assert [stone.id for stone in retiring_tombstones(session, chain_id=chain_id)] == [stone_id]
    with catalog.write() as session:
        moved = record_moved(session, stone_id, now=LATER)
        assert moved is not None
        assert moved.state is TombstoneState.RETIRED
        assert record_moved(session, stone_id, now=LATER) is None
    assert incremental(1) not in states_of(catalog)
    with catalog.read() as session:
        assert deletions_due(session, LATER + GRACE - MINUTE) == []
        assert deletions_due(session, LATER + GRACE) == [stone_id]
        assert next_deletion_at(session) == LATER + GRACE
        assert [stone.id for stone in in_grace(session, folder_id)] == [stone_id]
    with catalog.write() as session:
        assert record_deleted(session, stone_id, now=LATER + GRACE) is not None
        assert record_deleted(session, stone_id, now=LATER + GRACE) is None
        assert record_brought_back(session, stone_id, now=LATER + GRACE) is None
        assert next_deletion_at(session) is None
        told = LedgerState(entry for _, entry in waiting_lines(session, folder_id))
    [entry] = told.of(TombstoneEntry)
    assert (entry.state, entry.deleted_at) == ("deleted", LATER + GRACE)
    with catalog.write() as session:
        assert tombstones_over(session, LATER + GRACE + KEPT_FOR - MINUTE) == []
        prune_tombstones(session, tombstones_over(session, LATER + GRACE + KEPT_FOR))
    with catalog.read() as session:
        assert tombstones_named(session, folder_id, incremental(1)) == []


def test_a_tombstone_stays_while_another_leans_on_it(catalog: Catalog):
    folder_id, chain_id = put_chain(catalog)
    [stone_id] = retire(catalog, chain_id, removal(1, to_incrementals=True))
    weekly = "A-b001-i005-cw.spi"
    planned = PlannedRetirement(DAILY, Tier.DAILY, weekly, False, "rolled up, and old")
    [daily_id] = retire(catalog, chain_id, Removal(planned, root_of(DAILY), ()))
    with catalog.write() as session:
        put_image(session, folder_id, weekly)
        for one in (stone_id, daily_id):
            assert record_moved(session, one, now=LATER) is not None
        assert record_deleted(session, daily_id, now=LATER) is not None
    late = LATER + 10 * KEPT_FOR
    with catalog.read() as session:
        assert tombstones_over(session, late) == []
        found = tombstone_of(session, folder_id, root_of(incremental(1)))
        assert found is not None  # whoever copies it out of Incrementals/ gets no new image
    with catalog.write() as session:
        assert record_brought_back(session, stone_id, now=LATER) is not None
        assert tombstones_over(session, late) == [stone_id, daily_id]
        assert tombstones_over(session, late, limit=1) == [stone_id]


def put_image(session: Session, folder_id: int, name: str) -> None:
    image = new_image(session, folder_id, FileStamp(name, 10, 20), NOON, NOON)
    image.state = ImageState.GOOD


def test_what_was_verified_is_what_is_removed(catalog: Catalog):
    _, chain_id = put_chain(catalog)
    another = dataclasses.replace(removal(1), root=root_of("another"))
    with catalog.write() as session:
        image = next(image for image in session.query(Image) if image.name == incremental(2))
        image.state = ImageState.LANDED
    assert retire(catalog, chain_id, another, removal(2), removal(3)) != []
    states = states_of(catalog)
    assert [states[incremental(number)] for number in (1, 2, 3)] == [
        ImageState.GOOD,
        ImageState.LANDED,
        ImageState.ASIDE,
    ]


def test_what_is_moved_to_incrementals_is_never_due_for_deletion(catalog: Catalog):
    _, chain_id = put_chain(catalog)
    [stone_id] = retire(catalog, chain_id, removal(1, to_incrementals=True))
    with catalog.write() as session:
        moved = record_moved(session, stone_id, now=NOON)
        assert moved is not None
        assert (moved.state, marks_of(moved)) == (TombstoneState.MOVED, removal(1).files)
        assert deletions_due(session, NOON + 99 * DAY) == []
        assert record_deleted(session, stone_id, now=NOON) is None


@pytest.mark.parametrize("moved", [False, True])
def test_what_is_brought_back_is_an_image_like_any_other(catalog: Catalog, moved: bool):
    folder_id, chain_id = put_chain(catalog)
    [stone_id] = retire(catalog, chain_id, removal(1))
    with catalog.write() as session:
        if moved:
            record_moved(session, stone_id, now=LATER)
        assert record_brought_back(session, stone_id, now=LATER) is not None
        assert incremental(1) not in images_in_folder(session, folder_id)
        assert tombstone_of(session, folder_id, root_of(incremental(1))) is None
        image = new_image(session, folder_id, FileStamp(incremental(1), 10, 20), LATER, LATER)
        image.root = root_of(incremental(1))
        settle_first_sight(session, image)
        assert image.first_seen_at == NOON


def test_a_removed_image_is_known_when_it_lies_there_again(catalog: Catalog):
    folder_id, chain_id = put_chain(catalog)
    root = root_of(incremental(1))
    [stone_id] = retire(catalog, chain_id, removal(1))
    for state in (TombstoneState.RETIRING, TombstoneState.RETIRED, TombstoneState.DELETED):
        with catalog.write() as session:
            found = tombstone_of(session, folder_id, root)
            assert found is not None
            assert found.state is state
            assert tombstone_of(session, folder_id, None) is None
            assert tombstone_of(session, folder_id, root_of("another")) is None
            assert first_seen_before(session, folder_id, root) == NOON
            record_moved(session, stone_id, now=NOON) or record_deleted(session, stone_id, now=NOON)
    with catalog.write() as session:
        lift_tombstones(session, folder_id, incremental(1))
        assert tombstone_of(session, folder_id, root) is None
    assert stone_of(catalog, stone_id).lifted


def test_it_is_welcome_again_once_what_covered_it_is_lost(catalog: Catalog):
    folder_id, chain_id = put_chain(catalog)
    [stone_id] = retire(catalog, chain_id, removal(1))
    with catalog.write() as session:
        record_moved(session, stone_id, now=NOON)
        daily = images_in_folder(session, folder_id)[DAILY]
        daily.state = ImageState.BAD
    with catalog.write() as session:
        assert not is_covered(session, session.get_one(Tombstone, stone_id))
        assert tombstone_of(session, folder_id, root_of(incremental(1))) is None
        session.delete(images_in_folder(session, folder_id)[DAILY])
    with catalog.read() as session:
        assert not is_covered(session, session.get_one(Tombstone, stone_id))


def test_what_covered_it_may_itself_have_been_rolled_up(catalog: Catalog):
    folder_id, chain_id = put_chain(catalog)
    weekly = "A-b001-i003-cw.spi"
    with catalog.write() as session:
        daily = images_in_folder(session, folder_id)[DAILY]
        image = new_image(session, folder_id, FileStamp(weekly, 10, 20), NOON, NOON)
        image.chain_id, image.root, image.state = chain_id, root_of(weekly), ImageState.GOOD
        image.start, image.covers = daily.start, daily.covers
    over = removal(1)
    daily_goes = Removal(
        dataclasses.replace(over.planned, name=DAILY, covered_by=weekly), root_of(DAILY), over.files
    )
    first, second = retire(catalog, chain_id, over, daily_goes)
    with catalog.write() as session:
        record_moved(session, first, now=NOON)
        record_moved(session, second, now=NOON)
        assert is_covered(session, session.get_one(Tombstone, first))
        record_brought_back(session, second, now=NOON)
        assert not is_covered(
            session, session.get_one(Tombstone, first)
        )  # until the daily was verified again


def test_a_name_is_given_again_to_what_was_removed(catalog: Catalog):
    folder_id, chain_id = put_chain(catalog)
    [stone_id] = retire(catalog, chain_id, removal(1))
    with catalog.write() as session:
        lift_tombstones(session, folder_id, incremental(1))
    assert not stone_of(catalog, stone_id).lifted  # not while its file lies there still
