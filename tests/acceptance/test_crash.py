"""`kill -9` at 30 random moments of each command, and full disks."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import Tell
from tests.bed import Bed
from tests.checks import crash, full_disk

pytestmark = pytest.mark.acceptance

KILLS = 30


def test_capture(tell: Tell, bed: Bed) -> None:
    tell("capture", lambda: crash.killed_capture(bed, KILLS))


def test_consolidate(tell: Tell, bed: Bed) -> None:
    tell("consolidate", lambda: crash.killed_consolidation(bed, KILLS))


def test_restore(tell: Tell, bed: Bed) -> None:
    tell("restore to a file", lambda: crash.killed_restore(bed, KILLS))


def test_restore_to_device(tell: Tell, bed: Bed) -> None:
    tell("restore to a device", lambda: crash.killed_restore_to_device(bed, KILLS // 5))


def test_full_disk_captures(tell: Tell, bed: Bed) -> None:
    tell("disk full, capture", lambda: full_disk.full_for_captures(bed))


def test_full_disk_consolidations(tell: Tell, bed: Bed) -> None:
    tell("disk full, consolidate", lambda: full_disk.full_for_consolidations(bed))


def test_full_disk_restores(tell: Tell, bed: Bed) -> None:
    tell("disk full, restore", lambda: full_disk.full_for_restores(bed))
