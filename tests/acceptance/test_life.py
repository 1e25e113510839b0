"""The life of a chain under real agents: two weeks on real bytes, and parts killed at random moments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Tell
from tests.bed import quick_folder
from tests.checks.agent_house import AgentHouse
from tests.checks.chaos import survive_kills
from tests.checks.fortnight import FIRST, live_a_fortnight
from tests.checks.lost_catalogue import survive_loss
from tests.integration.agent_run import AgentRun

pytestmark = pytest.mark.acceptance

VOLUME_BYTES = 64 << 20


@pytest.fixture
def place() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


def test_two_weeks_on_real_bytes(tell: Tell, place: Path) -> None:
    run = AgentRun(place / "run")
    run.clock.set(FIRST)
    with run:
        house = AgentHouse(run)
        tell(
            "two simulated weeks",
            lambda: live_a_fortnight(house, place, volume_bytes=VOLUME_BYTES, per_day=8),
        )


def test_kills_at_random_moments(tell: Tell, place: Path) -> None:
    tell("agent, worker and Redis killed", lambda: survive_kills(place, kills=200, days=14, per_day=4))


def test_the_catalogue_deleted_in_mid_life(tell: Tell, place: Path) -> None:
    run = AgentRun(place / "run")
    run.clock.set(FIRST)
    with run:
        house = AgentHouse(run)
        tell(
            "the catalogue deleted in mid-life",
            lambda: survive_loss(house, place, volume_bytes=VOLUME_BYTES // 4, per_day=8),
        )
