"""What the tests of the engine share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.tiny import TinyVolume

_MEMORY = Path("/dev/shm")


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """An empty folder in memory, where the machine has that: syncing costs nothing there."""
    if not _MEMORY.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="rollforward-test-", dir=_MEMORY) as folder:
        yield Path(folder)


@pytest.fixture
def tiny(quick_path: Path) -> TinyVolume:
    """An empty volume with an empty folder for its images."""
    return TinyVolume(quick_path / "tiny")
