"""A process that lends a disk and takes it back, again and again, so that it can be killed: PATH KIND CHILD."""

from __future__ import annotations

import sys
from pathlib import Path

from hsr.disks.form import DiskKind
from hsr.exchange.child import QcowChild
from hsr.rolling.disk import RollingDisk
from hsr.rolling.lending import take_back


def main() -> None:
    path, kind, child = Path(sys.argv[1]), DiskKind(sys.argv[2]), Path(sys.argv[3])
    print("ready", flush=True)
    while True:
        with RollingDisk.open(path) as disk:
            disk.lend_at(disk.cursor.points[0], QcowChild(child, path, kind, ((0, b"\1" * 512),)))
        take_back(path)
        child.unlink()


if __name__ == "__main__":
    main()
