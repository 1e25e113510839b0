"""What counts as free is what a plain look at each bit says, whatever pieces a bitmap is read in."""

from __future__ import annotations

import io
from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import SourceError
from storage import used_ntfs
from storage.free_ranges import FreeRanges
from storage.used_blocks import UsedBlocks

UNIT = 4096


def ranges_of(bits: list[int]) -> list[list[int]]:
    """The plain way: one bit at a time."""
    found: list[list[int]] = []
    for number, bit in enumerate(bits):
        if bit:
            continue
        if found and found[-1][1] == number:
            found[-1][1] = number + 1
        else:
            found.append([number, number + 1])
    return found


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40), st.integers(1, 9), st.integers(0, 7))
def test_a_bitmap_is_read_in_any_pieces(octets: list[int], piece: int, spare: int) -> None:
    octets[0] |= 1
    clusters = 8 * len(octets) - spare
    bits = [octet >> bit & 1 for octet in octets for bit in range(8)][:clusters]
    free = FreeRanges(UNIT)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(used_ntfs, "_PIECE_BYTES", piece)
        used_ntfs._read_bitmap(io.BytesIO(bytes(octets)), clusters, free)
    found = free.in_bytes(bits.count(0), clusters)
    assert (found // UNIT).tolist() == ranges_of(bits)
    used = UsedBlocks("ntfs", found)
    for start, stop in ((0, clusters), (clusters // 3, clusters // 2)):
        told = used.free_within(start * UNIT, stop * UNIT)
        assert sum(last - first for first, last in told) == bits[start:stop].count(0) * UNIT
    with pytest.raises(SourceError, match="contradicts itself"):
        free.in_bytes(bits.count(0) + 1, clusters)


def test_a_bitmap_that_ends_too_early() -> None:
    with pytest.raises(SourceError, match="too short"):
        used_ntfs._read_bitmap(io.BytesIO(b"\xff"), 9, FreeRanges(UNIT))


@pytest.mark.parametrize("ends", [(0, 2), (3, 5, 4, 6), (5, 4), (7, 9)])
def test_ranges_that_cannot_be(ends: tuple[int, ...]) -> None:
    free = FreeRanges(UNIT)
    for first, stop in np.array(array("q", ends)).reshape(-1, 2).tolist():
        free.add(first, stop)
    with pytest.raises(SourceError, match="contradicts itself"):
        free.in_bytes(sum(ends[1::2]) - sum(ends[::2]), 8)
