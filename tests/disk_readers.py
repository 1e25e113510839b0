"""Reading virtual disks by programs that are not ours: dissect.hypervisor, and qemu's tools."""

from __future__ import annotations

import io
import struct
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
    if kind is DiskKind.VHD:
        _check_bitmaps(file)
    disk = _opened(file, kind)
    found = io.BytesIO()
    for offset in range(0, size, READ_BYTES):
        disk.seek(offset)
        found.write(disk.read(min(READ_BYTES, size - offset)))
    assert disk.size == size
    return found.getvalue()


def _check_bitmaps(file: BinaryIO) -> None:
    """Readers differ in whether they look at the bitmaps of a VHD: all sectors have to be there."""
    file.seek(512 + 16)
    table, _, count = struct.unpack(">QII", file.read(16))
    file.seek(table)
    for (sector,) in struct.iter_unpack(">I", file.read(4 * count)):
        if sector != 0xFFFFFFFF:
            file.seek(512 * sector)
            assert file.read(512) == b"\xff" * 512


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
