"""Reading virtual disks by programs that are not ours: dissect.hypervisor, and qemu's tools."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import BinaryIO

from hsr.disks.form import DiskKind

READ_BYTES = 64 << 10
"""Read so much at once: dissect.hypervisor takes reads over the end of a VHDX block for reads within it."""

DISSECT_UNIT = 8192
"""It refuses the last part of a VMDK of another size."""

QEMU_DRIVERS = {
    DiskKind.VHD: "vpc",
    DiskKind.VHD_FIXED: "vpc",
    DiskKind.VMDK_FLAT: "vmdk",
    DiskKind.DEVICE: "raw",
}
CHECKABLE = (DiskKind.VMDK, DiskKind.VHDX, DiskKind.QCOW2)


def read_whole(file: BinaryIO, kind: DiskKind, size: int) -> bytes:
    """Read the content of a finalized disk by dissect.hypervisor; of a flat one, as it is.

    Raises:
        Exception: it is no disk.
    """
    if kind in (DiskKind.RAW, DiskKind.DEVICE, DiskKind.VMDK_FLAT):
        return file.read(size)
    disk = _opened(file, kind)
    found = io.BytesIO()
    for offset in range(0, size, READ_BYTES):
        disk.seek(offset)
        found.write(disk.read(min(READ_BYTES, size - offset)))
    assert disk.size == size
    return found.getvalue()


def _opened(file: BinaryIO, kind: DiskKind) -> BinaryIO:
    from dissect.hypervisor.disk.qcow2 import QCow2
    from dissect.hypervisor.disk.vhd import VHD
    from dissect.hypervisor.disk.vhdx import VHDX
    from dissect.hypervisor.disk.vmdk import VMDK

    match kind:
        case DiskKind.VHD | DiskKind.VHD_FIXED:
            return VHD(file)
        case DiskKind.VHDX:
            return VHDX(file)
        case DiskKind.QCOW2:
            opened: BinaryIO = QCow2(file).open()
            return opened
        case _:
            return VMDK(file)


def qemu_driver(kind: DiskKind) -> str:
    return QEMU_DRIVERS.get(kind, kind.value)


def qemu_img(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["qemu-img", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def blkid_says(path: Path) -> str:
    """Return what blkid sees in a file; nothing, if it sees nothing."""
    done = subprocess.run(["/usr/sbin/blkid", "-p", path], capture_output=True, text=True, check=False)
    return done.stdout
