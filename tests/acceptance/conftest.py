"""Full-size checks: what they share, and how they tell their figures, one line each."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bed import Bed
from tests.command import in_own_process
from tests.history import GIB, full_history, history_folder, shrink_and_grow

ROOM_BYTES = 24 * GIB

Tell = Callable[[str, Callable[[], str]], None]
"""Runs a check and prints a line: what it showed, its figure, and how long it took."""


def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> tuple[str, str, str] | None:
    """Spare the dots between the lines that the checks print."""
    del config
    return ("passed", "", "") if report.when == "call" and report.passed else None


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    subject = request.node.path.stem.removeprefix("test_").replace("_", " ")

    def run_and_tell(words: str, check: Callable[[], str]) -> None:
        begin = time.monotonic()
        try:
            figure = check()
        except BaseException:
            print(f"{subject} · {words}: FAILED after {time.monotonic() - begin:.0f} s", flush=True)
            raise
        print(f"{subject} · {words}: {figure}, {time.monotonic() - begin:.0f} s", flush=True)

    return run_and_tell


@pytest.fixture(scope="session")
def room() -> Iterator[Path]:
    """A folder on a real file system with room for everything; removed afterwards."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    assert free > ROOM_BYTES, (
        f"{tempfile.gettempdir()} needs {ROOM_BYTES >> 30} GiB free, and has {free >> 30}"
    )
    with tempfile.TemporaryDirectory(prefix="rollforward-acceptance-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def bed(room: Path) -> Bed:
    """The 2 GiB volume and its 24 changed states, captured by the command itself."""
    folder = room / "server"
    folder.mkdir()
    return Bed(folder, full_history(), per_day=4, per_week=12, command=in_own_process)


@pytest.fixture(scope="session")
def resized(room: Path) -> Bed:
    """A volume of 1 GiB that shrinks and grows again."""
    folder = room / "resized"
    folder.mkdir()
    history = shrink_and_grow(history_folder(), GIB, seed=1)
    return Bed(folder, history, per_day=2, per_week=4, command=in_own_process)
