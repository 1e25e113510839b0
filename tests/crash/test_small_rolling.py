"""The checks of a disk that is rolled forward, killed or not, on the small history."""

from __future__ import annotations

import pytest

from hsr.disks.form import DiskKind
from tests.bed import Bed, quick_folder
from tests.checks.rolling import finalized_everywhere, killed_rolling
from tests.history import small_history


def test_killed() -> None:
    with quick_folder() as folder:
        figure = killed_rolling(
            Bed(folder, small_history(), per_day=2, per_week=4), 4, (DiskKind.VHDX, DiskKind.VMDK)
        )
    assert figure.startswith("4 kills"), figure


@pytest.mark.parametrize("kind", [DiskKind.VHD, DiskKind.RAW])
def test_finalized_everywhere(kind: DiskKind) -> None:
    with quick_folder() as folder:
        assert finalized_everywhere(Bed(folder, small_history(), per_day=2, per_week=4), kind)
