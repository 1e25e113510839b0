"""The speed that is promised, against peers in the same run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Tell

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("comparison", ["consolidate", "restore", "verify", "capture", "bitmap", "help"])
def test_speed(tell: Tell, comparison: str) -> None:
    tell(comparison, lambda: _measure(comparison))


def _measure(comparison: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "bench", comparison, "--json"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    told = [_words(row) for row in rows if "subject" in row]
    missed = [_words(row) for row in rows if row.get("reached") is False]
    assert not missed, "; ".join(missed)
    return "; ".join(told)


def _words(row: dict[str, Any]) -> str:
    peer = f" ({row['ours_s']:.2f} s, {row['peer']} {row['peer_s']:.2f} s)" if row["peer"] else ""
    return f"{row['figure']:.2f}{peer}, {row['goal']}"
