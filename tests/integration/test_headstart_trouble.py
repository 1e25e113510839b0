"""HeadStart disks in trouble: no room, stopped in the middle, a wrong password, a strange disk in the way."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import actors.headstart
from actors.at_work import AtWork
from actors.headstart import roll_disk
from hsr.disks.medium import LocalMedium
from ops.notify.troubles import find_troubles
from ops.observe.metrics import _disk_metrics
from policies.attempts import FIRST_WAIT
from policies.errors import RestoreError
from policies.headstart import DiskState
from policies.notices import Trouble, TroubleKind
from storage.catalog import Catalog, EventKind
from storage.catalog.claims import stored_claims
from storage.catalog.headstart import disks_of_job, find_job
from storage.catalog.headstart_models import JobState
from tests.household import Household
from tests.postgres import postgres_server, server_program
from tests.standby import StandBy

MORNING = datetime(2026, 3, 2, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[StandBy]:
    home = Household(tmp_path / "home", MORNING)
    yield StandBy(tmp_path, home)
    home.catalog.close()


def begun(standby: StandBy) -> StandBy:
    standby.capture()
    standby.add_job()
    standby.home.settle()
    return standby


def test_a_disk_without_room_is_tried_again_for_as_long_as_it_takes(
    standby: StandBy, monkeypatch: pytest.MonkeyPatch
):
    home = begun(standby).home
    with monkeypatch.context() as patched:
        patched.setattr(actors.headstart, "bring_to_goal", _no_room)
        home.now += HOUR
        standby.capture()
        for _ in range(5):
            home.settle()
            row = standby.row()
            assert row.state is DiskState.STOPPED
            assert "No space left" in row.reason
            home.now += 2 * HOUR
    assert standby.stands_at().number == 0
    assert standby.is_exact()
    home.now += HOUR
    home.settle()
    assert standby.stands_at().number == 1
    assert standby.is_exact()
    assert not home.events(EventKind.QUARANTINED)


def _no_room(*_: object) -> None:
    raise RestoreError("No space left on device", path="/disks/V.vhd")


def test_a_medium_that_fills_up_in_the_middle_leaves_a_disk_that_goes_on(
    standby: StandBy, monkeypatch: pytest.MonkeyPatch
):
    home = begun(standby).home
    left = 3

    real = LocalMedium.sync_folder

    def fill_up(self: LocalMedium, path: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise RestoreError(f"cannot be written: {errno.ENOSPC}", path=str(path))
        real(self, path)

    for allowed in range(3):
        left = allowed
        home.now += HOUR
        standby.capture()
        with monkeypatch.context() as patched:
            patched.setattr(LocalMedium, "sync_folder", fill_up)
            home.settle()
        home.now += FIRST_WAIT * 100
        home.settle()
        assert standby.stands_at().number == len(standby.truth) - 1
        assert standby.is_exact()


def test_a_job_that_is_paused_in_the_middle_stops_there_and_goes_on(
    standby: StandBy, monkeypatch: pytest.MonkeyPatch
):
    """What was claimed for the disk as it may be left stays claimed."""
    home = begun(standby).home
    home.now += HOUR
    standby.capture()
    real = actors.headstart.bring_to_goal

    def paused_in_the_middle(*given: object) -> object:
        standby.set_state(JobState.PAUSED)
        return real(*given[:4], lambda: True)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(actors.headstart, "bring_to_goal", paused_in_the_middle)
        home.settle()
    assert standby.row().state is DiskState.PAUSED
    with home.catalog.read() as session:
        claims = [claim for claim in stored_claims(session) if claim.key.startswith("hsr:")]
        assert len(claims) == 1
        assert not [claim for claim in stored_claims(session) if claim.holder is not None]
    standby.set_state(JobState.ENABLED)
    home.plan_anew()
    home.settle()
    assert standby.stands_at().number == 1
    assert standby.is_exact()
    assert not home.events(EventKind.FAILED)


def test_a_strange_file_in_the_way_is_never_written_to(standby: StandBy):
    standby.capture()
    standby.add_job()
    strange = standby.disks / "stand-by.vhd"
    strange.write_bytes(b"somebody's disk")
    standby.home.settle()
    assert standby.row().state is DiskState.STOPPED
    assert "is no disk that is rolled forward" in standby.row().reason
    assert strange.read_bytes() == b"somebody's disk"


def test_the_disk_of_another_job_is_left_alone(standby: StandBy):
    home = begun(standby).home
    standby.add_job(name="other")
    with home.catalog.write() as session:
        job = find_job(session, "other")
        assert job is not None
        disks_of_job(session, job.id)[0].file_name = "stand-by.vhd"
    home.settle()
    home.now += HOUR
    standby.capture()
    home.settle()
    with home.catalog.read() as session:
        job = find_job(session, "other")
        assert job is not None
        other = disks_of_job(session, job.id)[0]
        assert other.state is DiskState.STOPPED
        assert "belongs to another job" in other.reason


def test_a_folder_that_is_lost_stops_the_disk_and_it_goes_on(standby: StandBy):
    home = begun(standby).home
    away = home.folder.with_name("away")
    home.folder.rename(away)
    home.now += HOUR
    home.scan()
    home.plan_anew()
    for disk_id in home.disks_due():
        roll_disk(home.context, home.inbox, disk_id)
    assert standby.row().state is DiskState.STOPPED
    assert str(home.folder) in standby.row().reason
    away.rename(home.folder)
    home.now += HOUR
    standby.capture()
    home.settle()
    home.now += HOUR
    home.settle()
    assert standby.stands_at().number == 1
    assert standby.is_exact()


def test_workers_that_begin_together_do_each_step_once(standby: StandBy):
    home = begun(standby).home
    for _ in range(4):
        home.now += HOUR
        standby.capture()
    home.scan()
    home.drain()
    disk_id = standby.row().id
    catalogs = [Catalog(home.catalog.url) for _ in range(4)]
    together = threading.Barrier(len(catalogs))

    def work(catalog: Catalog) -> None:
        together.wait()
        roll_disk(replace(home.context, catalog=catalog, at_work=AtWork()), home.inbox, disk_id)

    threads = [threading.Thread(target=work, args=(catalog,)) for catalog in catalogs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for catalog in catalogs:
        catalog.close()
    home.settle()
    assert standby.stands_at().number == 4
    assert standby.is_exact()
    told = [event.text for event in home.events(EventKind.ROLLED_ON)]
    assert len(told) == len(set(told)) == 5
    assert not home.events(EventKind.FAILED)


def test_a_disk_that_stops_or_falls_behind_is_told_of(standby: StandBy):
    home = begun(standby).home
    assert not _told(standby)
    home.now += HOUR
    image = standby.capture()
    good = image.read_bytes()
    image.write_bytes(good[:-100] + bytes(100))
    home.settle()
    [trouble] = _told(standby)
    assert "stopped" in trouble.reason
    assert trouble.subject == "V, HeadStart job stand-by"
    home.now += timedelta(days=2)
    [trouble] = _told(standby)
    assert "2 days behind" in trouble.reason
    with home.catalog.read() as session:
        text = "\n".join(
            str(sample) for metric in _disk_metrics(session, home.now) for sample in metric.samples
        )
    assert "172800.0" in text
    image.write_bytes(good)
    home.settle()
    assert not _told(standby)
    assert standby.is_exact()


def _told(standby: StandBy) -> list[Trouble]:
    with standby.home.catalog.read() as session:
        found = find_troubles(session, standby.home.now, {}, ()).troubles
    return [trouble for trouble in found if trouble.kind is TroubleKind.STANDBY]


def test_workers_on_a_database_server_do_each_step_once_too(tmp_path: Path):
    if server_program("postgres") is None:
        pytest.skip("needs the PostgreSQL server: Debian's package postgresql")
    with postgres_server() as server:
        home = Household(tmp_path / "home", MORNING, url=server.new_url(prepared=False))
        test_workers_that_begin_together_do_each_step_once(StandBy(tmp_path, home))
        home.catalog.close()
