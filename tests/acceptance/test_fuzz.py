"""The reader under fire: a quarter of an hour of spoilt images, and only errors that are documented come out."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.acceptance.conftest import Tell

pytestmark = pytest.mark.acceptance

SECONDS = 15 * 60


def test_spoilt_images(tell: Tell) -> None:
    def fuzz() -> str:
        command = [sys.executable, "-m", "tests.fuzz.fuzz_reader", "--seconds", str(SECONDS)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip().splitlines()[-1]

    tell("spoilt images", fuzz)
