"""Every compiled loop does what its plain twin does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numba.core.dispatcher import Dispatcher

from storage import kernels, layout
from tests.unit import plain_kernels as plain

GRANULE_SIZES = st.sampled_from([512, 1024, 4096, 65_536])
WORDS = st.integers(0, 2**64 - 1)
SPARSE_MASKS = st.sets(st.integers(0, 127), max_size=6)
RUNS = st.lists(st.tuples(st.integers(0, 127), st.integers(1, 128)), max_size=4).map(
    lambda runs: {granule for first, length in runs for granule in range(first, min(first + length, 128))}
)
MASKS = st.one_of(SPARSE_MASKS, RUNS, st.just(set(range(128))), st.just(set()), st.just({63, 64}))
SMALL_GRANULE = 512
"""Granules of most examples: the loops know no other property of it than its size."""


def noise(size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def records_of(rows: list[dict[str, int]]) -> np.ndarray:
    records = np.zeros(len(rows), layout.RECORD)
    for at, row in enumerate(rows):
        for name, value in row.items():
            records[name][at] = value
    return records


def test_every_kernel_has_a_twin():
    compiled = {name for name, value in vars(kernels).items() if isinstance(value, Dispatcher)}
    assert {name for name in compiled if not name.startswith("_")} <= set(vars(plain))


@given(WORDS)
@example(2**64 - 1)
@example(1 << 63)
def test_popcount(word):
    assert kernels.popcount(np.uint64(word)) == plain.popcount(word)


@given(st.integers(-(2**40), 2**40) | st.integers(-2, 66))
def test_low_bits(count):
    assert int(kernels.low_bits(count)) == plain.low_bits(count)


@given(st.data(), GRANULE_SIZES, st.integers(0, layout.MAX_BLOCKS))
def test_granules_before(data, granule_bytes, block):
    start = block * granule_bytes * layout.GRANULES_PER_BLOCK
    near = st.integers(max(start - 3 * granule_bytes, 0), start + 130 * granule_bytes)
    limit = data.draw(near | st.integers(0, 1 << 62))
    found = kernels.granules_before(limit, block, granule_bytes)
    assert found == plain.granules_before(limit, block, granule_bytes)


FRAMES_OFFSET = 384
HOSTILE = st.sampled_from([0, 1, 2, 3, 511, 512, 65_536, 2**31, 2**32 - 1])


@st.composite
def indexes(draw):
    """An index that is right: records, volume sizes, where the frames end, and how long their tags are."""
    tag_bytes = draw(st.sampled_from([0, layout.FRAME_TAG_BYTES]))
    granule_bytes = draw(st.sampled_from([512, 4096]))
    sizes = draw(st.lists(st.integers(1, 3 * 128 * granule_bytes), min_size=1, max_size=4))
    at, rows = FRAMES_OFFSET, []
    for block in range(3):
        for origin in sorted(draw(st.sets(st.integers(0, len(sizes) - 1))), reverse=True):
            room = plain.granules_before(sizes[origin], block, granule_bytes)
            granules = {granule for granule in draw(MASKS) if granule < room}
            if not granules:
                continue
            plain_bytes = len(granules) * granule_bytes
            flags = draw(st.sampled_from([layout.FRAME_ZERO, layout.FRAME_RAW, layout.FRAME_ZSTD]))
            lengths = {
                layout.FRAME_ZERO: st.just(0),
                layout.FRAME_RAW: st.just(plain_bytes + tag_bytes),
                layout.FRAME_ZSTD: st.integers(tag_bytes + 1, tag_bytes + plain_bytes - 1),
            }
            length = draw(lengths[flags])
            if tag_bytes and draw(st.booleans()):
                length, flags = 0, flags | layout.FRAME_TRACE
            lo, hi = plain.mask_of(granules)
            place = {"block": block, "origin": origin, "offset": at, "length": length, "flags": flags}
            rows.append(place | {"mask_lo": lo, "mask_hi": hi})
            at += length
    return records_of(rows), np.array(sizes, np.int64), granule_bytes, at, tag_bytes


@given(indexes())
def test_a_right_index_passes(index):
    records, sizes, granule_bytes, end, tag_bytes = index
    assert kernels.check_records(records, sizes, granule_bytes, FRAMES_OFFSET, end, tag_bytes) == (0, -1)
    assert kernels.plain_bytes_of(records, granule_bytes) == plain.plain_bytes_of(records, granule_bytes)


@given(indexes().filter(lambda index: len(index[0])), st.data())
def test_a_wrong_index_is_judged_as_by_the_twin(index, data):
    records, sizes, granule_bytes, end, tag_bytes = index
    for _ in range(data.draw(st.integers(1, 2))):
        row = data.draw(st.integers(0, len(records) - 1))
        name = data.draw(
            st.sampled_from(["block", "origin", "offset", "length", "flags", "mask_lo", "mask_hi"])
        )
        wide = WORDS if records.dtype[name].itemsize == 8 else st.integers(0, 2**32 - 1)
        value = int(records[name][row])
        near = st.integers(max(value - 2, 0), value + 2)
        top = 2 ** (8 * records.dtype[name].itemsize) - 1
        records[name][row] = min(data.draw(st.one_of(HOSTILE, near, wide)), top)
    if data.draw(st.booleans()):
        records = records[data.draw(st.permutations(range(len(records))))]
    expected = plain.check_records(records, sizes.tolist(), granule_bytes, FRAMES_OFFSET, end, tag_bytes)
    assert kernels.check_records(records, sizes, granule_bytes, FRAMES_OFFSET, end, tag_bytes) == expected


@pytest.mark.parametrize("offset", [2**63, 2**63 - 1, 2**64 - 1, 2**64 - 512])
def test_an_offset_that_would_wrap_round_is_refused(offset):
    lo, hi = plain.mask_of({0})
    row = {"block": 0, "origin": 0, "offset": offset, "length": 512, "flags": layout.FRAME_RAW}
    records = records_of([row | {"mask_lo": lo, "mask_hi": hi}])
    found = kernels.check_records(records, np.array([1 << 62], np.int64), 512, FRAMES_OFFSET, 4096)
    assert found == (kernels.FAULT_OFFSET, 0)


@given(st.data(), st.lists(st.tuples(st.integers(0, 2), MASKS), max_size=8))
def test_overlay_masks(data, frames):
    records = np.zeros(len(frames), layout.RECORD)
    for row, (block, granules) in enumerate(sorted(frames, key=lambda frame: frame[0])):
        records[row]["block"] = block
        records[row]["mask_lo"], records[row]["mask_hi"] = plain.mask_of(granules)
    cut = st.integers(0, 3 * 128 * SMALL_GRANULE) | st.just(1 << 62)
    cuts = np.array([data.draw(cut) for _ in frames], np.int64)
    found, expected = (np.full((2, len(frames)), 7, np.uint64) for _ in range(2))
    kernels.overlay_masks(records, cuts, SMALL_GRANULE, found[0], found[1])
    plain.overlay_masks(records, cuts, SMALL_GRANULE, expected[0], expected[1])
    assert np.array_equal(found, expected)


@given(MASKS, MASKS, st.integers(0, 99))
def test_scatter_granules(held, needed, seed):
    packed = noise(len(held) * SMALL_GRANULE, seed)
    masks = (*plain.mask_of(held), *plain.mask_of(needed & held))
    found = noise(128 * SMALL_GRANULE, seed + 1)
    expected = found.copy()
    kernels.scatter_granules(packed, *masks, SMALL_GRANULE, found)
    plain.scatter_granules(packed, *masks, SMALL_GRANULE, expected)
    assert np.array_equal(found, expected)


@given(MASKS, st.integers(0, 99))
def test_zero_granules(needed, seed):
    found = noise(128 * SMALL_GRANULE, seed)
    expected = found.copy()
    kernels.zero_granules(*plain.mask_of(needed), SMALL_GRANULE, found)
    plain.zero_granules(*plain.mask_of(needed), SMALL_GRANULE, expected)
    assert np.array_equal(found, expected)


@given(MASKS, st.integers(0, 99))
def test_gather_granules(wanted, seed):
    block = noise(128 * SMALL_GRANULE, seed)
    found, expected = np.zeros_like(block), np.zeros_like(block)
    masks = plain.mask_of(wanted)
    size = kernels.gather_granules(block, *masks, SMALL_GRANULE, found)
    assert size == plain.gather_granules(block, *masks, SMALL_GRANULE, expected)
    assert np.array_equal(found, expected)


@given(MASKS, st.integers(0, 99))
def test_what_is_gathered_is_scattered_to_where_it_was(wanted, seed):
    block = noise(128 * SMALL_GRANULE, seed)
    packed, back = np.zeros_like(block), block.copy()
    masks = plain.mask_of(wanted)
    size = kernels.gather_granules(block, *masks, SMALL_GRANULE, packed)
    kernels.zero_granules(*masks, SMALL_GRANULE, back)
    kernels.scatter_granules(packed[:size], *masks, *masks, SMALL_GRANULE, back)
    assert np.array_equal(back, block)


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 1000)), max_size=12), st.integers(0, 99))
def test_gather_runs(runs, seed):
    source = noise(4000, seed)
    starts, lengths = (np.array([run[at] for run in runs], np.int64) for at in (0, 1))
    found, expected = (np.zeros(12_000, np.uint8) for _ in range(2))
    size = kernels.gather_runs(source, starts, lengths, found)
    assert size == plain.gather_runs(source, starts, lengths, expected)
    assert np.array_equal(found, expected)


@st.composite
def changes(draw):
    """Two states of some blocks, and the size of their granules in words."""
    words_per_granule = draw(st.sampled_from([64, 64, 64, 512]))
    count = draw(st.integers(0, 2))
    old = np.zeros((count, 128 * words_per_granule), np.uint64)
    if draw(st.booleans()):
        old[:] = noise(old.size, 5).reshape(old.shape)
    new = old.copy()
    places = st.tuples(st.integers(0, max(count - 1, 0)), st.integers(0, old.shape[1] - 1))
    for row, word in draw(st.lists(places, max_size=5 if count else 0)):
        new[row, word] ^= np.uint64(1 << draw(st.integers(0, 63)))
    return new, old, words_per_granule


@given(changes())
def test_changed_masks(change):
    new, old, words_per_granule = change
    found, expected = (np.full((2, len(new)), 7, np.uint64) for _ in range(2))
    kernels.changed_masks(new, old, words_per_granule, found[0], found[1])
    plain.changed_masks(new, old, words_per_granule, expected[0], expected[1])
    assert np.array_equal(found, expected)


@given(changes())
def test_nonzero_masks_and_filled_blocks(change):
    blocks, _, words_per_granule = change
    found, expected = (np.full((2, len(blocks)), 7, np.uint64) for _ in range(2))
    kernels.nonzero_masks(blocks, words_per_granule, found[0], found[1])
    plain.nonzero_masks(blocks, words_per_granule, expected[0], expected[1])
    assert np.array_equal(found, expected)
    assert np.array_equal(kernels.filled_blocks(blocks), plain.filled_blocks(blocks))


@pytest.mark.parametrize("word", [0, 63, 64, 4095, 4096, 8191])
def test_a_single_bit_anywhere_fills_a_block(word):
    blocks = np.zeros((3, 8192), np.uint64)
    blocks[1, word] = 1 << 63
    assert kernels.filled_blocks(blocks).tolist() == [False, True, False]


@given(st.data())
def test_filled_runs(data):
    size = data.draw(st.integers(1, 3000))
    source = np.zeros(size, np.uint8)
    for at in data.draw(st.lists(st.integers(0, size - 1), max_size=4)):
        source[at] = 1
    starts = np.array(data.draw(st.lists(st.integers(0, size - 1), max_size=8)), np.int64)
    lengths = np.array([data.draw(st.integers(1, size - start)) for start in starts.tolist()], np.int64)
    found = kernels.filled_runs(source, starts, lengths)
    assert found.tolist() == plain.filled_runs(source, starts, lengths).tolist()


@given(st.lists(MASKS, max_size=5), GRANULE_SIZES)
def test_granule_runs(masks, granule_bytes):
    words = np.array([plain.mask_of(mask) for mask in masks], np.uint64).reshape(-1, 2).T.copy()
    found = kernels.granule_runs(words[0], words[1], granule_bytes)
    assert list(zip(*(part.tolist() for part in found), strict=True)) == plain.granule_runs(
        words[0], words[1], granule_bytes
    )
