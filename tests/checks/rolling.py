"""A disk that is rolled forward is killed at any moment, goes on, and ends as the truth."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hsr.disks.flat import content_path
from hsr.disks.form import DiskKind
from hsr.disks.side_files import SIDE_NAME
from hsr.rolling.cursor_file import Phase, Place
from hsr.rolling.disk import RollingDisk, read_standing
from policies.cursor import roll_on_path
from storage.chain import load_chain
from tests.bed import Bed
from tests.commands import is_clean_ext4
from tests.disk_readers import CHECKABLE, blkid_says, qemu_driver, qemu_img, read_whole

KINDS = tuple(kind for kind in DiskKind if kind is not DiskKind.DEVICE)
ROOT = Path(__file__).parents[2]


def killed_rolling(bed: Bed, kills: int, kinds: Sequence[DiskKind] = KINDS) -> str:
    """Kill the process that builds, rolls on and finalizes a disk; when it lived to the end, take another disk.

    Returns:
        What the kills met.
    """
    folder = bed.linked(bed.chain)
    bed.roll_up(folder, "daily")
    truth, chooser = bed.folder / "truth.raw", random.Random(11)
    bed.history.replay(truth).roll_to(bed.last)
    goals = [1, bed.last // 2, bed.last]
    met: dict[str, int] = {}
    lives = done = 0
    for kind in itertools.cycle(kinds):
        path = bed.new_folder("rolled") / "disk.img"
        whole_s = _live(bed, path.with_name("timed.img"), kind, folder, goals)
        _clear(path.parent)
        for _ in range(kills):
            if done >= kills or not _kill(bed, path, kind, folder, goals, chooser.uniform(0, whole_s)):
                break
            done += 1
            state = _state_of(path, kind)
            met[state] = met.get(state, 0) + 1
            if _is_over(path):
                break
        _live(bed, path, kind, folder, goals)
        must_be(path, kind, truth)
        assert read_standing(path) is None
        assert list((path.parent / SIDE_NAME).iterdir()) == []
        lives += 1
        shutil.rmtree(path.parent)
        if done >= kills:
            break
    truth.unlink()
    return f"{done} kills in {lives} lives ({', '.join(f'{met[word]} {word}' for word in sorted(met))})"


def killed_on_device(bed: Bed, device: Path, kills: int) -> str:
    """Kill the process that rolls a device forward; the device shows nothing before it is finalized.

    Args:
        bed: its chain.
        device: a device that holds anything, as large as the volume ever is, or larger.
        kills: how often.

    Returns:
        What the kills met.
    """
    folder, side = bed.linked(bed.chain), bed.folder / "side"
    truth, chooser = bed.folder / "truth.raw", random.Random(11)
    bed.history.replay(truth).roll_to(bed.last)
    goals = [1, bed.last // 2, bed.last]
    whole_s = _live(bed, device, DiskKind.DEVICE, folder, goals)
    met: dict[str, int] = {}
    for _ in range(kills):
        if read_standing(device, side_folder=side) is None:
            must_hold(device, truth)
            with device.open("r+b") as content:
                content.write(random.Random(1).randbytes(8 << 20))
        _kill(bed, device, DiskKind.DEVICE, folder, goals, chooser.uniform(0, whole_s))
        standing = read_standing(device, side_folder=side)
        if standing is not None and standing.phase not in (Phase.NEW, Phase.FINALIZING):
            assert blkid_says(device) == ""
        state = "before the beginning or after the end" if standing is None else standing.phase.name.lower()
        met[state] = met.get(state, 0) + 1
    _live(bed, device, DiskKind.DEVICE, folder, goals)
    must_hold(device, truth)
    return f"{kills} kills ({', '.join(f'{met[word]} {word}' for word in sorted(met))})"


def must_hold(device: Path, truth: Path) -> None:
    """Hold what a device begins with to a raw file."""
    size = truth.stat().st_size
    with device.open("rb") as file:
        assert file.read(size) == truth.read_bytes()


def finalized_everywhere(bed: Bed, kind: DiskKind, count: int = 5) -> str:
    """Roll a disk forward point by point; finalize copies of it on the way, and the disk itself at the end.

    Returns:
        What was compared.
    """
    folder = bed.new_folder("everywhere")
    path, truth = folder / "disk.img", folder / "truth.raw"
    chain, replay = load_chain(bed.chain), bed.history.replay(truth)
    chosen = sorted({bed.last * (number + 1) // count for number in range(count)})
    room = max(span.end.volume_bytes for span in chain.spans)
    copying_s = 0.0
    chain_id = chain.images[0].header.chain_id
    with RollingDisk.begin(path, kind, Place.whole(room), job_uid=bytes(16), chain_id=chain_id) as disk:
        for number in bed.numbers:
            point = chain.point(number)
            images = roll_on_path(disk.cursor, chain.spans, point.id)
            assert images is not None
            disk.apply([chain.folder / span.name for span in images])
            if number in chosen[:-1]:
                copy = folder / "copy.img"
                begin = time.monotonic()
                assert disk.copy_at(point, copy)
                copying_s += time.monotonic() - begin
                replay.roll_to(number)
                must_be(copy, kind, truth)
                _must_be_clean(copy, kind, bed.history.states[number].clean)
                content_path(copy, kind).unlink()
                copy.unlink(missing_ok=True)
        disk.finalize(point)
    replay.roll_to(bed.last)
    must_be(path, kind, truth)
    with content_path(path, kind).open("rb") as file:
        assert read_whole(file, kind, room) == truth.read_bytes(), (
            f"{kind}: a second reader reads something else"
        )
    shutil.rmtree(folder)
    return f"{kind} at points {', '.join(map(str, chosen))}, copies {copying_s:.1f} s"


def _must_be_clean(path: Path, kind: DiskKind, clean: bool) -> None:
    if kind is DiskKind.RAW:
        assert is_clean_ext4(path) is clean


def _command(bed: Bed, path: Path, kind: DiskKind, folder: Path, goals: Sequence[int]) -> list[str]:
    checkpoint = bed.history.last.volume_bytes // 24
    words = ["-m", "tests.rolling_process", path, kind, folder, checkpoint, *goals]
    return [sys.executable, *map(str, words)]


def _started(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the process; return when it begins its work."""
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


def _live(bed: Bed, path: Path, kind: DiskKind, folder: Path, goals: Sequence[int]) -> float:
    """Let it live to the end; return how long it worked."""
    if kind is not DiskKind.DEVICE and _is_over(path):
        return 0.0
    with _started(_command(bed, path, kind, folder, goals)) as child:
        begin = time.monotonic()
        assert child.wait(600) == 0
        return time.monotonic() - begin


def _is_over(path: Path) -> bool:
    """Tell whether the disk is finalized."""
    return path.exists() and read_standing(path) is None


def _kill(bed: Bed, path: Path, kind: DiskKind, folder: Path, goals: Sequence[int], after_s: float) -> bool:
    """Kill it after a while; return whether that met it alive."""
    with _started(_command(bed, path, kind, folder, goals)) as child:
        try:
            code = child.wait(after_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            return True
        assert code == 0
        return False


def _state_of(path: Path, kind: DiskKind) -> str:
    """Say where a killed disk stands; nobody may take it for a disk before it is finalized."""
    standing = read_standing(path)
    if standing is None:
        return "before the beginning or after the end"
    content = content_path(path, kind)
    child = path.with_suffix(".child.qcow2")
    if standing.phase is Phase.LENT and child.exists():
        assert qemu_img("check", "-f", "qcow2", child).returncode == 0
    if not standing.phase.is_lent and standing.phase is not Phase.FINALIZING and content.exists():
        assert json.loads(qemu_img("info", "--output=json", content).stdout)["format"] == "raw"
        assert blkid_says(content) == ""
    if standing.phase is Phase.ROLLING:
        return "at a point" if standing.cursor.is_closed else "between points"
    return standing.phase.name.lower()


def must_be(path: Path, kind: DiskKind, truth: Path) -> None:
    """Hold a finalized disk to a raw file, by qemu's tools."""
    driver = qemu_driver(kind)
    done = qemu_img("compare", "-f", driver, "-F", "raw", path, truth)
    assert done.returncode == 0, f"{kind}: {done.stdout}{done.stderr}"
    if kind in CHECKABLE:
        done = qemu_img("check", "-f", driver, path)
        assert done.returncode == 0, f"{kind}: {done.stdout}{done.stderr}"


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
