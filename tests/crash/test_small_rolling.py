"""The check of kills while a disk is rolled forward, on the small history."""

from __future__ import annotations

from hsr.disks.form import DiskKind
from tests.bed import Bed, quick_folder
from tests.checks.rolling import killed_rolling
from tests.history import small_history


def test_killed() -> None:
    with quick_folder() as folder:
        figure = killed_rolling(
            Bed(folder, small_history(), per_day=2, per_week=4), 4, (DiskKind.VHDX, DiskKind.VMDK)
        )
    assert figure.startswith("4 kills"), figure
