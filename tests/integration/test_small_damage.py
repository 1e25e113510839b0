"""The damage checks on the small history."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.bed import Bed, quick_folder
from tests.checks import damage
from tests.history import small_history


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with quick_folder() as folder:
        yield Bed(folder, small_history(), per_day=2, per_week=4)


@pytest.mark.parametrize("check", damage.CHECKS)
def test_spoilt_images(bed: Bed, check: Callable[[Bed], str]) -> None:
    assert check(bed)
