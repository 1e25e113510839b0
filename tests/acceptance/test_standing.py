"""How 10,000 folders with 1,000 images each stand, told in a moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.checks.standing import fill_catalogue, tell_standing

FOLDERS, IMAGES = 10_000, 1_000


@pytest.mark.acceptance
def test_status_of_ten_million_images(tmp_path: Path):
    fill_catalogue(tmp_path / "state", FOLDERS, IMAGES)
    told = tell_standing(tmp_path / "state")
    bare = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import ops.status, ops.status_screen"],
        capture_output=True,
        text=True,
        check=True,
    )
    imports_s = max(int(line.split("|")[1]) for line in bare.stderr.splitlines() if line[-1:] != "]") / 1e6
    print(
        f"\nstatus of {FOLDERS * IMAGES:,} images in {FOLDERS:,} folders: {told.gather_s:.3f} s;"
        f" with the start of the process {told.command_s:.2f} s (importing alone {imports_s:.2f} s)"
    )
    assert len(told.values["folders"]) == FOLDERS  # type: ignore[arg-type]
    assert told.gather_s < 0.5
