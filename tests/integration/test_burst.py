"""Images that land many at once, in several folders: each verified once, none missed. Full size in acceptance."""

from __future__ import annotations

from pathlib import Path

from tests.checks.landing import burst, make_folders, make_images, one_by_one
from tests.checks.poison import set_aside
from tests.integration.agent_run import AgentRun


def test_a_burst_and_single_images(tmp_path: Path):
    images, folders = make_images(tmp_path, 12), make_folders(tmp_path, 4)
    with AgentRun(tmp_path / "agent", more_folders=folders) as run:
        print(burst(run, images[:8], folders, patience_s=120))
        waits = one_by_one(run, images[8:], run.folder)
        print("seconds from closed to verification begun:", " ".join(f"{wait:.3f}" for wait in waits))


def test_poison_among_many_is_set_aside_and_they_are_not(tmp_path: Path):
    print(set_aside(tmp_path, images=5, folders=2, poisoned=1))
