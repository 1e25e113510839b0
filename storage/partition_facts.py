"""What the partition table says of a partition that is captured: a later disk may say it again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from policies.errors import ConfigurationError, SourceError
from storage.commands import run_tool

_SYS_BLOCK: Final = Path("/sys/dev/block")
_SYS_SECTOR_BYTES: Final = 512
_LIMIT_S: Final = 20.0
_SCHEMES: Final = {"gpt": "gpt", "dos": "mbr"}
_ATTRIBUTES: Final = {"RequiredPartition": 0, "NoBlockIOProtocol": 1, "LegacyBIOSBootable": 2}


def partition_facts(device: Path) -> Mapping[str, object]:
    """Read what is known of a partition.

    Args:
        device: a block device.

    Returns:
        For a partition that `sfdisk` finds in its disk's table: `scheme` (`gpt` or `mbr`), `type`, `disk_id` and, in a
        GPT, `id`, `name` and `attributes`. Nothing for any other device, and where it cannot be found out.
    """
    try:
        rdev = device.stat().st_rdev
        folder = (_SYS_BLOCK / f"{os.major(rdev)}:{os.minor(rdev)}").resolve(strict=True)
        if not (folder / "partition").exists():
            return {}
        start = int((folder / "start").read_text())
        disk = Path("/dev") / _told(folder.parent / "uevent")["DEVNAME"]
        table = _table(disk)
        sector_bytes = int(table.get("sectorsize", _SYS_SECTOR_BYTES))
        for entry in table["partitions"]:
            if int(entry["start"]) * sector_bytes == start * _SYS_SECTOR_BYTES:
                return _facts(table, entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigurationError, SourceError):
        return {}  # nothing depends on it
    return {}


def _told(path: Path) -> dict[str, str]:
    """Read a table of names and values, as the kernel writes it."""
    lines = (line.partition("=") for line in path.read_text().splitlines())
    return {name: value for name, _, value in lines}


def _table(disk: Path) -> Mapping[str, Any]:
    told = run_tool("sfdisk", "--json", str(disk), package="fdisk", limit_s=_LIMIT_S)
    table: Mapping[str, Any] = json.loads(told)["partitiontable"]
    return table


def _facts(table: Mapping[str, Any], entry: Mapping[str, Any]) -> Mapping[str, object]:
    scheme = _SCHEMES[str(table["label"])]
    facts: dict[str, object] = {"scheme": scheme, "type": str(entry["type"]).lower()}
    facts["disk_id"] = str(table["id"]).lower()
    if scheme == "gpt":
        facts |= {"id": str(entry["uuid"]).lower(), "name": str(entry.get("name", ""))}
        facts["attributes"] = _attributes(str(entry.get("attrs", "")))
    return facts


def _attributes(words: str) -> int:
    """Gather what sfdisk writes like `RequiredPartition GUID:60,63` into 64 bits."""
    bits = 0
    for word in words.split():
        kind, _, numbers = word.partition(":")
        for number in numbers.split(",") if kind == "GUID" else ():
            bits |= 1 << int(number)
        bits |= 1 << _ATTRIBUTES[kind] if kind in _ATTRIBUTES else 0
    return bits
