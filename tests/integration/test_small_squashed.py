"""The checks of squashed images and differentials, small: plain, encrypted, in several files, shrinking and growing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest

from tests.bed import Bed, encrypted_bed, quick_folder
from tests.checks import exactness, squashing
from tests.history import MIB, history_folder, shrink_and_grow, small_history


@pytest.fixture(scope="module")
def lived_in() -> Iterator[Bed]:
    with quick_folder() as folder:
        yield Bed(folder, small_history(), per_day=2, per_week=4)


@pytest.fixture(scope="module")
def locked() -> Iterator[Bed]:
    history = shrink_and_grow(history_folder(), 24 * MIB, seed=1)
    with quick_folder() as folder:
        yield encrypted_bed(folder, history, per_day=2, per_week=4)


@pytest.fixture(scope="module")
def locked_in_parts() -> Iterator[Bed]:
    """Encrypted, and every image of it in several files."""
    history = shrink_and_grow(history_folder(), 24 * MIB, seed=1)
    with quick_folder() as folder:
        made = encrypted_bed(folder, history, per_day=2, per_week=4)
        yield dataclasses.replace(made, part_bytes=150_000)


@pytest.mark.parametrize("check", [squashing.within_the_limits, squashing.beside_the_rest])
def test_plain(lived_in: Bed, check: Callable[[Bed], str]) -> None:
    assert check(lived_in)


@pytest.mark.parametrize("check", [squashing.every_block, squashing.differentials])
def test_encrypted_and_resized(locked: Bed, check: Callable[[Bed], str]) -> None:
    assert check(locked)


@pytest.mark.parametrize(
    "check", [squashing.beside_the_rest, exactness.synthetic_full, exactness.merging_order_is_no_matter]
)
def test_encrypted_and_in_parts(locked_in_parts: Bed, check: Callable[[Bed], str]) -> None:
    """Synthetic fulls too: encrypted and in several files at once."""
    assert check(locked_in_parts)


def test_random_sectors(lived_in: Bed, locked: Bed) -> None:
    for bed in (lived_in, locked):
        assert "less" in squashing.random_sectors(bed, 2 * MIB, 8, 0.5)
