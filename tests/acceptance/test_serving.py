"""The full-size checks of serving a point."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import Tell
from tests.bed import Bed
from tests.checks import serving

pytestmark = pytest.mark.acceptance


def test_states(tell: Tell, bed: Bed) -> None:
    tell("export against the volume, qemu-img compare", lambda: serving.identical_states(bed, bed.numbers))


def test_file_system(tell: Tell, bed: Bed) -> None:
    tell("e2fsck over the mounted raw file", lambda: serving.clean_file_system(bed))


def test_clients(tell: Tell, bed: Bed) -> None:
    tell("clients at once", lambda: serving.four_clients(bed))


def test_status(tell: Tell, bed: Bed) -> None:
    tell("block status", lambda: serving.sparse_status(bed))


def test_guest(tell: Tell, room: Path) -> None:
    tell("guest with a writable overlay", lambda: serving.guest_boots(room / "guest"))
