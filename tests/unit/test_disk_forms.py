"""What the writers of virtual disks derive: checksums, geometry, identifiers, pieces."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsr.disks.form import Stamp
from hsr.disks.pieces import Pieces
from hsr.disks.vhd import checksum, vhd_footer, vhd_geometry
from hsr.disks.vhdx import crc32c
from hsr.disks.vmdk import descriptor

STAMP = Stamp(b"seed", datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
    ],
)
def test_crc32c_has_the_published_values(content: bytes, expected: int):
    assert crc32c(content) == expected


@pytest.mark.parametrize(
    ("sectors", "geometry"),
    [
        (0, (0, 4, 17)),
        (204_800, (1003, 12, 17)),
        (4 << 21, (8322, 16, 63)),
        (1 << 32, (65535, 16, 255)),
    ],
)
def test_geometry_of_vhd(sectors: int, geometry: tuple[int, int, int]):
    assert vhd_geometry(sectors) == geometry
    cylinders, heads, track = geometry
    assert cylinders * heads * track <= max(sectors, 0)


def test_the_checksum_makes_up_for_all_other_bytes():
    footer = bytearray(vhd_footer(1 << 30, 3, STAMP))
    stored = int.from_bytes(footer[64:68], "big")
    footer[64:68] = bytes(4)
    assert checksum(bytes(footer)) == stored


def test_identities_differ_by_word_and_seed():
    others = Stamp(b"other", STAMP.made_at)
    found = {stamp.identity(word) for stamp in (STAMP, others) for word in ("a", "b")}
    assert len(found) == 4
    assert STAMP.identity("a") == Stamp(b"seed", STAMP.made_at).identity("a")


def test_a_descriptor_names_its_extent():
    text = descriptor("d-flat.vmdk", 1 << 20, STAMP, is_sparse=False).decode()
    assert 'RW 2048 FLAT "d-flat.vmdk" 0' in text


@st.composite
def some_pieces(draw: st.DrawFn) -> Pieces:
    marks = sorted(draw(st.sets(st.integers(0, 300), min_size=2, max_size=12)))
    bounds = [(first, stop) for first, stop in pairwise(marks) if draw(st.booleans())]
    lengths = [stop - first for first, stop in bounds]
    gap = draw(st.integers(0, 3))
    starts = np.cumsum([0, *(length + gap for length in lengths)])[: len(lengths)]
    buffer = np.random.default_rng(1).integers(1, 255, 4000).astype(np.uint8)
    return Pieces(
        buffer,
        starts.astype(np.int64),
        np.array([first for first, _ in bounds], np.int64),
        np.array(lengths, np.int64),
    )


def laid_out(pieces: Pieces) -> bytes:
    found = np.zeros(301, np.uint8)
    for start, offset, length in zip(pieces.starts, pieces.offsets, pieces.lengths, strict=True):
        found[offset : offset + length] = pieces.buffer[start : start + length]
    return found.tobytes()


@given(some_pieces(), st.integers(0, 310), st.integers(1, 50))
def test_cutting_changes_nothing(pieces: Pieces, cut: int, unit: int):
    expected = laid_out(pieces)
    cut_once, cut_often = pieces.cut_at(cut), pieces.cut_every(unit)
    for other in (cut_once, cut_often):
        assert other.are_sound(301)
        assert laid_out(other) == expected
    assert not ((cut_once.offsets < cut) & (cut_once.stops > cut)).any()
    assert (cut_often.offsets // unit == (cut_often.stops - 1) // unit).all()


@given(some_pieces(), st.integers(1, 50))
def test_joined_pieces_are_all_of_it_and_none_goes_on_where_another_ends(pieces: Pieces, unit: int):
    joined = pieces.cut_every(unit).joined()
    assert laid_out(joined) == laid_out(pieces)
    assert len(joined.offsets) <= len(pieces.offsets)
    goes_on = (joined.offsets[1:] == joined.stops[:-1]) & (
        joined.starts[1:] == joined.starts[:-1] + joined.lengths[:-1]
    )
    assert not goes_on.any()
