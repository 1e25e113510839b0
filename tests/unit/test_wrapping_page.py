"""The tables of docs/wrapping.md and the code say the same."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from hsr.wrapping import layout_tables as layout
from hsr.wrapping.boot_code import BOOT_CODE
from hsr.wrapping.contents import PARTITION_TYPES
from hsr.wrapping.patches import LAST, PATCHES
from hsr.wrapping.wrapping import Wrap

PAGE = (Path(__file__).parents[2] / "docs" / "wrapping.md").read_text()
ROW = re.compile(r"^\| (\d+) \| (\d+) \| (\S+) \| (\w+) \|.*\|$")
SECTIONS = {
    "## Master boot record": layout.MBR,
    "### Entry of a master boot record": layout.MBR_ENTRY,
    "### Header of a GPT": layout.GPT_HEADER,
    "### Entry of a GPT": layout.GPT_ENTRY,
}


def under(heading: str) -> str:
    return re.split(r"^#", PAGE.split(f"\n{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def type_word(field: np.dtype) -> str:
    return f"u1[{field.shape[0]}]" if field.shape else field.str.lstrip("<|")


@pytest.mark.parametrize("heading", SECTIONS)
def test_table_is_the_layout(heading: str) -> None:
    dtype = SECTIONS[heading]
    rows = (ROW.match(line) for line in under(heading).splitlines())
    assert [(int(row[1]), int(row[2]), row[3], row[4]) for row in rows if row] == [
        (int(dtype.fields[name][1]), dtype[name].itemsize, type_word(dtype[name]), name)
        for name in dtype.names
    ]


def test_wraps() -> None:
    assert re.findall(r"^\| `(\w+)` \| [^|]* \| [^`]* \|$", PAGE, re.MULTILINE) == [
        wrap.value for wrap in Wrap
    ]


def test_types_by_contents() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w\w) \| `(\S+)` \|$", under("## Type and identifiers"), re.MULTILINE)
    assert rows == [
        (contents.value, f"{types.mbr:02x}", str(types.gpt)) for contents, types in PARTITION_TYPES.items()
    ]


def test_all_that_is_changed_is_declared() -> None:
    rows = re.findall(
        r"^\| (.*) \| (\w+) \| `(.{8})` at (\d+), `55 AA` at 510 \| (\d+) \|$",
        under("## What is changed in the volume"),
        re.MULTILINE,
    )
    wanted = []
    for patch in PATCHES:
        (at, mark), last = patch.marks
        assert last == (510, b"\x55\xaa")
        place = "last" if patch.sector == LAST else str(patch.sector)
        wanted.append((patch.what, place, mark.decode(), str(at), str(patch.field)))
    assert rows == wanted


def test_numbers() -> None:
    assert f"{len(BOOT_CODE)} bytes" in PAGE
    assert layout.ALIGN_BYTES == 1 << 20
    assert layout.MBR_SECTORS_MAX * layout.SECTOR_BYTES == 2 << 40
