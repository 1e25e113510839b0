"""Spanned sets that land: one image each, judged when all of its parts are there, rolled up in parts."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hsr.restore import restore
from storage.capture import capture
from storage.catalog import EventKind, ImageState
from storage.partial_set import PartialSet
from storage.parts import image_files, part_path, stored_bytes_of
from storage.publish import PARTIAL_SUFFIX
from storage.verify import verify_image
from tests.bed import quick_folder
from tests.checks.fortnight import FIRST, midnight_after
from tests.commands import sha256_of
from tests.household import Household, Source
from tests.integration.agent_run import AgentRun, wait_for
from tests.integration.conftest import VOLUME, Stock, make_stock

PART_BYTES = 40_000
BERLIN_MIDNIGHT = datetime(2026, 3, 2, 23, tzinfo=UTC)
DAILY = f"{VOLUME}-b001-i003-cd.spi"


@pytest.fixture(scope="module")
def spanned_stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """Every image of it is in parts."""
    work_dir = tmp_path_factory.mktemp("spanned")
    images = work_dir / "images"
    images.mkdir()
    return make_stock(work_dir / "volume.raw", images, volume_bytes=1 << 20, seed=2, part_bytes=PART_BYTES)


def land(agent: AgentRun, image: Path, *numbers: int) -> None:
    """Copy some parts of an image, or all of them."""
    for path in [part_path(image, number) for number in numbers] or image_files(image):
        shutil.copyfile(path, agent.folder / path.name)


def test_a_set_is_taken_when_its_last_part_is_there(patient_agent: AgentRun, spanned_stock: Stock):
    agent = patient_agent
    base = spanned_stock.images[0]
    last = len(image_files(base)) - 1
    assert last > 3
    landing = [(last,), (2,), (0,), *((number,) for number in range(3, last)), (1,)]
    for numbers in landing:
        assert base.name not in agent.states() or agent.states()[base.name] is ImageState.SETTLING
        land(agent, base, *numbers)
        there = sum(path.stat().st_size for path in agent.folder.glob(f"{VOLUME}*"))
        wait_for(
            lambda there=there: (
                agent.images().get(base.name) and agent.images()[base.name].stored_bytes == there
            ),
            f"a scan that sees {there} bytes",
        )
    agent.wait_good(base.name)
    assert not agent.events(EventKind.FOUND_BAD)
    assert len(agent.events(EventKind.LANDED)) == 1
    assert agent.images().keys() == {base.name}
    image = agent.images()[base.name]
    assert (image.stored_bytes, image.root) == (stored_bytes_of(base), verify_image(base).root)


def test_sets_are_rolled_up_into_a_set(agent: AgentRun, spanned_stock: Stock, tmp_path: Path):
    for image in spanned_stock.images[:4]:
        land(agent, image)
    agent.wait_good(*spanned_stock.names[:4])
    agent.clock.set(BERLIN_MIDNIGHT)
    agent.wait_good(DAILY)
    files = image_files(agent.folder / DAILY)
    assert [path.stat().st_size for path in files[:-1]] == [PART_BYTES] * (len(files) - 1) != []
    assert agent.images()[DAILY].stored_bytes == stored_bytes_of(files[0])
    target = tmp_path / "restored.raw"
    restore([agent.folder / spanned_stock.names[0], files[0]], target)
    assert sha256_of(target) == spanned_stock.digests[3]
    assert not list(agent.folder.glob(f".*{PARTIAL_SUFFIX}"))
    wait_for(lambda: not agent.attempts(), "all work to end")


def test_parts_that_change_or_go_are_noticed_and_named(agent: AgentRun, spanned_stock: Stock):
    base, first = spanned_stock.images[:2]
    land(agent, base)
    land(agent, first)
    agent.wait_good(base.name, first.name)
    one, other = (part_path(agent.folder / base.name, number) for number in (1, 2))
    kept = agent.folder / "kept"
    one.rename(kept)
    other.rename(one)
    kept.rename(other)
    wait_for(lambda: agent.states()[base.name] is ImageState.BAD, "the swapped set to be bad")
    assert other.name in (agent.images()[base.name].reason or "") or one.name in (
        agent.images()[base.name].reason or ""
    )
    (agent.folder / first.name).unlink()
    wait_for(lambda: agent.states()[first.name] is ImageState.BAD, "the set without its first part to be bad")
    assert "first part is missing" in (agent.images()[first.name].reason or "")
    for path in agent.folder.glob(f"{VOLUME}-b001-i001*"):
        path.unlink()
    wait_for(lambda: agent.states()[first.name] is ImageState.MISSING, "the set to be gone")
    land(agent, first)
    agent.wait_good(first.name)


def test_a_set_whose_writer_was_killed_after_it_was_there_is_taken_in(monkeypatch: pytest.MonkeyPatch):
    """Its parts have two names each then, until the next writer in the folder sweeps."""
    with quick_folder() as place:
        house, source = Household(place, FIRST), Source(place / "volume.raw", 1 << 20)
        for hours in (0, 1, 2):
            source.change()
            if hours == 2:
                monkeypatch.setattr(PartialSet, "_remove_partial_names", lambda _: None)
            made = capture(
                source.path, house.folder, "V", now=FIRST + timedelta(hours=hours), part_bytes=1 << 16
            )
        monkeypatch.undo()
        assert len(image_files(made.path)) > 2
        assert len(list(house.folder.glob(f".*{PARTIAL_SUFFIX}"))) == len(image_files(made.path)) - 1
        house.now = FIRST + timedelta(hours=3)
        house.settle()
        assert house.images()[made.path.name].stored_bytes == stored_bytes_of(made.path)
        house.now = midnight_after(FIRST)
        house.settle()
        assert set(house.states().values()) == {ImageState.GOOD}
        assert "V-b001-i002-cd.spi" in house.states()
        assert not list(house.folder.glob(f".*{PARTIAL_SUFFIX}"))
        house.catalog.close()
