"""The checks of squashed images and differentials, small: plain, encrypted, in several files, shrinking and growing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.bed import Bed, encrypted_bed, quick_folder
from tests.checks import squashing
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
def in_parts() -> Iterator[Bed]:
    history = shrink_and_grow(history_folder(), 24 * MIB, seed=1)
    with quick_folder() as folder:
        yield Bed(folder, history, per_day=2, per_week=4, part_bytes=150_000)


@pytest.mark.parametrize("check", [squashing.within_the_limits, squashing.beside_the_rest])
def test_plain(lived_in: Bed, check: Callable[[Bed], str]) -> None:
    assert check(lived_in)


@pytest.mark.parametrize("check", [squashing.every_block, squashing.differentials])
def test_encrypted_and_resized(locked: Bed, check: Callable[[Bed], str]) -> None:
    assert check(locked)


def test_in_parts_and_resized(in_parts: Bed) -> None:
    assert squashing.beside_the_rest(in_parts)


def test_random_sectors(lived_in: Bed, locked: Bed) -> None:
    for bed in (lived_in, locked):
        assert "less" in squashing.random_sectors(bed, 2 * MIB, 8, 0.5)
