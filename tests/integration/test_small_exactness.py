"""The checks of exactness on the small history, and on a small volume that shrinks and grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bed import Bed, quick_folder
from tests.checks import exactness
from tests.history import MIB, history_folder, shrink_and_grow, small_history
from tests.loop import needs_root


@pytest.fixture(scope="module")
def lived_in() -> Iterator[Bed]:
    with quick_folder() as folder:
        yield Bed(folder, small_history(), per_day=2, per_week=4)


@pytest.fixture(scope="module")
def resized() -> Iterator[Bed]:
    history = shrink_and_grow(history_folder(), 24 * MIB, seed=1)
    with quick_folder() as folder:
        yield Bed(folder, history, per_day=2, per_week=4)


CHECKS = (
    exactness.incrementals_alone,
    exactness.consolidations_alone,
    exactness.synthetic_full,
    exactness.mixed,
    exactness.merging_order_is_no_matter,
)


@pytest.mark.parametrize("check", CHECKS)
def test_lived_in_volume(lived_in: Bed, check: Callable[[Bed], str]) -> None:
    assert check(lived_in)


@pytest.mark.parametrize("check", CHECKS)
def test_resized_volume(resized: Bed, check: Callable[[Bed], str]) -> None:
    assert check(resized)


@pytest.mark.parametrize(
    "check",
    [exactness.two_makers_agree, exactness.by_time, exactness.combined_names, exactness.lost_fingerprints],
)
def test_more_of_it(lived_in: Bed, check: Callable[[Bed], str]) -> None:
    assert check(lived_in)


@needs_root
@pytest.mark.parametrize("check", [exactness.onto_old_data, exactness.device_capture])
def test_block_devices(lived_in: Bed, check: Callable[[Bed], str]) -> None:
    assert check(lived_in)


def test_history_replays_to_what_was_recorded(tmp_path: Path) -> None:
    history = small_history()
    replay = history.replay(tmp_path / "now.raw")
    bed = Bed(tmp_path, history, per_day=2, per_week=4)
    for number in bed.numbers:
        replay.roll_to(number)
        bed.must_be(replay.path, number)
