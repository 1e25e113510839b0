"""Killed while a disk is lent or taken back: others see no disk or a whole one, and it rolls on exactly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from hsr.disks.form import DiskKind
from hsr.rolling.cursor_file import Phase
from hsr.rolling.disk import RollingDisk, read_standing
from hsr.rolling.lending import take_back
from policies.errors import BusyError
from tests.disk_readers import qemu_driver, qemu_img
from tests.rolling_world import make_world
from tests.unit.test_rolling_disk import ROOM, begun, must_be, roll
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
KILLS = 4


def is_taken_back(path: Path) -> bool:
    try:
        take_back(path)
    except BusyError:
        return False
    return True


@pytest.mark.parametrize("kind", [DiskKind.VHD, DiskKind.VMDK_FLAT])
def test_killed_at_any_moment(kind: DiskKind, tmp_path: Path) -> None:
    world, random = make_world(tmp_path / "world"), Random(7)
    path, child, raw = tmp_path / "disk.img", tmp_path / "child.qcow2", tmp_path / "truth.raw"
    truth = world.truth(world.points[2]).ljust(ROOM, b"\0")
    patched = b"\1" * 512 + truth[512:]
    with begun(world, path, kind) as disk:
        roll(disk, world, 2)
    for _ in range(KILLS):
        command = [sys.executable, "-m", "tests.lending_process", str(path), kind.value, str(child)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None
            assert running.stdout.readline() == b"ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                running.wait(random.uniform(0, 0.6))
            running.kill()
        standing = read_standing(path)
        assert standing is not None
        if child.exists() and standing.phase is Phase.LENT:
            raw.write_bytes(patched)
            done = qemu_img("compare", "-f", "qcow2", "-F", "raw", child, raw)
            assert done.returncode == 0, done.stdout + done.stderr
        if standing.phase is Phase.LENT:
            raw.write_bytes(truth)
            done = qemu_img("compare", "-f", qemu_driver(kind), "-F", "raw", path, raw)
            assert done.returncode == 0, done.stdout + done.stderr
        if standing.phase.is_lent:
            wait_for(lambda: is_taken_back(path), "the qemu-img that outlived its parent to end")
        child.unlink(missing_ok=True)
        with RollingDisk.open(path) as disk:
            assert disk.read(0, ROOM) == truth
    with RollingDisk.open(path) as disk:
        roll(disk, world, 5)
        disk.finalize(world.points[5])
    must_be(path, kind, world.truth(world.points[5]), ROOM, tmp_path)
