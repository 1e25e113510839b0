"""Which form a disk of a kind has, and what each kind can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hsr.disks import layout_vhd, layout_vhdx, layout_vmdk
from hsr.disks.flat import FlatForm
from hsr.disks.form import DiskForm, DiskKind
from hsr.disks.qcow2 import Qcow2Form
from hsr.disks.vhd import VhdFixedForm, VhdForm
from hsr.disks.vhdx import VhdxForm
from hsr.disks.vmdk import VmdkForm
from policies.errors import ConfigurationError

_FLAT_BYTES_MAX: Final = (1 << 63) - (4 << 20)
BYTES_MAX: Final = {
    DiskKind.VHD: layout_vhd.BYTES_MAX,
    DiskKind.VHD_FIXED: layout_vhd.BYTES_MAX,
    DiskKind.VMDK: (layout_vmdk.SECTORS_MAX * layout_vmdk.SECTOR_BYTES) - (1 << 30),
    DiskKind.VMDK_FLAT: 62 << 40,
    DiskKind.VHDX: layout_vhdx.BYTES_MAX,
    DiskKind.QCOW2: 64 << 40,
    DiskKind.RAW: _FLAT_BYTES_MAX,
    DiskKind.DEVICE: _FLAT_BYTES_MAX,
}
"""The largest disk of each kind; that of a sparse VMDK leaves a GiB for its tables, since it counts sectors of its
file in 32 bits. What qcow2 could hold beyond is left out, since other programs take no more either."""

_UNNAMEABLE: Final = frozenset('"\\')


def form_for(path: Path, kind: DiskKind, size_bytes: int) -> DiskForm:
    """Choose the form of a disk.

    Args:
        path: where it will lie.
        kind: what it is to be.
        size_bytes: what is to fit on it.

    Raises:
        ConfigurationError: the kind cannot hold so much, or cannot say this name.
    """
    if size_bytes < 1:
        raise ConfigurationError("a disk has one byte at least", path=str(path), actual=size_bytes)
    if size_bytes > BYTES_MAX[kind]:
        able = [other.value for other, most in BYTES_MAX.items() if most >= size_bytes]
        raise ConfigurationError(
            f"is too large for {kind}",
            path=str(path),
            expected=f"at most {BYTES_MAX[kind]:,} bytes",
            actual=f"{size_bytes:,}",
            hint=f"These can hold it: {', '.join(able)}.",
        )
    if kind in (DiskKind.VMDK, DiskKind.VMDK_FLAT) and not _can_be_quoted(path.name):
        raise ConfigurationError("has a name that a VMDK descriptor cannot hold", path=str(path))
    match kind:
        case DiskKind.VHD:
            return VhdForm(size_bytes)
        case DiskKind.VHD_FIXED:
            return VhdFixedForm(size_bytes)
        case DiskKind.VMDK:
            return VmdkForm(size_bytes, path.name)
        case DiskKind.VHDX:
            return VhdxForm(size_bytes)
        case DiskKind.QCOW2:
            return Qcow2Form(size_bytes)
        case DiskKind.VMDK_FLAT | DiskKind.RAW | DiskKind.DEVICE:
            return FlatForm(kind, size_bytes)


def _can_be_quoted(name: str) -> bool:
    return name.isprintable() and not _UNNAMEABLE.intersection(name)
