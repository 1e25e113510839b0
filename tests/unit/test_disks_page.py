"""The tables of docs/disks.md and the layouts in the code say the same."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from hsr.disks import layout_qcow2, layout_side, layout_vhd, layout_vhdx, layout_vmdk
from hsr.disks.form import DiskKind
from hsr.disks.forms import BYTES_MAX
from hsr.disks.side_files import SIDE_NAME
from hsr.rolling import layout_cursor
from hsr.rolling.cursor_file import Phase

PAGE = (Path(__file__).parents[2] / "docs" / "disks.md").read_text()
ROW = re.compile(r"^\| (\d+) \| (\d+) \| (\S+) \| (\w+) \|.*\|$")

SECTIONS = {
    "## The map": layout_side.HEADER,
    "### Record": layout_side.RECORD,
    "### Mark of a device": layout_side.MARK,
    "## The cursor": layout_cursor.CURSOR,
    "### Point of a cursor": layout_cursor.POINT,
    "### Footer": layout_vhd.FOOTER,
    "### Dynamic header": layout_vhd.HEADER,
    "### Sparse header": layout_vmdk.HEADER,
    "### Identifier": layout_vhdx.IDENTIFIER,
    "### Disk header": layout_vhdx.HEADER,
    "### Head of the region table": layout_vhdx.REGIONS,
    "### Region": layout_vhdx.REGION,
    "### Head of the metadata": layout_vhdx.METADATA,
    "### Metadata item": layout_vhdx.ITEM,
    "### Header of qcow2": layout_qcow2.HEADER,
}


def table_under(heading: str) -> list[tuple[int, int, str, str]]:
    text = PAGE.split(f"\n{heading}\n", 1)[1]
    body = re.split(r"^#", text, maxsplit=1, flags=re.MULTILINE)[0]
    rows = (ROW.match(line) for line in body.splitlines())
    return [(int(row[1]), int(row[2]), row[3], row[4]) for row in rows if row]


def type_word(field: np.dtype) -> str:
    return f"u1[{field.shape[0]}]" if field.shape else field.str.lstrip("<|")


@pytest.mark.parametrize("heading", SECTIONS)
def test_table_is_the_layout(heading: str) -> None:
    dtype = SECTIONS[heading]
    wanted = [
        (int(dtype.fields[name][1]), dtype[name].itemsize, type_word(dtype[name]), name)
        for name in dtype.names
    ]
    assert table_under(heading) == wanted


def test_kinds_and_what_they_hold() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \| .* \| (.*) \|$", PAGE, re.MULTILINE))
    assert list(rows) == [kind.value for kind in DiskKind]
    for kind, text in rows.items():
        if match := re.fullmatch(r"([\d,]+) ([GT])iB", text):
            unit = 1 << 30 if match[2] == "G" else 1 << 40
            assert int(match[1].replace(",", "")) * unit == BYTES_MAX[DiskKind(kind)]


def test_names_and_numbers() -> None:
    assert f"`{SIDE_NAME}/`" in PAGE
    assert layout_side.MAGIC == b"RFDISKM\x1a"
    assert layout_side.MARK_MAGIC == b"RFDISKD\x1a"
    assert layout_side.MARK_OFFSET == 2048
    assert layout_side.RECORD_MAGIC == b"RFDISKR\x1a"
    assert (layout_side.RECORD_STARTED, layout_side.RECORD_BLOCKS, layout_side.RECORD_FINALIZING) == (1, 2, 3)
    assert layout_side.RECORD_SETTLED == 4
    assert (layout_side.RECORD_LENT, layout_side.RECORD_TAKEN_BACK) == (5, 6)
    assert layout_side.ALIGN_BYTES == 512
    assert layout_cursor.MAGIC == b"RFDISKC\x1a"
    assert layout_cursor.VERSION == 1
    assert list(Phase) == [1, 2, 3, 4, 6, 7, 8, 9]
    for phase in Phase:
        assert f"{phase.value} {phase.name.lower()}" in PAGE
