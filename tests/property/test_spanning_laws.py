"""Spanned sets: whatever a stream is cut into reads as the stream; a part of the wrong size is told."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from policies.spanning import odd_part
from storage.parts import part_path
from storage.stored_file import StoredFile


def cut(size_bytes: int, part_bytes: int) -> list[int]:
    """Sizes of the parts of a stream."""
    whole, rest = divmod(size_bytes, part_bytes)
    return [part_bytes] * whole + [rest] * (rest > 0)


@given(st.integers(2, 500), st.integers(1, 100), st.booleans())
def test_a_good_set_has_no_odd_part(size_bytes: int, part_bytes: int, known: bool):
    sizes = cut(size_bytes, part_bytes)
    if len(sizes) > 1:
        assert odd_part(sizes, size_bytes if known else None) is None


@given(
    st.integers(4, 50), st.integers(2, 100), st.integers(1, 100), st.integers(-100, 100), st.integers(0, 60)
)
def test_the_one_odd_part_of_a_set_is_found(parts: int, part_bytes: int, rest: int, more: int, chosen: int):
    sizes = [part_bytes] * (parts - 1) + [min(rest, part_bytes)]
    image_bytes, chosen = sum(sizes), chosen % parts
    wanted = sizes[chosen]
    sizes[chosen] = max(wanted + more, 0)
    found = odd_part(sizes, image_bytes)
    if sizes[chosen] == wanted:
        assert found is None
    else:
        assert found is not None
        assert (found.part, found.expected_bytes, found.actual_bytes) == (chosen, wanted, sizes[chosen])
        assert found.is_too_long == (sizes[chosen] > wanted)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=30), st.none() | st.integers(0, 2000))
def test_any_sizes_are_judged(sizes: list[int], image_bytes: int | None):
    found = odd_part(sizes, image_bytes)
    if found is None:
        assert len(set(sizes[:-1])) == 1
        assert 0 < sizes[-1] <= sizes[0]
        assert image_bytes in (None, sum(sizes))
    else:
        assert sizes[found.part] == found.actual_bytes


@given(
    st.lists(st.binary(max_size=9), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 70), st.lists(st.integers(0, 9), max_size=5)), max_size=8),
)
def test_a_set_reads_like_its_stream(parts: list[bytes], reads: list[tuple[int, list[int]]]):
    stream = b"".join(parts)
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "D-b001-i007.spi"
        for number, content in enumerate(parts):
            part_path(first, number).write_bytes(content)
        file = StoredFile(first)
        try:
            assert (file.size_bytes, file.part_count) == (len(stream), len(parts))
            for offset, sizes in reads:
                if offset + sum(sizes) <= len(stream):
                    pieces = [bytearray(size) for size in sizes]
                    file.read_into(offset, [memoryview(piece) for piece in pieces])
                    assert b"".join(pieces) == stream[offset : offset + sum(sizes)]
                if offset < len(stream):
                    part = file.part_at(offset)
                    assert file.part_start(part) <= offset < file.part_start(part + 1)
        finally:
            file.close()
