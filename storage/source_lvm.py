"""A snapshot of a logical volume, there while it is read.

Source: lvm2's manual pages lvcreate(8), lvs(8), lvremove(8), lvmreport(7).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from policies.errors import SourceError
from storage.bitmap_names import keeper_tag
from storage.commands import run_tool

_PACKAGE: Final = "lvm2"
_FULL_PERCENT: Final = 100.0


class LvmSnapshot:
    """A snapshot of a logical volume. A context manager that gives its device.

    Args:
        device: the logical volume.
        keeper: whose snapshots these are: stale ones of the same keeper are removed.
        size: room for what is overwritten meanwhile: 10G, or 20%ORIGIN; thin volumes need none.
        note: told of stale snapshots, and of what could not be removed.

    Raises:
        ConfigurationError: lvm2 is not installed.
        SourceError: the device is no logical volume, or no snapshot of it can be made.

    Crash: leaves the snapshot, which the next capture of the volume removes.
    """

    def __init__(self, device: Path, keeper: str, size: str, note: Callable[[str], None]) -> None:
        self._device = device
        self._tag = f"rollforward-{keeper_tag(keeper)}"
        self._size = size
        self._note = note
        self._name = ""

    def __enter__(self) -> Path:
        volume = self._one(str(self._device), "vg_name,lv_name,segtype")
        group = volume["vg_name"]
        for stale in self._list("vg_name,lv_name", "--select", f"lv_tags={self._tag}", group):
            name = f"{stale['vg_name']}/{stale['lv_name']}"
            run_tool("lvremove", "--yes", name, package=_PACKAGE)
            self._note(f"removed the snapshot {name}, left by a capture that was killed")
        short = f"rf-{volume['lv_name']}-{secrets.token_hex(3)}"
        self._name = f"{group}/{short}"
        room = (
            []
            if volume["segtype"] == "thin"
            else ["--extents" if "%" in self._size else "--size", self._size]
        )
        options = [
            "--snapshot",
            "--yes",
            "--permission",
            "r",
            "--setactivationskip",
            "n",
            "--addtag",
            self._tag,
        ]
        try:
            origin = f"{group}/{volume['lv_name']}"
            run_tool("lvcreate", *options, *room, "--name", short, origin, package=_PACKAGE)
            return Path(self._one(self._name, "lv_path")["lv_path"])
        except BaseException:
            self._remove()
            raise

    def confirm(self) -> None:
        """Make sure that the snapshot held all that was overwritten until now.

        Raises:
            SourceError: it ran full, or cannot be looked at.
        """
        state = self._one(self._name, "lv_snapshot_invalid,data_percent,lv_attr")
        is_full = float(state["data_percent"] or 0) >= _FULL_PERCENT
        if state["lv_snapshot_invalid"] not in ("", "0") or is_full or state["lv_attr"][4:5] in ("I", "S"):
            raise SourceError(
                "the snapshot ran full: what was read of it does not count",
                path=self._name,
                hint="Give it more room, with --snapshot-size.",
            )

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _remove(self) -> None:
        try:
            if self._list(
                "lv_name", "--select", f"lv_name={self._name.partition('/')[2]}", self._name.partition("/")[0]
            ):
                run_tool("lvremove", "--yes", self._name, package=_PACKAGE)
        except SourceError as error:
            self._note(f"the snapshot {self._name} could not be removed: {error.reason}")

    def _one(self, volume: str, fields: str) -> dict[str, str]:
        rows = self._list(fields, volume)
        if len(rows) != 1:
            raise SourceError("is no logical volume", path=volume)
        return rows[0]

    def _list(self, fields: str, *arguments: str) -> list[dict[str, str]]:
        told = run_tool("lvs", "--reportformat", "json", "-o", fields, *arguments, package=_PACKAGE)
        try:
            rows = json.loads(told)["report"][0]["lv"]
            return [{str(key): str(value) for key, value in row.items()} for row in rows]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise SourceError("lvs answers otherwise than it should", path=arguments[-1]) from error
