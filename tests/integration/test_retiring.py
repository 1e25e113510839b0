"""The whole way of images out of a folder, on real files: rolled up, retired, deleted; and all that may go wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hsr.restore import restore
from policies.errors import OwnershipError
from policies.freezing import Freeze, FreezeKind
from policies.holdings import Hold
from storage.catalog import Chain, EventKind, Folder, ImageState, TombstoneState
from storage.catalog.chains import make_folder_due, start_work
from storage.catalog.folders import set_folder_settings
from storage.catalog.freezes import freeze_folder, unfreeze_folder
from storage.catalog.holds import place_hold
from storage.catalog.ledger_lines import waiting_lines
from tests.bed import quick_folder
from tests.commands import sha256_of
from tests.household import Household, Source
from tests.stopping import Stopped, stopped_at

FIRST = datetime(2026, 3, 2, 7, tzinfo=UTC)  # a Monday
DAY = timedelta(days=1)
DAILY = "V-b001-i002-cd.spi"
INCREMENTALS = {"V-b001-i001.spi", "V-b001-i002.spi"}
AGED = FIRST + 9 * DAY


@pytest.fixture(scope="module")
def stock() -> Iterator[Path]:
    """A base, two incrementals of its day, and one of the next."""
    with quick_folder() as folder:
        source = Source(folder / "volume.raw", 2 << 20)
        images = folder / "images"
        images.mkdir()
        for hours in (0, 1, 2, 25):
            source.capture_into(images, FIRST + timedelta(hours=hours))
        yield images


@pytest.fixture
def house(stock: Path) -> Iterator[Household]:
    with quick_folder() as place:
        yield prepare(place, stock)


def prepare(place: Path, stock: Path) -> Household:
    """A folder whose first day is rolled up and verified."""
    shutil.rmtree(place, ignore_errors=True)
    house = Household(place, FIRST + timedelta(hours=26))
    for path in sorted(stock.iterdir()):
        if path.is_file():
            shutil.copy2(path, house.folder)
    house.settle()
    house.now = FIRST + 2 * DAY
    house.settle()
    assert house.states()[DAILY] is ImageState.GOOD
    assert house.files() >= INCREMENTALS
    return house


def test_incrementals_retire_are_kept_a_day_and_go(house: Household):
    house.now = AGED
    house.settle()
    assert not house.files() & INCREMENTALS
    assert house.retired() >= INCREMENTALS
    assert {house.stones()[name].state for name in INCREMENTALS} == {TombstoneState.RETIRED}
    assert not INCREMENTALS & set(house.states())
    house.now += timedelta(hours=23)
    house.settle()
    assert house.retired() >= INCREMENTALS
    house.now += timedelta(hours=2)
    house.settle()
    assert not house.retired()
    assert {house.stones()[name].state for name in INCREMENTALS} == {TombstoneState.DELETED}
    with house.catalog.read() as session:
        assert not waiting_lines(session, house.folder_id)
    assert not house.events(EventKind.FAILED)
    target = house.place / "restored.raw"
    restore([house.folder / "V-b001.spf", house.folder / DAILY], target)
    assert sha256_of(target)


def test_a_second_run_changes_nothing(house: Household):
    house.now = AGED
    house.settle()
    before, events = house.files(), len(house.last_events())
    with house.catalog.write() as session:
        make_folder_due(session, None)
    house.settle()
    assert house.files() == before
    assert len(house.last_events()) == events


def test_stopped_at_every_step_it_ends_the_same(stock: Path, monkeypatch: pytest.MonkeyPatch):
    with quick_folder() as bed:
        step = 0
        while True:
            house = prepare(bed / "house", stock)
            house.now = AGED
            house.scan()
            with stopped_at(step, monkeypatch):
                try:
                    house.settle()
                except Stopped:
                    is_whole = False
                else:
                    is_whole = True
            house.reopen()
            house.now += timedelta(minutes=30)
            house.settle()
            assert not house.files() & INCREMENTALS, f"step {step}"
            assert house.retired() >= INCREMENTALS, f"step {step}"
            assert {house.stones()[name].state for name in INCREMENTALS} == {TombstoneState.RETIRED}
            house.catalog.close()
            if is_whole:
                break
            step += 7
        assert step > 20


def test_without_its_catalogue_it_deletes_nothing_until_a_person_says_so(house: Household):
    with house.catalog.write() as session:
        place_hold(session, 1, Hold("the audit", "ann", house.now, name="V-b001-i001.spi"))
    house.settle()
    house.now = AGED
    house.settle()
    assert house.files() & INCREMENTALS == {"V-b001-i001.spi"}
    house.lose_catalogue()
    house.now += 3 * DAY
    house.settle()
    assert house.retired() >= {"V-b001-i002.spi"}  # frozen, though its grace has ended
    assert house.stones()["V-b001-i002.spi"].state is TombstoneState.RETIRED
    with house.catalog.write() as session:
        unfreeze_folder(session, house.folder_id, "ann", now=house.now)
    house.settle()
    assert not house.retired()
    assert house.files() & INCREMENTALS == {"V-b001-i001.spi"}  # the hold is in force


def test_a_frozen_folder_keeps_everything(house: Household):
    with house.catalog.write() as session:
        freeze = Freeze(FreezeKind.PERSON, "person", house.now, "an audit", "once ann says so")
        freeze_folder(session, house.folder_id, freeze)
    house.now = AGED
    house.settle()
    assert house.files() >= INCREMENTALS
    with house.catalog.write() as session:
        unfreeze_folder(session, house.folder_id, "ann", now=house.now)
    house.settle()
    assert not house.files() & INCREMENTALS


def test_what_was_retired_and_copied_back_is_not_taken_for_new(house: Household, stock: Path):
    house.now = AGED
    house.settle()
    shutil.copy2(stock / "V-b001-i001.spi", house.folder)
    house.settle()
    assert house.states()["V-b001-i001.spi"] is ImageState.ASIDE
    assert len(house.events(EventKind.CAME_BACK)) == 1
    house.now += 3 * DAY
    house.settle()
    assert "V-b001-i001.spi" in house.files()
    (house.folder / "V-b001-i001.spi").unlink()
    house.settle()
    assert "V-b001-i001.spi" not in house.states()


def test_what_lies_in_its_grace_comes_back_if_its_cover_is_lost(house: Household):
    house.now = AGED
    house.settle()
    path = house.folder / DAILY
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    house.now += timedelta(hours=1)
    house.settle()
    assert house.files() >= INCREMENTALS
    assert house.states()[DAILY] is ImageState.BAD
    assert {house.states()[name] for name in INCREMENTALS} == {ImageState.GOOD}


def test_a_foreign_file_under_the_name_is_left_alone(house: Household):
    house.now = AGED
    path = house.folder / "V-b001-i001.spi"
    content = bytes(10)
    path.unlink()
    path.write_bytes(content)
    house.settle()
    assert path.read_bytes() == content
    assert "V-b001-i002.spi" not in house.files()


def test_moved_to_incrementals_it_stays_there(house: Household):
    with house.catalog.write() as session:
        folder = session.get_one(Folder, house.folder_id)
        set_folder_settings(session, folder, {"retention": {"move_to_incrementals": True}})
    house.now = AGED
    house.settle()
    house.now += 9 * DAY
    house.settle()
    assert {path.name for path in (house.folder / "Incrementals").iterdir()} >= INCREMENTALS
    assert not house.retired()


def test_another_catalogues_agent_is_refused(house: Household):
    before = house.files()
    other = Household(house.place, AGED, uid="b" * 32, name="other")
    other.scan()
    with other.catalog.read() as session:
        folder = session.get_one(Folder, other.folder_id)
        assert folder.problem is not None
        assert "another agent" in folder.problem
        assert folder.ledger_read_at is None
    assert not other.images()
    assert house.files() == before
    assert OwnershipError.exit_code


def test_images_are_verified_again_within_the_period(house: Household):
    begun = house.now
    for _ in range(8):
        house.now += DAY
        house.settle()
    base = house.images()["V-b001.spf"]
    assert base.checked_at is not None
    assert base.checked_at > begun
    assert base.verified_at is not None
    assert base.verified_at < begun
    assert len(house.events(EventKind.VERIFIED, "V-b001.spf")) == 1
    assert house.events(EventKind.VERIFIED_AGAIN, "V-b001.spf")


def test_started_by_hand_it_looks_at_the_world_as_it_is(house: Household):
    with house.catalog.write() as session:
        start_work(session, None, house.now)
    house.settle()
    with house.catalog.read() as session:
        assert session.get_one(Chain, 1).started_at is None
