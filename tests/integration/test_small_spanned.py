"""The checks of exactness and damage on images in several files, and those that only such images need."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.bed import Bed, quick_folder
from tests.checks import damage, exactness, spanned
from tests.history import MIB, history_folder, shrink_and_grow, small_history

PART_BYTES = 150_000


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with quick_folder() as folder:
        yield Bed(folder, small_history(), per_day=2, per_week=4, part_bytes=PART_BYTES)


@pytest.fixture(scope="module")
def resized() -> Iterator[Bed]:
    history = shrink_and_grow(history_folder(), 24 * MIB, seed=1)
    with quick_folder() as folder:
        yield Bed(folder, history, per_day=2, per_week=4, part_bytes=PART_BYTES)


@pytest.mark.parametrize("check", damage.CHECKS)
def test_spoilt_sets(bed: Bed, check: Callable[[Bed], str]) -> None:
    assert check(bed)


@pytest.mark.parametrize(
    "check",
    [
        exactness.incrementals_alone,
        exactness.consolidations_alone,
        exactness.synthetic_full,
        exactness.mixed,
        exactness.merging_order_is_no_matter,
        exactness.two_makers_agree,
        exactness.combined_names,
        exactness.lost_fingerprints,
    ],
)
def test_exactness(bed: Bed, check: Callable[[Bed], str]) -> None:
    assert check(bed)


@pytest.mark.parametrize("check", [exactness.consolidations_alone, exactness.mixed])
def test_exactness_of_a_resized_volume(resized: Bed, check: Callable[[Bed], str]) -> None:
    assert check(resized)


@pytest.mark.parametrize("check", spanned.CHECKS)
def test_sets(bed: Bed, check: Callable[[Bed], str]) -> None:
    assert check(bed)
