"""The checks of serving on the small history."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed import Bed, quick_folder
from tests.checks import serving
from tests.history import small_history


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with quick_folder() as folder:
        yield Bed(folder, small_history(), per_day=2, per_week=4)


def test_states(bed: Bed) -> None:
    assert serving.identical_states(bed, [0, 5, bed.last])


def test_file_system(bed: Bed) -> None:
    assert serving.clean_file_system(bed)


def test_clients(bed: Bed) -> None:
    assert serving.four_clients(bed)


def test_status(bed: Bed) -> None:
    assert serving.sparse_status(bed)


def test_guest(tmp_path: Path) -> None:
    assert serving.guest_boots(tmp_path / "guest")
