"""How 10,000 folders with 1,000 images each stand, and what of them is due, told in a moment."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.checks.standing import fill_catalogue, scrape, tell_standing
from tests.checks.ticking import tick_over
from watcher.pacing import Pacer

FOLDERS, IMAGES = 10_000, 1_000


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("standing") / "state"
    fill_catalogue(folder, FOLDERS, IMAGES)
    return folder


@pytest.mark.acceptance
def test_a_tick_with_100_chains_due(state: Path):
    ticked = tick_over(state, Pacer(timedelta(seconds=10)))
    print(
        f"\na tick over {FOLDERS * IMAGES:,} images with {ticked.named} chains due: {ticked.tick_s:.3f} s;"
        f" removals {ticked.removals_s:.3f} s"
    )
    assert ticked.named == 100
    assert ticked.tick_s + ticked.removals_s < 1


@pytest.mark.acceptance
def test_status_of_ten_million_images(state: Path):
    told = tell_standing(state)
    print(
        f"\nstatus of {FOLDERS * IMAGES:,} images in {FOLDERS:,} folders: the whole command {told.asked_s:.2f} s,"
        f" without an agent {told.read_s:.2f} s; gathered and drawn in {told.gather_s:.3f} s"
    )
    assert len(told.values["folders"]) == FOLDERS  # type: ignore[arg-type]
    assert told.asked_s < 0.5


@pytest.mark.acceptance
def test_metrics_of_ten_million_images(state: Path):
    scraped = scrape(state)
    print(
        f"\nmetrics of {FOLDERS * IMAGES:,} images in {FOLDERS:,} folders: {len(scraped.samples):,} samples,"
        f" {scraped.size_bytes >> 10:,} KiB, {scraped.seconds:.2f} s"
    )
    images = [
        value
        for (name, labels), value in scraped.samples.items()
        if name == "rollforward_folder_images" and ("state", "good") in labels
    ]
    assert len(images) == FOLDERS
    assert sum(images) == FOLDERS * (IMAGES - IMAGES // 500)
    assert scraped.seconds < 10  # what Prometheus waits for, unless told otherwise
