"""Which format a disk image of another program has, and which other files it names.

A guest writes what it likes into a raw disk, the first bytes of a qcow2 with any file of the host as its backing file
among them. So the format is never taken from content alone: name and content must agree, unless the format is told.
And what names other files is refused before anything opens them, unless that is told, too.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from policies.errors import ConfigurationError, ForeignContainerError, SourceError
from storage.foreign import HINT, MAGICS, PROBLEM

_SECTOR: Final = 512
_DESCRIPTOR_BYTES_MAX: Final = 1 << 20
_QCOW2_DATA_FILE: Final = 1 << 2
_VHD_FIXED_OR_DYNAMIC: Final = (2, 3)
_VHD_FOOTER: Final = b"conectix"
_NO_PARENT: Final = "ffffffff"
_VMDK_TEXT: Final = b"# Disk DescriptorFile"


class DiskFormat(StrEnum):
    """Formats of disk images, by the names that people use."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VHD = "vhd"
    VHDX = "vhdx"
    VMDK = "vmdk"

    @property
    def driver(self) -> str:
        """What qemu calls it."""
        return "vpc" if self is DiskFormat.VHD else self.value


_SUFFIXES: Final = {
    ".qcow2": DiskFormat.QCOW2,
    ".vhd": DiskFormat.VHD,
    ".vpc": DiskFormat.VHD,
    ".vhdx": DiskFormat.VHDX,
    ".vmdk": DiskFormat.VMDK,
}


@dataclass(frozen=True, slots=True)
class ForeignDisk:
    """A disk image of another program.

    Attributes:
        path: where it is.
        format: its format.
        others: what it names beside itself, in words: a backing file, a parent, files with the data.
    """

    path: Path
    format: DiskFormat
    others: tuple[str, ...] = ()


def recognise(path: Path, told: DiskFormat | None = None) -> ForeignDisk:
    """Find out what a disk image is, without opening anything else that it may name.

    Args:
        path: the image: a regular file.
        told: its format, from somebody who knows.

    Returns:
        The image.

    Raises:
        ConfigurationError: name and content say different things, and no format was told.
        ForeignContainerError: it is a backup image of ShadowProtect's.
        SourceError: it cannot be read, or is not of the told format.

    Source: qcow2 (docs/interop/qcow2.txt of QEMU), "VMDK Virtual Disk Format 1.1", "VHD Image Format Specification
    1.0", [MS-VHDX].
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_SECTOR)
            file.seek(max(size - _SECTOR, 0))
            tail = file.read(_SECTOR)
            if told is None and head.startswith(MAGICS):
                raise ForeignContainerError(PROBLEM, path=str(path), hint=HINT)
            content = _format_of(head, tail)
            chosen = told or _agreed(path, content)
            if chosen is not DiskFormat.RAW and chosen is not content:
                raise SourceError(f"is no {chosen} image: its content says otherwise", path=str(path))
            if chosen is not DiskFormat.RAW and size < _SECTOR and not head.startswith(_VMDK_TEXT):
                raise SourceError(f"is too short for a {chosen} image", path=str(path), offset=size)
            others: tuple[str, ...] = ()
            if chosen is DiskFormat.QCOW2:
                others = _others_of_qcow2(head)
            elif chosen is DiskFormat.VHD:
                others = _others_of_vhd(head, tail)
            elif chosen is DiskFormat.VMDK:
                file.seek(0)
                others = _others_of_vmdk(head, file.read(_DESCRIPTOR_BYTES_MAX))
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}", path=str(path)) from error
    return ForeignDisk(path, chosen, others)


def _format_of(head: bytes, tail: bytes) -> DiskFormat:
    """Say what the content looks like."""
    if head.startswith(b"QFI\xfb"):
        return DiskFormat.QCOW2
    if head.startswith(b"vhdxfile"):
        return DiskFormat.VHDX
    if head.startswith((b"KDMV", b"COWD", _VMDK_TEXT)):
        return DiskFormat.VMDK
    if head.startswith(_VHD_FOOTER) or tail.startswith(_VHD_FOOTER):
        return DiskFormat.VHD
    return DiskFormat.RAW


def _agreed(path: Path, content: DiskFormat) -> DiskFormat:
    named = _SUFFIXES.get(path.suffix.lower(), DiskFormat.RAW)
    if named is not content:
        raise ConfigurationError(
            f"looks like {content} inside, while its name says {named}",
            path=str(path),
            hint="Whoever writes to a raw disk can make it look like anything. If you know its format, say --format.",
        )
    return named


def _others_of_qcow2(head: bytes) -> tuple[str, ...]:
    version, backing_offset = struct.unpack_from(">IQ", head, 4)
    others = ["a backing file"] if backing_offset else []
    if version >= 3 and struct.unpack_from(">Q", head, 72)[0] & _QCOW2_DATA_FILE:
        others.append("an external data file")
    return tuple(others)


def _others_of_vhd(head: bytes, tail: bytes) -> tuple[str, ...]:
    """A dynamic disk has its footer twice; whoever opens it may believe either."""
    kinds = [struct.unpack_from(">I", end, 60)[0] for end in (head, tail) if end.startswith(_VHD_FOOTER)]
    return () if all(kind in _VHD_FIXED_OR_DYNAMIC for kind in kinds) else ("a parent",)


def _others_of_vmdk(head: bytes, content: bytes) -> tuple[str, ...]:
    """A descriptor names extents and a parent; the extents count where they are not the file itself.

    A descriptor is read leniently, and not by everybody alike. So that it names files is not for us to find out:
    where the data are not in the file itself, they are in others, whatever their names.
    """
    if head.startswith(b"COWD"):
        return ()
    holds_data = False
    descriptor = content
    if head.startswith(b"KDMV"):
        capacity, _, offset, size = struct.unpack_from("<4Q", head, 12)
        holds_data = capacity != 0
        descriptor = content[offset * _SECTOR : (offset + size) * _SECTOR] if offset else b""
        if offset and len(descriptor) < size * _SECTOR:
            return ("a descriptor out of its place",)
    text = descriptor.split(b"\0", 1)[0].decode("latin-1")
    others: list[str] = []
    if not holds_data:
        found = re.findall(r'^\s*RW\s+\d+\s+\w+\s+"([^"\n]*)"', text, re.MULTILINE)
        others = [f"the file {name!r}" for name in found] or ["files with the data"]
    parent = re.search(r"^\s*parentCID\s*=\s*(\w+)", text, re.MULTILINE | re.IGNORECASE)
    if "parentFileNameHint" in text or (parent is not None and parent[1].lower() != _NO_PARENT):
        others.append("a parent")
    return tuple(others)
