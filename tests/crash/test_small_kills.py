"""The checks of kills and full disks on the small history."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.bed import Bed, quick_folder
from tests.checks import crash, full_disk
from tests.history import small_history
from tests.loop import needs_root

KILLS = 3


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with quick_folder() as folder:
        yield Bed(folder, small_history(), per_day=2, per_week=4)


@pytest.fixture(scope="module")
def spanned_bed() -> Iterator[Bed]:
    """Every image of it is in several files."""
    with quick_folder() as folder:
        yield Bed(folder, small_history(), per_day=2, per_week=4, part_bytes=150_000)


@pytest.mark.parametrize(
    "check", [crash.killed_capture, crash.killed_consolidation, crash.killed_restore, crash.killed_squash]
)
def test_killed(bed: Bed, check: Callable[[Bed, int], str]) -> None:
    assert check(bed, KILLS)


@pytest.mark.parametrize("check", [crash.killed_capture, crash.killed_consolidation])
def test_killed_while_writing_sets(spanned_bed: Bed, check: Callable[[Bed, int], str]) -> None:
    assert check(spanned_bed, KILLS)


@needs_root
def test_killed_while_writing_a_device(bed: Bed) -> None:
    assert crash.killed_restore_to_device(bed, 2)


@needs_root
@pytest.mark.parametrize("check", full_disk.CHECKS)
def test_full_disk(bed: Bed, check: Callable[[Bed], str]) -> None:
    assert check(bed)


@needs_root
@pytest.mark.parametrize("check", [full_disk.full_for_captures, full_disk.full_for_consolidations])
def test_full_disk_for_sets(spanned_bed: Bed, check: Callable[[Bed], str]) -> None:
    assert check(spanned_bed)
