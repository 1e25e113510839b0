"""What tells one format of virtual disks from another: how it lays out a file, and the bytes that make it a disk.

A file of any format here is cut the same way. First a region that belongs to the format and stays a hole until the
disk is finalized; then slots of one size, given to blocks in the order in which they are first written to; then,
perhaps, what a format keeps at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol
from uuid import UUID

import numpy as np
import numpy.typing as npt

SECTOR_BYTES: Final = 512
HIDDEN_BYTES: Final = 1 << 20
"""So much at least of the front of a file stays a hole until the disk is finalized."""

_CONTEXT: Final = b"rollforward disk 1: "

I32 = npt.NDArray[np.int32]
Part = tuple[int, bytes]
"""An offset in the file, and what is to stand there."""


class DiskKind(StrEnum):
    """Kinds of virtual disks, by the names that people use."""

    VHD = "vhd"
    VHD_FIXED = "vhd-fixed"
    VMDK = "vmdk"
    VMDK_FLAT = "vmdk-flat"
    VHDX = "vhdx"
    QCOW2 = "qcow2"
    RAW = "raw"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a finalized disk says of itself. The same stamp and content give the same bytes.

    Attributes:
        seed: names what it holds, such as the chain's and the point's identities.
        made_at: the time to be noted in formats that note one, such as that of the point; with a time zone.
    """

    seed: bytes
    made_at: datetime

    def identity(self, word: str) -> UUID:
        """Derive an identifier.

        Args:
            word: what it is for; the disk's other identifiers have other words.
        """
        digest = hashlib.sha256(_CONTEXT + word.encode() + b"\0" + self.seed).digest()
        return UUID(bytes=digest[:16], version=4)


@dataclass(frozen=True, slots=True)
class Slots:
    """How blocks lie in a file that holds only some of them.

    Attributes:
        block_bytes: size of a block.
        block_count: blocks of the disk.
        offset: where the first slot begins in the file.
        lead: what stands in each slot in front of the block.
    """

    block_bytes: int
    block_count: int
    offset: int
    lead: bytes = b""

    @property
    def stride_bytes(self) -> int:
        """Size of a slot."""
        return len(self.lead) + self.block_bytes

    def end(self, count: int) -> int:
        """Return where so many slots end in the file."""
        return self.offset + count * self.stride_bytes


class DiskForm(Protocol):
    """The form of one disk: its format, at its size."""

    @property
    def kind(self) -> DiskKind:
        """What it is."""

    @property
    def disk_bytes(self) -> int:
        """What a guest will see: the size asked for, rounded up to what the format can say."""

    @property
    def slots(self) -> Slots | None:
        """How blocks lie in the file; None where the file is the disk, byte for byte."""

    def file_bytes(self, used: I32) -> int:
        """Return the size of the finalized file.

        Args:
            used: int32, for each block its slot, -1 where it has none. Slots count from 0 without a gap.
        """

    def tables(self, used: I32, stamp: Stamp) -> Iterator[Part]:
        """Yield what is to be written before the signatures, in pieces of a few MiB at most.

        Args:
            used: as for `file_bytes`.
            stamp: what the disk is to say of itself.
        """

    def signatures(self, used: I32, stamp: Stamp) -> Sequence[Part]:
        """Return what makes it a disk, to be written and synced one after the other.

        Args:
            used: as for `file_bytes`.
            stamp: what the disk is to say of itself.
        """


def rounded_up(size: int, unit: int) -> int:
    """Return the smallest multiple of a unit that is not below a size."""
    return -(-size // unit) * unit


def count_used(used: I32) -> int:
    """Return how many slots are given to blocks."""
    return int(np.count_nonzero(used >= 0))
