"""The checks of exactness and damage on encrypted chains, small; consolidation and verification have no password."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.bed import Bed, encrypted_bed, quick_folder
from tests.checks import damage, exactness, secrecy
from tests.history import MIB, history_folder, shrink_and_grow, small_history


@pytest.fixture(scope="module")
def lived_in() -> Iterator[Bed]:
    with quick_folder() as folder:
        yield encrypted_bed(folder, small_history(), per_day=2, per_week=4)


@pytest.fixture(scope="module")
def resized() -> Iterator[Bed]:
    history = shrink_and_grow(history_folder(), 24 * MIB, seed=1)
    with quick_folder() as folder:
        yield encrypted_bed(folder, history, per_day=2, per_week=4)


EXACTNESS = (
    exactness.consolidations_alone,
    exactness.synthetic_full,
    exactness.merging_order_is_no_matter,
    exactness.lost_fingerprints,
)


@pytest.mark.parametrize("check", EXACTNESS)
def test_lived_in_volume(lived_in: Bed, check: Callable[[Bed], str]) -> None:
    assert check(lived_in)


@pytest.mark.parametrize("check", [exactness.mixed, exactness.merging_order_is_no_matter])
def test_resized_volume(resized: Bed, check: Callable[[Bed], str]) -> None:
    assert check(resized)


@pytest.mark.parametrize("check", [damage.flipped_bits, damage.lost_and_misplaced_writes, damage.strangers])
def test_spoilt_images(lived_in: Bed, check: Callable[[Bed], str]) -> None:
    assert check(lived_in)


@pytest.mark.parametrize("check", [secrecy.wrong_password_or_damage, secrecy.no_plain_text])
def test_secrets(lived_in: Bed, check: Callable[[Bed], str]) -> None:
    assert check(lived_in)
