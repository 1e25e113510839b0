"""A short run of the fuzzer, the same cases every time; `make acceptance` lets it run for a quarter of an hour."""

from __future__ import annotations

import re
import subprocess
import sys

SECONDS = 12
CASES_MIN = 30


def test_a_short_run():
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.fuzz_reader",
        "--blind",
        "--seed",
        "1",
        "--seconds",
        str(SECONDS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cases = re.match(r"([\d,]+) cases", done.stdout)
    assert cases is not None, done.stdout
    assert int(cases[1].replace(",", "")) > CASES_MIN
