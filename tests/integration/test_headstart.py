"""HeadStart jobs in an agent without processes: real images, a real catalogue, real disks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from policies.headstart import DiskState
from storage.catalog import EventKind, ImageState
from storage.catalog.headstart_models import JobState
from tests.household import Household
from tests.standby import StandBy

MORNING = datetime(2026, 3, 2, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[StandBy]:
    home = Household(tmp_path / "home", MORNING)
    yield StandBy(tmp_path, home)
    home.catalog.close()


def test_a_disk_follows_its_volume_point_by_point(standby: StandBy):
    home = standby.home
    standby.capture()
    standby.add_job()
    home.settle()
    assert standby.row().state is DiskState.UP_TO_DATE
    assert standby.is_exact()
    for number in range(1, 4):
        home.now += HOUR
        standby.capture()
        home.settle()
        assert standby.stands_at().number == number
        assert standby.is_exact()
    told = [event.text for event in home.events(EventKind.ROLLED_ON)]
    assert [text.split(",")[0] for text in told] == [
        "built at point 0",
        "rolled on to point 1",
        "rolled on to point 2",
        "rolled on to point 3",
    ]
    assert not home.events(EventKind.FAILED)


def test_a_point_is_applied_once_its_lag_has_passed_and_not_before(standby: StandBy):
    home = standby.home
    standby.add_job(lag=3 * HOUR)
    assert standby.row().state is DiskState.EMPTY
    standby.capture()
    home.settle()
    assert standby.stands_at().number == 0
    assert standby.row().state is DiskState.UP_TO_DATE
    home.now += HOUR
    landed = home.now
    standby.capture()
    home.settle()
    assert standby.stands_at().number == 0
    assert standby.row().state is DiskState.WAITING
    assert standby.row().next_due_at == landed + 3 * HOUR
    home.now = landed + 3 * HOUR - timedelta(seconds=1)
    home.settle()
    assert standby.stands_at().number == 0
    home.now = landed + 3 * HOUR
    home.settle()
    assert standby.stands_at().number == 1
    assert standby.is_exact()


def test_a_bad_image_stops_the_disk_until_it_is_repaired(standby: StandBy):
    home = standby.home
    standby.capture()
    standby.add_job()
    home.settle()
    home.now += HOUR
    image = standby.capture()
    home.now += HOUR
    standby.capture()
    good = image.read_bytes()
    spoiled = bytearray(good)
    spoiled[len(good) // 2] ^= 1
    image.write_bytes(spoiled)
    home.settle()
    assert standby.stands_at().number == 0
    row = standby.row()
    assert row.state is DiskState.STOPPED
    assert f"{image.name} is bad" in row.reason
    assert row.due_since is not None
    image.write_bytes(good)
    home.settle()
    assert standby.stands_at().number == 2
    assert standby.is_exact()
    assert standby.row().state is DiskState.UP_TO_DATE
    assert standby.row().due_since is None


def test_a_paused_job_rests_and_catches_up(standby: StandBy):
    home = standby.home
    standby.capture()
    standby.add_job()
    home.settle()
    standby.set_state(JobState.PAUSED)
    for _ in range(3):
        home.now += HOUR
        standby.capture()
        home.settle()
    assert standby.stands_at().number == 0
    standby.set_state(JobState.ENABLED)
    home.settle()
    assert standby.stands_at().number == 3
    assert standby.is_exact()


def test_a_disk_rolls_on_over_what_was_rolled_up_and_retired(standby: StandBy):
    """It rests at point 2 for weeks: what was rolled up in the meantime brings it on, and it is never begun anew."""
    home = standby.home
    standby.capture()
    standby.add_job()
    home.settle()
    for _ in range(2):
        home.now += HOUR
        standby.capture()
    home.settle()
    standby.set_state(JobState.PAUSED)
    for _ in range(16):
        for _ in range(2):
            home.now += 6 * HOUR
            standby.capture()
        home.now = home.now.replace(hour=6) + timedelta(days=1)
        home.settle()
    assert standby.stands_at().number == 2
    retired = {name for name, stone in home.stones().items()}
    assert any("i003" in name for name in retired)
    standby.set_state(JobState.ENABLED)
    home.settle()
    assert standby.row().state is DiskState.UP_TO_DATE
    assert standby.stands_at().number == len(standby.truth) - 1
    assert standby.is_exact()
    built = [event for event in home.events(EventKind.ROLLED_ON) if "built" in event.text]
    assert len(built) == 1


def test_a_location_that_is_lost_is_said_and_found_again(standby: StandBy):
    home = standby.home
    standby.capture()
    standby.add_job()
    home.settle()
    away = standby.disks.with_name("elsewhere")
    standby.disks.rename(away)
    home.now += HOUR
    standby.capture()
    home.settle()
    assert standby.row().state is DiskState.STOPPED
    assert "location 'here'" in standby.row().reason
    assert home.states()[standby.source_name(1)] is ImageState.GOOD
    away.rename(standby.disks)
    home.now += 2 * timedelta(minutes=1)
    home.settle()
    assert standby.stands_at().number == 1
    assert standby.is_exact()


def test_a_disk_that_is_gone_is_not_made_anew(standby: StandBy):
    home = standby.home
    standby.capture()
    standby.add_job()
    home.settle()
    for path in [standby.path(), *(standby.disks / ".rollforward-hsr").iterdir()]:
        path.unlink()
    home.now += HOUR
    standby.capture()
    home.settle()
    assert standby.row().state is DiskState.STOPPED
    assert "is not there" in standby.row().reason
    assert not standby.path().exists()
