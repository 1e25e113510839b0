"""Volumes of many terabytes: memory stays within a constant."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Tell
from tests.checks.vastness import bounded, captures_bounded, rolling_bounded
from tests.vast import TB, make_vast_chain

pytestmark = pytest.mark.acceptance


def test_twenty_terabytes(tell: Tell, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    tell(
        "a base and 100 incrementals",
        lambda: bounded(make_vast_chain(folder, 20 * TB, incrementals=100, changed=0.01)),
    )


def test_capturing_twenty_terabytes(tell: Tell, tmp_path: Path, roomy: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    tell("captures of a sparse volume", lambda: captures_bounded(roomy, folder, 20 * TB))


def test_rolling_twenty_terabytes(tell: Tell, tmp_path: Path, roomy: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    chain = make_vast_chain(folder, 20 * TB, incrementals=1, changed=1 / 20_000)
    tell("one incremental onto a disk that is there", lambda: rolling_bounded(roomy, chain))


@pytest.fixture
def roomy() -> Iterator[Path]:
    """A folder in memory: ext4 ends at 16 TiB, so that most disks cannot hold such a file, not even a sparse one."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)
