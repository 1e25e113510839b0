"""A process that rolls a disk forward and finalizes it, so that it can be killed: PATH KIND FOLDER CHECKPOINT GOAL…

On its way it lends the disk, unless that is a device, and takes it back. What tells of a device lies beside the folder,
in `side`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hsr.disks.form import DiskKind
from hsr.exchange.child import QcowChild
from hsr.rolling.cursor_file import Phase, Place
from hsr.rolling.disk import RollingDisk, discard, finalize_at, read_standing
from hsr.rolling.lending import take_back
from policies.cursor import roll_on_path
from storage.chain import Chain, load_chain

JOB = b"killed".ljust(16)


def roll(disk: RollingDisk, chain: Chain, goals: list[int], checkpoint_bytes: int) -> None:
    """Bring a disk to each of some points that still lie before it."""
    for number in goals:
        target = disk.standing.goal or chain.point(number)
        hi = disk.cursor.hi
        if hi is not None and (hi.number > number or disk.cursor.points == (target,)):
            continue
        path = roll_on_path(disk.cursor, chain.spans, target.id)
        if path is None:
            raise AssertionError(f"no way from {disk.cursor} to {target}")
        disk.apply([chain.folder / span.name for span in path], checkpoint_bytes=checkpoint_bytes)


def live(path: Path, kind: DiskKind, chain: Chain, checkpoint_bytes: int, goals: list[int]) -> None:
    """Begin a disk or go on with it; bring it to all its points, and finalize it at the last."""
    last, chain_id = chain.point(goals[-1]), chain.images[0].header.chain_id
    side = chain.folder.parent / "side" if kind is DiskKind.DEVICE else None
    standing = read_standing(path, side_folder=side)
    if standing is not None and standing.phase is Phase.NEW and side is not None:
        discard(path, side_folder=side)
        standing = None
    child = path.with_suffix(".child.qcow2")
    if standing is not None and standing.phase.is_lent:
        take_back(path)
    child.unlink(missing_ok=True)
    if standing is None or standing.phase is not Phase.FINALIZING:
        room = max(span.end.volume_bytes for span in chain.spans)
        disk = (
            RollingDisk.begin(path, kind, Place.whole(room), job_uid=JOB, chain_id=chain_id, side_folder=side)
            if standing is None
            else RollingDisk.open(path, side_folder=side)
        )
        if kind is not DiskKind.DEVICE:
            with disk:
                roll(disk, chain, goals[:-1], checkpoint_bytes)
                if disk.cursor.is_closed:
                    disk.lend_at(disk.cursor.points[0], QcowChild(child, path, kind))
            if disk.standing.phase.is_lent:
                take_back(path)
                child.unlink()
            disk = RollingDisk.open(path)
        with disk:
            roll(disk, chain, goals, checkpoint_bytes)
            disk.finalize(last)
    else:
        finalize_at(path, last, side_folder=side)


def main() -> None:
    path, kind, folder, checkpoint, *goals = sys.argv[1:]
    chain = load_chain(Path(folder))
    print("ready", flush=True)
    live(Path(path), DiskKind(kind), chain, int(checkpoint), list(map(int, goals)))


if __name__ == "__main__":
    main()
