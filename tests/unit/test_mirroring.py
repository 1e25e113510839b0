"""Catalogue and ledger in step, and a folder that comes to a catalogue that has never seen it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.errors import OwnershipError
from policies.freezing import FreezeKind
from policies.holdings import Hold
from storage.catalog import (
    Catalog,
    Folder,
    Image,
    ImageState,
    LedgerLine,
    Tombstone,
    TombstoneState,
    sqlite_url,
)
from storage.catalog.agents import agent_of
from storage.catalog.facts import chain_facts, remember_sights
from storage.catalog.first_sights import settle_first_sight
from storage.catalog.folders import add_folder
from storage.catalog.freezes import Scope, stored_freezes, waive
from storage.catalog.holds import holds_of_folder, place_hold
from storage.catalog.images import FileStamp, images_in_folder, new_image
from storage.catalog.ledger_lines import folders_with_lines, waiting_lines
from storage.catalog.mirroring import Adopted, adopt_folder, mirror_ledger
from storage.catalog.models import Chain
from storage.catalog.reporters import REPORT_WAIT, add_reporter, remove_reporter, report, silent_reporters
from storage.catalog.tombstones import begin_retirements, record_moved, tombstone_of
from storage.file_marks import mark_files
from storage.ledger import append_entries, read_ledger
from storage.ledger_entries import SeenEntry, SightEntry, TombstoneEntry
from storage.ledger_owner import Owner, Ownership, become_owner, read_owner
from storage.retired import MoveOutcome, Place, move_aside
from tests.unit.shelf import DAY, MINUTE, NOON, POINTS, incremental, lease, put_chain, removal, root_of

LATER = NOON + 30 * DAY


@dataclasses.dataclass
class Trial:
    """A folder, and catalogues that come and go.

    Attributes:
        folder: the managed folder.
        home: where the catalogues lie.
        uid: whose folder it is.
    """

    folder: Path
    home: Path
    uid: str = "ab" * 16
    opened: list[Catalog] = dataclasses.field(default_factory=list)

    def catalogue(self, uid: str | None = None) -> Catalog:
        """Open a new, empty catalogue of the same agent, or of another."""
        catalog = Catalog(sqlite_url(self.home / f"{len(self.opened)}.sqlite"))
        catalog.prepare()
        with catalog.write() as session:
            agent_of(session, now=NOON, uid=uid or self.uid)
        self.opened.append(catalog)
        return catalog

    def managed(self, catalog: Catalog) -> int:
        """Manage the folder in a catalogue."""
        with catalog.write() as session:
            return add_folder(session, self.folder, "UTC", now=NOON, machine_now=NOON).id

    def adopted(self, catalog: Catalog, **options: bool) -> Adopted | None:
        return adopt_folder(catalog, self.managed(catalog), now=LATER, **options)


@pytest.fixture
def trial(quick_path: Path) -> Iterator[Trial]:
    folder = quick_path / "images"
    folder.mkdir()
    made = Trial(folder, quick_path)
    yield made
    for catalog in made.opened:
        catalog.close()


def lively(trial: Trial) -> tuple[Catalog, int, int]:
    """Give a catalogue with a chain in the folder: a hold, a tombstone, a job, first sights, all in the ledger."""
    catalog = trial.catalogue()
    folder_id, chain_id = put_chain(catalog, trial.folder)
    assert adopt_folder(catalog, folder_id, now=NOON) == Adopted(Ownership.NEW)
    for name in (incremental(1), incremental(2)):
        (trial.folder / name).write_bytes(name.encode())
    gone = dataclasses.replace(removal(1), files=mark_files(trial.folder / incremental(1)))
    with catalog.write() as session:
        place_hold(session, chain_id, Hold("audit", "ann", NOON, name=incremental(2)))
        add_reporter(session, folder_id, "headstart:stand-by", now=NOON)
        for image in images_in_folder(session, folder_id).values():
            settle_first_sight(session, image)
    fence, revision = lease(catalog, chain_id)
    with catalog.write() as session:
        [stone] = begin_retirements(session, chain_id, [gone], fence=fence, revision=revision, now=NOON)
    assert move_aside(Place(trial.folder, stone.token), gone.files) is MoveOutcome.DONE
    with catalog.write() as session:
        record_moved(session, stone.id, now=NOON + MINUTE)
    assert mirror_ledger(catalog, folder_id, now=NOON) is None
    return catalog, folder_id, chain_id


def test_what_is_written_waits_no_more(trial: Trial):
    catalog, folder_id, _ = lively(trial)
    with catalog.read() as session:
        assert session.query(LedgerLine).all() == []
        assert folders_with_lines(session) == []
    assert mirror_ledger(catalog, folder_id, now=NOON) is None
    assert mirror_ledger(catalog, 99, now=NOON) is None
    [stone] = read_ledger(trial.folder).state.of(TombstoneEntry)
    assert (stone.state, stone.retired_at) == ("retired", NOON + MINUTE)


def test_a_folder_that_refuses_is_told_and_nothing_is_lost(trial: Trial):
    catalog, folder_id, chain_id = lively(trial)
    ledger = trial.folder / ".rollforward" / "ledger"
    aside = ledger.rename(ledger.with_name("aside"))
    ledger.symlink_to("/dev/null")
    with catalog.write() as session:
        place_hold(session, chain_id, Hold("more", "bob", NOON, name=incremental(3)))
    assert mirror_ledger(catalog, folder_id, now=NOON) is not None
    with catalog.read() as session:
        assert session.get_one(Folder, folder_id).ledger_problem is not None
        assert len(waiting_lines(session, folder_id)) == 1
    ledger.unlink()
    aside.rename(ledger)
    assert mirror_ledger(catalog, folder_id, now=NOON) is None
    with catalog.read() as session:
        assert session.get_one(Folder, folder_id).ledger_problem is None
    assert len(read_ledger(trial.folder).state.holds) == 2


def test_nothing_is_written_into_anothers_ledger(trial: Trial):
    catalog, folder_id, chain_id = lively(trial)
    other = trial.catalogue("cd" * 16)
    with pytest.raises(OwnershipError, match="another agent"):
        trial.adopted(other)
    taken = trial.adopted(other, take_over=True)
    assert taken is not None
    assert (taken.ownership, taken.holds) == (Ownership.TAKEN_OVER, 1)
    before = (trial.folder / ".rollforward" / "ledger").read_bytes()
    with catalog.write() as session:
        place_hold(session, chain_id, Hold("more", "bob", NOON, name=incremental(3)))
    assert "not ours" in (mirror_ledger(catalog, folder_id, now=NOON) or "")
    assert (trial.folder / ".rollforward" / "ledger").read_bytes() == before
    with pytest.raises(OwnershipError):
        adopt_folder(catalog, folder_id, now=NOON)


def test_a_lost_catalogue_is_built_anew_with_all_that_was_promised(trial: Trial):
    lively(trial)
    fresh = trial.catalogue()
    folder_id = trial.managed(fresh)
    found = adopt_folder(fresh, folder_id, now=LATER)
    assert found is not None
    assert (found.ownership, found.holds, found.tombstones, found.faults) == (Ownership.OURS, 1, 1, 0)
    assert adopt_folder(fresh, folder_id, now=LATER) is None
    with fresh.write() as session:
        assert [hold.reason for hold in holds_of_folder(session, folder_id)] == ["audit"]
        stone = session.query(Tombstone).one()
        assert (stone.state, stone.retired_at) == (TombstoneState.RETIRED, NOON + MINUTE)
        image = new_image(session, folder_id, FileStamp(incremental(2), 10, 20), LATER, LATER)
        image.root = root_of(incremental(2))
        settle_first_sight(session, image)
        assert image.first_seen_at == NOON
        assert tombstone_of(session, folder_id, root_of(incremental(1))) is None  # nothing covers it yet


def test_after_that_nothing_is_removed_until_jobs_have_reported(trial: Trial):
    lively(trial)
    fresh = trial.catalogue()
    folder_id = trial.managed(fresh)
    found = adopt_folder(fresh, folder_id, now=LATER)
    assert found is not None
    assert found.freeze is not None
    assert (found.freeze.kind, found.freeze.ends_at) == (FreezeKind.REBUILT, None)
    assert "headstart:stand-by" in found.freeze.reason
    with fresh.write() as session:
        chain = Chain(folder_id=folder_id, chain_uid=b"c" * 16, volume="A", base_number=1, next_due_at=LATER)
        session.add(chain)
        session.flush()
        assert len(chain_facts(session, chain, now=LATER, machine_now=LATER).freezes) == 1
        assert silent_reporters(session, folder_id) == ["headstart:stand-by"]
        report(session, folder_id, "headstart:unknown", now=LATER)
        assert len(stored_freezes(session)) == 1
        report(session, folder_id, "headstart:stand-by", now=LATER)
        assert stored_freezes(session) == []
        assert chain_facts(session, chain, now=LATER, machine_now=LATER).freezes == ()


def test_a_job_that_is_gone_is_not_waited_for(trial: Trial):
    catalog, folder_id, _ = lively(trial)
    with catalog.write() as session:
        remove_reporter(session, folder_id, "headstart:stand-by", now=NOON)
    mirror_ledger(catalog, folder_id, now=NOON)
    found = trial.adopted(trial.catalogue())
    assert found is not None
    assert found.freeze is not None
    assert found.freeze.ends_at == LATER + REPORT_WAIT


def test_a_person_can_end_it_and_only_a_person_where_the_ledger_is_damaged(trial: Trial):
    lively(trial)
    (trial.folder / ".rollforward" / "ledger").write_bytes(b"damaged\n")
    fresh = trial.catalogue()
    folder_id = trial.managed(fresh)
    found = adopt_folder(fresh, folder_id, now=LATER)
    assert found is not None
    assert found.freeze is not None
    assert (found.faults, found.freeze.ends_at) == (1, None)
    assert len(found.strays) == 1  # what was retired belongs to no removal that is known
    assert (trial.folder / ".rollforward" / "ledger.damaged").read_bytes() == b"damaged\n"
    with fresh.write() as session:
        waive(session, Scope(folder_id), found.freeze.key, "ann", now=LATER)
        chain = Chain(folder_id=folder_id, chain_uid=b"c" * 16, volume="A", base_number=1, next_due_at=LATER)
        session.add(chain)
        session.flush()
        assert found.freeze.key in chain_facts(session, chain, now=LATER, machine_now=LATER).waived


def test_what_was_about_to_be_moved_is_not(trial: Trial):
    catalog, folder_id, chain_id = lively(trial)
    going = dataclasses.replace(removal(2), files=mark_files(trial.folder / incremental(2)))
    with catalog.write() as session:
        revision = session.get_one(Chain, chain_id).revision
        fence = session.get_one(Chain, chain_id).fence
        [stone] = begin_retirements(session, chain_id, [going], fence=fence, revision=revision, now=NOON)
    mirror_ledger(catalog, folder_id, now=NOON)
    move_aside(Place(trial.folder, stone.token), going.files)  # then all was lost, before this was recorded
    fresh = trial.catalogue()
    trial.adopted(fresh)
    assert (trial.folder / incremental(2)).read_bytes() == incremental(2).encode()
    with fresh.read() as session:
        states = {stone.name: stone.state for stone in session.query(Tombstone)}
    assert states == {
        incremental(1): TombstoneState.RETIRED,
        incremental(2): TombstoneState.BROUGHT_BACK,
    }


def test_a_forged_tombstone_of_a_base_is_not_believed(trial: Trial):
    lively(trial)
    [stone] = read_ledger(trial.folder).state.of(TombstoneEntry)
    forged = dataclasses.replace(stone, name="A-b001.spf", token="20260101-00", root="0" * 64)
    odd = dataclasses.replace(stone, name="notes", token="20260101-01")
    append_entries(trial.folder, [forged, odd], now=NOON)
    fresh = trial.catalogue()
    trial.adopted(fresh)
    with fresh.read() as session:
        assert [stone.name for stone in session.query(Tombstone)] == [incremental(1)]


def test_a_ledger_that_was_lost_is_written_again(trial: Trial):
    catalog, folder_id, _ = lively(trial)
    before = read_ledger(trial.folder).state
    for name in ("ledger", "owner"):
        (trial.folder / ".rollforward" / name).unlink()
    found = adopt_folder(catalog, folder_id, now=LATER)
    assert found is not None
    assert (found.ownership, found.freeze) == (Ownership.NEW, None)
    assert mirror_ledger(catalog, folder_id, now=LATER) is None
    after = read_ledger(trial.folder).state
    known = {(type(entry), entry.key) for entry in after.worth_keeping(LATER)}
    told = [entry for entry in before.worth_keeping(LATER) if not isinstance(entry, SeenEntry)]
    assert {(type(entry), entry.key) for entry in told} <= known
    assert read_owner(trial.folder) is not None


def test_stamps_that_cannot_be_right_are_remembered(trial: Trial):
    catalog, folder_id, _ = lively(trial)
    with catalog.write() as session:
        image = images_in_folder(session, folder_id)[incremental(3)]
        image.first_seen_at = NOON - DAY  # before its point's time
        remember_sights(session, image)
        remember_sights(session, image)
    mirror_ledger(catalog, folder_id, now=NOON)
    sight = SightEntry(POINTS[3].id.hex(), NOON - DAY)
    assert read_ledger(trial.folder).state.of(SightEntry) == [sight]


def test_a_folder_of_nobody_becomes_ours_without_a_freeze(trial: Trial):
    found = trial.adopted(trial.catalogue())
    assert found == Adopted(Ownership.NEW)
    assert become_owner(trial.folder, Owner(trial.uid, "x", NOON)) is Ownership.OURS


def test_a_folder_that_is_no_longer_managed_is_passed_over(trial: Trial):
    assert adopt_folder(trial.catalogue(), 99, now=NOON) is None


def test_states_of_images_are_counted_without_looking_at_them(catalog: Catalog):
    from storage.catalog.status import counts_by_folder, total_counts

    folder_id, _ = put_chain(catalog)
    with catalog.write() as session:
        images_in_folder(session, folder_id)[incremental(1)].state = ImageState.BAD
        images_in_folder(session, folder_id)[incremental(2)].stored_bytes = 90
        session.delete(images_in_folder(session, folder_id)[incremental(3)])
    with catalog.read() as session:
        counts = counts_by_folder(session)[folder_id]
        assert counts == total_counts(session)
        assert {state: (tally.images, tally.stored_bytes) for state, tally in counts.by_state.items()} == {
            ImageState.GOOD: (3, 110),
            ImageState.BAD: (1, 10),
        }
        assert sum(tally.images for tally in counts.by_tier.values()) == session.query(Image).count()
    with catalog.write() as session:
        session.delete(session.get_one(Folder, folder_id))
    with catalog.read() as session:
        assert counts_by_folder(session) == {}
