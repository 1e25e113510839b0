"""The demonstration: it proves what it shows, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.integration.agent_run import wait_for

DEMO = [sys.executable, "-m", "ops", "demo"]


def test_the_demonstration_proves_both_points_and_the_standby_disk(tmp_path: Path):
    kept = tmp_path / "kept"
    done = subprocess.run([*DEMO, "--json", "--keep", str(kept)], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    proofs = [line for line in lines if line["status"] == "proven"]
    assert [(proof["number"], proof["disk"] is None) for proof in proofs] == [
        (12, True),
        (9, True),
        (12, False),
    ]
    assert all(proof["found"] == proof["expected"] and proof["e2fsck"] == "clean" for proof in proofs)
    assert [name.endswith("-cd.spi") for name in proofs[0]["images"]] == [False, True, True]
    kinds = [line["kind"] for line in lines if line["status"] == "kept"]
    assert (kinds.count("base"), kinds.count("incremental"), kinds.count("daily")) == (1, 12, 2)
    verified = {line["path"] for line in lines if line["status"] == "verified"}
    assert len(verified) == 15
    assert "VHDX, 112 MiB" in proofs[-1]["disk"]
    assert proofs[-1]["images"] == ["DEMO.vhdx"]
    rolled = [line["reason"] for line in lines if line["status"] == "rolled_on"]
    assert "built at point 0" in rolled[0]
    assert len(rolled) > 2
    assert lines[-1]["status"] == "ok"
    assert len(list((kept / "images").glob("*.sp?"))) == 15
    assert not _processes(tmp_path)
    again = subprocess.run([*DEMO, "--keep", str(kept)], capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "is not empty" in again.stderr


def test_the_demonstration_interrupted_leaves_nothing(tmp_path: Path):
    for number in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen(
            DEMO,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        ) as running:
            assert running.stdout is not None
            assert any("verified" in line for line in running.stdout)
            running.send_signal(number)
            running.stdout.read()
        assert running.returncode == 128 + number
        assert not list(tmp_path.iterdir())
        wait_for(lambda: not _processes(tmp_path), "the end of all processes")


def _processes(work_dir: Path) -> list[str]:
    """Return the command lines and environments of living processes that mention a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"{work_dir}/".encode() in text:
            found.append(text.decode(errors="replace"))
    return found
