"""`kill -9` at 30 random moments of each command, and full disks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.acceptance.conftest import Tell
from tests.bed import Bed
from tests.checks import crash, full_disk

pytestmark = pytest.mark.acceptance

KILLS = 30


@pytest.mark.parametrize(
    ("words", "check", "kills"),
    [
        ("capture", crash.killed_capture, KILLS),
        ("consolidate", crash.killed_consolidation, KILLS),
        ("restore to a file", crash.killed_restore, KILLS),
        ("restore to a device", crash.killed_restore_to_device, KILLS // 5),
    ],
)
def test_killed(tell: Tell, bed: Bed, words: str, check: Callable[[Bed, int], str], kills: int) -> None:
    def count() -> str:
        figure = check(bed, kills)
        assert figure.startswith(f"{kills} kills"), figure
        return figure

    tell(words, count)


def test_full_disk_captures(tell: Tell, bed: Bed) -> None:
    tell("disk full, capture", lambda: full_disk.full_for_captures(bed))


def test_full_disk_consolidations(tell: Tell, bed: Bed) -> None:
    tell("disk full, consolidate", lambda: full_disk.full_for_consolidations(bed))


def test_full_disk_restores(tell: Tell, bed: Bed) -> None:
    tell("disk full, restore", lambda: full_disk.full_for_restores(bed))
