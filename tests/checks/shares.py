"""Disks on a share that a kernel mounts by itself, in a guest: exact, after their server was killed, too."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hsr.disks.form import DiskKind
from tests.cifs_guest import MOUNTED, environment, run_in_guest
from tests.commands import run
from tests.disk_readers import CHECKABLE, qemu_driver
from tests.rolling_world import make_world
from tests.share_life import COPIED, LAST, WELL
from tests.smb_share import SmbServer


def lived_on_a_share(home: Path, kinds: Sequence[DiskKind]) -> str:
    """Have disks of some kinds live on a share, and compare what became of them.

    Args:
        home: an empty folder.
        kinds: the kinds.

    Returns:
        What was met.
    """
    work = home / "work"
    for folder in (work, home / "world"):
        folder.mkdir()
    world = make_world(home / "world")
    (work / "world").write_bytes(pickle.dumps(world))
    names = tuple(kind.value for kind in kinds)
    _compile_for_guest(work)
    with SmbServer(home / "server") as server:

        def kill_if_asked() -> None:
            if (work / "kill").exists():
                if server.is_running:
                    server.kill()
                server.start()
                (work / "kill").unlink()

        said = run_in_guest(
            server, work, "tests.share_life", (str(work), str(MOUNTED), *names), meanwhile=kill_if_asked
        )
        assert WELL in said, said
        for kind in kinds:
            for name, number in (("copy.img", COPIED), ("disk.img", LAST)):
                truth = home / "truth.raw"
                truth.write_bytes(world.truth(world.points[number]))
                disk = str(server.root / kind.value / name)
                assert "identical" in run(
                    "qemu-img", "compare", "-f", "raw", "-F", qemu_driver(kind), str(truth), disk
                )
                if kind in CHECKABLE:
                    run("qemu-img", "check", "-f", qemu_driver(kind), disk)
    told = [line.strip() for line in said.splitlines() if "syncs asked for" in line]
    assert len(told) == len(kinds)
    assert all("the connection to the server broke" in line for line in told), told
    return f"{len(kinds)} kinds, as many servers killed; {told[0]}"


def _compile_for_guest(work: Path) -> None:
    """Fill the guest's cache of kernels: its own compiler would take minutes."""
    command = [sys.executable, "-m", "ops.warm_up"]
    subprocess.run(command, env=os.environ | environment(work), check=True, capture_output=True)
