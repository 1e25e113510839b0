"""The benchmark runs from end to end on the small history, and tells what it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_small_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--small", "--rounds", "1", "--json"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    head, *rows = map(json.loads, done.stdout.splitlines())
    assert "cores" in head["machine"][0]
    subjects = [row["subject"] for row in rows]
    captures = ["capture of a base", "incremental capture", "incremental, dirty bitmap"]
    assert subjects == [
        *["consolidate"] * 5,
        "restore to raw",
        *["verify"] * 2,
        *captures,
        *[f"20,000 random reads of 4 KiB, {words}" for words in ("one in flight", "16 in flight")],
        "nbdcopy of the whole export",
        *[f"build {kind} from base + 8" for kind in ("vhd", "vmdk", "vhdx")],
        *[
            f"apply one incremental to {kind}{size}"
            for kind in ("vhdx", "vmdk")
            for size in ("", ", disk 10 times as large")
        ],
        "rollforward --help",
    ]
    assert all(row["ours_s"] > 0 for row in rows)
    assert all(row["peer_s"] > 0 for row in rows if row["peer"])
