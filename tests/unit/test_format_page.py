"""The tables of docs/format.md and the layouts in the code say the same."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from storage import layout

PAGE = Path(__file__).parents[2] / "docs" / "format.md"
ROW = re.compile(r"^\| (\d+) \| (\d+) \| (\S+) \| (\w+) \| .+ \|$")

SECTIONS = {
    "## Header": layout.HEADER,
    "### Point table": layout.POINT,
    "#### Head of the key area": layout.KEY_AREA,
    "#### Key slot": layout.KEY_SLOT,
    "## Index": layout.RECORD,
    "## Page table": layout.PAGE,
    "## Trailer": layout.TRAILER,
}


def table_under(heading: str) -> list[tuple[int, int, str, str]]:
    text = PAGE.read_text().split(f"\n{heading}\n", 1)[1]
    rows = []
    for line in text.splitlines():
        if line.startswith("#"):
            break
        if match := ROW.match(line):
            rows.append((int(match[1]), int(match[2]), match[3], match[4]))
    return rows


def type_word(field: np.dtype) -> str:
    if field.shape:
        return f"u1[{field.shape[0]}]"
    return field.str.lstrip("<|")


@pytest.mark.parametrize("heading", SECTIONS)
def test_table_is_the_layout(heading: str) -> None:
    dtype = SECTIONS[heading]
    wanted = [
        (int(dtype.fields[name][1]), dtype[name].itemsize, type_word(dtype[name]), name)
        for name in dtype.names
    ]
    assert table_under(heading) == wanted


def test_constants_named_in_words() -> None:
    words = " ".join(PAGE.read_text().split())
    assert f"2 to {layout.MAX_POINTS:,}" in words
    assert f"context `{layout.ROOT_CONTEXT}`" in words
    for context in (
        layout.FRAME_KEY_CONTEXT,
        layout.METADATA_KEY_CONTEXT,
        layout.SEAL_KEY_CONTEXT,
        layout.KEY_AREA_KEY_CONTEXT,
        layout.FINGERPRINT_KEY_CONTEXT,
    ):
        assert f"| `{context}` |" in words
    assert f"1 to {layout.MAX_KEY_SLOTS} slots of {layout.KEY_SLOT.itemsize} bytes" in words
    assert f"at most {layout.MAX_KDF_MEMORY_KIB:,} |" in words
    assert f"memory_kib × passes is at most {layout.MAX_KDF_WORK_KIB:,} |" in words  # noqa: RUF001 - as the page writes it
    assert f"its lanes, 1 to {layout.MAX_KDF_LANES} |" in words
    assert f"a tag of {layout.FRAME_TAG_BYTES} bytes" in words
    assert layout.FRAME_TRACE == 1 << 3
    assert layout.HEADER_ENCRYPTED == 1 << 1
    assert layout.KEY_AREA_MAGIC == b"RFKEYS1\x1a"
    assert layout.RECORDS_PER_PAGE == 1024
    assert "1,024 records make a page of 64 KiB" in words
    assert layout.PAGE_BYTES == 64 << 10
    assert layout.SEGMENT_BYTES == 1 << 20
    assert layout.HEADER_MAGIC == b"RFIMAGE\x1a"
    assert layout.TRAILER_MAGIC == b"RFTRAIL\x1a"
