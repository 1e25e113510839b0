"""Locations, HeadStart jobs and disks in the catalogue, in either kind of database."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from policies.cursor import Cursor
from policies.errors import ConfigurationError
from policies.headstart import DiskState
from policies.holdings import Claim
from policies.restore_tests import Verdict
from storage.catalog import Catalog, Chain, Folder, Image
from storage.catalog.chains import make_due, make_folder_due
from storage.catalog.claims import place_claim, stored_claims
from storage.catalog.clock_changes import pull_back
from storage.catalog.headstart import (
    JobTraits,
    add_job,
    all_have_claimed,
    all_jobs,
    claim_key,
    cursor_of,
    disks_due,
    disks_of_job,
    find_job,
    jobs_of_folder,
    lock_disk,
    needed_by,
    remove_job,
    reporter_name,
    set_cursor,
)
from storage.catalog.headstart_models import HeadStartDisk, HeadStartJob, Location, LocationKind, PointTest
from storage.catalog.locations import disk_path, find_location, jobs_at, remove_location
from storage.catalog.memory_models import Reporter
from tests.unit.shelf import DAY, MINUTE, NOON, POINTS, incremental, put_chain

TRAITS = JobTraits("stand-by", "disks", "vhd", "none", 3600)


def put_job(catalog: Catalog, folder_id: int, volumes: tuple[str, ...] = ("A",)) -> int:
    with catalog.write() as session:
        location = Location(name="here", kind=LocationKind.LOCAL, path="/srv", address="")
        session.add(location)
        session.flush()
        folder = session.get_one(Folder, folder_id)
        disks = [(volume, f"{volume}.vhd") for volume in volumes]
        return add_job(session, folder, location, TRAITS, disks, now=NOON).id


def rest(catalog: Catalog, chain_id: int | None, volume: str = "A") -> int:
    """Say that nothing is due for a disk until tomorrow."""
    with catalog.write() as session:
        job = session.get_one(HeadStartJob, 1)
        disk = next(one for one in disks_of_job(session, job.id) if one.volume == volume)
        disk.chain_id, disk.next_due_at = chain_id, NOON + DAY
        return disk.id


def test_a_job_is_found_by_name_folder_and_location(catalog: Catalog):
    folder_id, _ = put_chain(catalog)
    put_job(catalog, folder_id, ("B", "A"))
    with catalog.read() as session:
        job = find_job(session, "stand-by")
        assert job is not None
        location = find_location(session, "here")
        assert location is not None
        assert [one.id for one in jobs_of_folder(session, folder_id)] == [job.id]
        assert [one.id for one in jobs_at(session, location.id)] == [job.id]
        disks = disks_of_job(session, job.id)
        assert [disk.volume for disk in disks] == ["A", "B"]
        assert str(disk_path(location, job, disks[0])) == "/srv/disks/A.vhd"
        assert session.get(Reporter, (folder_id, reporter_name(job))) is not None
        assert len(job.uid) == 32


def test_a_location_in_use_is_not_removed_and_the_job_is_named(catalog: Catalog):
    folder_id, _ = put_chain(catalog)
    put_job(catalog, folder_id)
    with catalog.write() as session:
        location = find_location(session, "here")
        assert location is not None
        with pytest.raises(ConfigurationError, match="used by job 'stand-by'"):
            remove_location(session, location)
        remove_job(session, all_jobs(session)[0], now=NOON)
        remove_location(session, location)
    with catalog.read() as session:
        assert find_location(session, "here") is None


def test_whatever_happens_to_a_chain_has_its_disks_looked_at(catalog: Catalog):
    folder_id, chain_id = put_chain(catalog)
    put_job(catalog, folder_id, ("A", "B"))
    mine, other = rest(catalog, chain_id), rest(catalog, None, "B")
    with catalog.read() as session:
        assert disks_due(session, NOON) == []
    with catalog.write() as session:
        make_due(session, chain_id, NOON)
    with catalog.read() as session:
        assert disks_due(session, NOON) == [mine]
    with catalog.write() as session:
        make_folder_due(session, folder_id)
    with catalog.read() as session:
        assert set(disks_due(session, NOON)) == {mine, other}


def test_a_disk_that_waits_for_its_chain_is_looked_at_when_that_comes(catalog: Catalog):
    folder_id, chain_id = put_chain(catalog)
    put_job(catalog, folder_id)
    disk_id = rest(catalog, None)
    with catalog.write() as session:
        make_due(session, chain_id, NOON)
    with catalog.read() as session:
        assert disks_due(session, NOON) == [disk_id]
        assert disks_due(session, NOON - MINUTE) == []


def test_what_a_job_needs_ends_with_it_and_with_nothing_else(catalog: Catalog):
    folder_id, chain_id = put_chain(catalog)
    job_id = put_job(catalog, folder_id)
    disk_id = rest(catalog, chain_id)
    standing = Cursor(tuple(POINTS[1:3]))
    with catalog.write() as session:
        disk, job = lock_disk(session, disk_id), session.get_one(HeadStartJob, job_id)
        assert disk is not None
        disk.is_begun = True
        set_cursor(disk, standing)
        assert not all_have_claimed(session, job)
        claim = Claim(needed_by(job, disk), NOON, target=POINTS[2], standing=standing)
        assert not place_claim(session, chain_id, claim_key(job, disk), claim, now=NOON)
        assert all_have_claimed(session, job)
    with catalog.read() as session:
        assert [claim.holder for claim in stored_claims(session)] == [None]
        assert cursor_of(disks_of_job(session, job_id)[0]) == standing
    with catalog.write() as session:
        remove_job(session, session.get_one(HeadStartJob, job_id), now=NOON + DAY)
    with catalog.read() as session:
        assert not stored_claims(session)
        assert lock_disk(session, disk_id) is None


def test_a_finalized_disk_is_never_due(catalog: Catalog):
    folder_id, chain_id = put_chain(catalog)
    put_job(catalog, folder_id)
    rest(catalog, chain_id)
    with catalog.write() as session:
        disks_of_job(session, 1)[0].state = DiskState.FINALIZED
    with catalog.read() as session:
        assert disks_due(session, NOON + timedelta(days=9)) == []


def test_numbers_of_jobs_and_disks_are_used_once(catalog: Catalog):
    """Whoever is at a disk that was deleted must not take another for it."""
    folder_id, _ = put_chain(catalog)
    put_job(catalog, folder_id)
    used = []
    for turn in range(2):
        with catalog.write() as session:
            [job] = all_jobs(session)
            used.append((job.id, disks_of_job(session, job.id)[0].id))
            if turn == 0:
                folder, location = session.get_one(Folder, folder_id), find_location(session, "here")
                remove_job(session, job, now=NOON)
                add_job(session, folder, location, TRAITS, [("A", "A.vhd")], now=NOON)
    assert used[1][0] > used[0][0]
    assert used[1][1] > used[0][1]


def test_after_a_clock_that_was_ahead_nothing_was_seen_tested_or_is_due_far_ahead(catalog: Catalog):
    folder_id, chain_id = put_chain(catalog)
    put_job(catalog, folder_id)
    disk_id = rest(catalog, chain_id)
    later = NOON + 300 * DAY
    with catalog.write() as session:
        image = session.scalars(select(Image).where(Image.name == incremental(3))).one()
        image.first_seen_at = later
        session.add(
            PointTest(
                folder_id=folder_id,
                job_uid="a job",
                volume="A",
                base_number=1,
                point="00",
                number=1,
                tested_at=later,
                seconds=1.0,
                verdict=Verdict.GOOD,
                words="",
                facts={},
            )
        )
        disk = session.get_one(HeadStartDisk, disk_id)
        disk.next_due_at = disk.next_test_at = later
        chain = session.get_one(Chain, chain_id)
        chain.next_due_at, revision = NOON + DAY, chain.revision
    with catalog.write() as session:
        pull_back(session, now=NOON + DAY, machine_now=NOON + DAY, lease_time=MINUTE)
    with catalog.read() as session:
        assert set(session.scalars(select(Image.first_seen_at))) == {NOON, NOON + DAY}
        assert session.scalars(select(PointTest.tested_at)).one() == NOON + DAY
        disk = session.get_one(HeadStartDisk, disk_id)
        assert (disk.next_due_at, disk.next_test_at) == (NOON + DAY, NOON + DAY)
        chain = session.get_one(Chain, chain_id)
        assert (chain.next_due_at, chain.revision) == (NOON + DAY, revision + 1)
