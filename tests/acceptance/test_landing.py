"""Images that land, many at once and one by one; a share of the processors; at full size."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import Tell
from tests.bed import quick_folder
from tests.checks.landing import burst, make_folders, make_images, one_by_one
from tests.checks.poison import set_aside
from tests.checks.sharing import agent_keeps_within, keeps_within, make_image
from tests.integration.agent_run import AgentRun

pytestmark = pytest.mark.acceptance

IMAGES, FOLDERS = 40, 50
SINGLE = 200
LIMIT_S = 1.0
AS_ALWAYS = {"ROLLFORWARD_TICK_S": "1", "ROLLFORWARD_RESCAN_S": "900", "ROLLFORWARD_HINT_AGAIN_S": "10"}


@pytest.fixture
def place(room: Path, request: pytest.FixtureRequest) -> Path:
    folder = room / request.node.name
    folder.mkdir()
    return folder


def test_a_burst(tell: Tell, place: Path) -> None:
    images, folders = make_images(place, IMAGES), make_folders(place, FOLDERS)
    with AgentRun(place / "agent", AS_ALWAYS, more_folders=folders) as run:
        tell("images landing at once", lambda: burst(run, images, folders, patience_s=600))


def test_one_by_one(tell: Tell, place: Path) -> None:
    images = make_images(place, SINGLE)

    def check() -> str:
        with AgentRun(place / "agent", AS_ALWAYS) as run:
            waits = one_by_one(run, images, run.folder)
        middle, late = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
        assert late < LIMIT_S, f"{late:.2f} s at the 99th percentile"
        return f"from closed to verification begun {middle:.2f} s, at the 99th percentile {late:.2f} s"

    tell("images landing one by one", check)


def test_poison(tell: Tell, place: Path) -> None:
    tell("poison among them", lambda: set_aside(place, images=IMAGES, folders=FOLDERS // 2, poisoned=3))


@pytest.mark.parametrize("percent", [25, 50, 100])
def test_a_share_of_the_processors(tell: Tell, place: Path, percent: int) -> None:
    image = make_image(place)
    tell("verifying within a share", lambda: keeps_within(image, percent, 60))


@pytest.mark.parametrize("percent", [25, 50])
def test_an_agents_share_of_the_processors(tell: Tell, percent: int) -> None:
    """At 100 % nothing holds an agent back; what it then takes depends on how fast its folders are read."""
    with quick_folder() as folder:
        tell("an agent verifying within its share", lambda: agent_keeps_within(folder, percent, 60))
