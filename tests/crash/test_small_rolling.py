"""The checks of a disk that is rolled forward, killed or not, on the small history."""

from __future__ import annotations

import pytest

from hsr.disks.form import DiskKind
from tests.bed import Bed, quick_folder
from tests.checks.rolling import finalized_everywhere, killed_on_device, killed_rolling
from tests.history import small_history
from tests.loop import loop_device, needs_root


def test_killed() -> None:
    with quick_folder() as folder:
        figure = killed_rolling(
            Bed(folder, small_history(), per_day=2, per_week=4), 4, (DiskKind.VHDX, DiskKind.VMDK)
        )
    assert figure.startswith("4 kills"), figure


@needs_root
def test_killed_on_a_device() -> None:
    with quick_folder() as folder:
        history = small_history()
        backing = folder / "backing"
        with backing.open("wb") as file:
            file.truncate(max(state.volume_bytes for state in history.states) + (2 << 20))
        with loop_device(backing) as device:
            figure = killed_on_device(Bed(folder, history, per_day=2, per_week=4), device, 3)
    assert figure.startswith("3 kills"), figure


@pytest.mark.parametrize("kind", [DiskKind.VHD, DiskKind.RAW])
def test_finalized_everywhere(kind: DiskKind) -> None:
    with quick_folder() as folder:
        assert finalized_everywhere(Bed(folder, small_history(), per_day=2, per_week=4), kind)
