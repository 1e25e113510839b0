"""From a clean clone: set-up, the demonstration within two minutes, the tests."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Tell

pytestmark = pytest.mark.acceptance

REPOSITORY = Path(__file__).parents[2]
DEMO_LIMIT_S = 120


@pytest.fixture(scope="module")
def clone(room: Path) -> Iterator[Path]:
    """A clean clone of what is committed."""
    folder = room / "clone"
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(folder)], check=True)
    yield folder
    assert not _processes_of(folder), f"still running: {_processes_of(folder)}"


def test_setup(tell: Tell, clone: Path) -> None:
    tell("make setup", lambda: _make(clone, "setup"))


def test_demo(tell: Tell, clone: Path) -> None:
    def demo() -> str:
        begin = time.monotonic()
        told = _make(clone, "demo")
        taken_s = time.monotonic() - begin
        assert taken_s < DEMO_LIMIT_S, f"the demonstration took {taken_s:.0f} s"
        left = _processes_of(clone)
        assert not left, f"still running: {left}"
        return f"{told}, within {DEMO_LIMIT_S} s, nothing left running"

    tell("make demo", demo)


def test_tests(tell: Tell, clone: Path) -> None:
    tell("make test", lambda: _make(clone, "test"))


def _make(folder: Path, target: str) -> str:
    done = subprocess.run(["make", target], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"make {target}: {done.stdout[-5000:]}{done.stderr[-3000:]}"
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return lines[-1].strip("= ") if target == "test" and lines else "done"


def _processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that run from a folder or in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            place = (entry / "cwd").readlink()
        except OSError:
            continue
        if str(folder) in command or place.is_relative_to(folder):
            found.append(command)
    return found
