"""What the partition round a volume says of itself: as it was captured, else as the volume's contents suggest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from hsr.disks.form import Stamp
from hsr.wrapping import layout_tables as layout
from hsr.wrapping.contents import PARTITION_TYPES, contents_of, is_startable

_HEX: Final = re.compile(r"(?:0x)?([0-9a-fA-F]{1,8})")


@dataclass(frozen=True, slots=True)
class Traits:
    """What is said of a partition and its disk.

    Attributes:
        mbr_type: its type in a master boot record, 1 to 255.
        gpt_type: its type in a GPT.
        starts: whether its first sector is started by a BIOS.
        name: what a GPT calls it; 36 units of UTF-16 at most.
        attributes: its attributes in a GPT, 64 bits.
        partition_id: its identifier in a GPT; None to have one derived.
        disk_id: the identifier of a disk with a GPT; None to have one derived.
        disk_signature: that of a disk with a master boot record, never 0; None to have one derived.
    """

    mbr_type: int
    gpt_type: UUID
    starts: bool = False
    name: str = ""
    attributes: int = 0
    partition_id: UUID | None = None
    disk_id: UUID | None = None
    disk_signature: int | None = None

    def partition_uuid(self, stamp: Stamp) -> UUID:
        """Return the partition's identifier."""
        return self.partition_id or stamp.identity("partition")

    def disk_uuid(self, stamp: Stamp) -> UUID:
        """Return the disk's identifier."""
        return self.disk_id or stamp.identity("partition table")

    def signature(self, stamp: Stamp) -> int:
        """Return the disk's signature."""
        return self.disk_signature or int.from_bytes(stamp.identity("disk signature").bytes[:4]) or 1


def traits_of(start: bytes, metadata: Mapping[str, object]) -> Traits:
    """Say what the partition round a volume is to say of itself.

    What the metadata have under `partition` counts: `scheme` (`mbr` or `gpt`), `type`, `id`, `name`, `attributes`, and
    `disk_id`; what is missing there, or makes no sense, is chosen by what the volume holds.

    Args:
        start: the first `contents.START_BYTES` of the volume, or all of it.
        metadata: of the volume's newest image.
    """
    chosen = PARTITION_TYPES[contents_of(start)]
    told = metadata.get("partition")
    captured: Mapping[str, object] = told if isinstance(told, dict) else {}
    volume = metadata.get("volume")
    name = captured.get("name") or volume
    is_mbr, is_gpt = captured.get("scheme") == "mbr", captured.get("scheme") == "gpt"
    mbr_type = _number(captured.get("type")) if is_mbr else None
    if mbr_type is None or not 0 < mbr_type < 0x100 or mbr_type in layout.EXTENDED_TYPES:
        mbr_type = chosen.mbr
    attributes = captured.get("attributes")
    is_sound = is_gpt and isinstance(attributes, int) and 0 <= attributes < 1 << 64
    return Traits(
        mbr_type=mbr_type,
        gpt_type=(_uuid(captured.get("type")) if is_gpt else None) or chosen.gpt,
        starts=is_startable(start),
        name=_cut(name) if isinstance(name, str) else "",
        attributes=attributes if is_sound and isinstance(attributes, int) else 0,
        partition_id=_uuid(captured.get("id")) if is_gpt else None,
        disk_id=_uuid(captured.get("disk_id")) if is_gpt else None,
        disk_signature=(_number(captured.get("disk_id")) or None) if is_mbr else None,
    )


def _uuid(told: object) -> UUID | None:
    try:
        found = UUID(told) if isinstance(told, str) else None
    except ValueError:
        return None
    return found if found is not None and found.int else None


def _number(told: object) -> int | None:
    match = _HEX.fullmatch(told) if isinstance(told, str) else None
    return int(match[1], 16) if match else None


def _cut(name: str) -> str:
    """Cut a name to what a GPT has room for, between characters."""
    units = name.encode("utf-16-le", errors="replace")[: 2 * layout.NAME_UNITS]
    return units.decode("utf-16-le", errors="ignore")
