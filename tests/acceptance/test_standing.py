"""How 10,000 folders with 1,000 images each stand, told in a moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checks.standing import fill_catalogue, tell_standing

FOLDERS, IMAGES = 10_000, 1_000


@pytest.mark.acceptance
def test_status_of_ten_million_images(tmp_path: Path):
    fill_catalogue(tmp_path / "state", FOLDERS, IMAGES)
    told = tell_standing(tmp_path / "state")
    print(
        f"\nstatus of {FOLDERS * IMAGES:,} images in {FOLDERS:,} folders: {told.gather_s:.3f} s;"
        f" the whole command {told.command_s:.2f} s, of which the start of its process {told.start_s:.2f} s"
    )
    assert len(told.values["folders"]) == FOLDERS  # type: ignore[arg-type]
    assert told.gather_s < 0.5
