"""Frames decoded in one go come out as they do one by one, and bad ones are refused just the same."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import FormatError
from storage import layout, native_zstd, replay, scan
from storage.codec import decode_frame, lay_frame
from storage.frame_kernels import code_frames, lay_frames
from tests.unit.test_image import BAD_FRAMES, compressed
from tests.unit.test_kernels import MASKS, noise, records_of
from tests.unit.test_overlay import scattered, volume_of
from tests.unit.tiny import TinyVolume

GRANULE = 512
BLOCK = GRANULE * layout.GRANULES_PER_BLOCK

LIBRARY = native_zstd.decoding_library()
needs_library = pytest.mark.skipif(LIBRARY is None, reason="this machine has no libzstd.so.1")


def words_of(granules: set[int]) -> tuple[int, int]:
    mask = sum(1 << granule for granule in granules)
    return mask & (2**64 - 1), mask >> 64


@st.composite
def frames(draw):
    """One frame: its coding, its granules, those of them that are wanted, its bytes."""
    granules = draw(MASKS.filter(bool))
    wanted = draw(st.just(granules) | st.just(set()) | st.sets(st.sampled_from(sorted(granules))))
    flags = draw(st.sampled_from([layout.FRAME_ZERO, layout.FRAME_RAW, layout.FRAME_ZSTD, layout.FRAME_ZSTD]))
    plain = noise(len(granules) * GRANULE, draw(st.integers(0, 99)))
    if flags != layout.FRAME_RAW:
        plain[GRANULE // 3 :] = 7
    told, checked = draw(st.booleans()), draw(st.booleans())
    coder = zstandard.ZstdCompressor(draw(st.sampled_from([-3, 1, 9])), None, None, told, checked)
    stored = {layout.FRAME_ZERO: b"", layout.FRAME_RAW: plain.tobytes()}.get(flags)
    return flags, granules, wanted, coder.compress(plain.tobytes()) if stored is None else stored


def lay_both_ways(drawn, rows, blocks):
    """Lay frames into blocks of noise in one go and one by one; return both, and what the loop said."""
    keys = ("mask_lo", "mask_hi")
    records = records_of(
        [dict(zip(keys, words_of(held), strict=True)) | {"flags": flags} for flags, held, _, _ in drawn]
    )
    need = np.array([words_of(wanted) for _, _, wanted, _ in drawn], np.uint64).reshape(-1, 2)
    need_lo, need_hi = np.ascontiguousarray(need[:, 0]), np.ascontiguousarray(need[:, 1])
    lengths = np.array([len(stored) for *_, stored in drawn], np.int64)
    starts = np.cumsum(lengths) - lengths
    stored = np.frombuffer(bytearray(b"".join(stored for *_, stored in drawn) + b"end"), np.uint8)
    at_once = noise(blocks * BLOCK, 5).reshape(blocks, BLOCK)
    singly = at_once.copy()
    scratch = np.empty(BLOCK, np.uint8)
    said = lay_frames(
        records,
        np.array(rows, np.int64),
        need_lo,
        need_hi,
        stored,
        starts,
        lengths,
        GRANULE,
        at_once,
        scratch,
        native_zstd.decoding_library(),
    )
    failed = -1
    for at, (record, row) in enumerate(zip(records, rows, strict=True)):
        piece = memoryview(stored)[int(starts[at]) : int(starts[at] + lengths[at])]
        if need_lo[at] or need_hi[at]:
            try:
                lay_frame(record, (need_lo[at], need_hi[at]), piece, GRANULE, singly[row])
            except FormatError:
                failed = at
                break
    return at_once, singly, said, failed


@needs_library
@given(st.data(), st.lists(frames(), min_size=1, max_size=5))
def test_many_frames_at_once(data, drawn):
    rows = data.draw(st.lists(st.integers(0, 2), min_size=len(drawn), max_size=len(drawn)))
    at_once, singly, said, failed = lay_both_ways(drawn, rows, 3)
    assert said == failed == -1
    assert np.array_equal(at_once, singly)


HOSTILE = BAD_FRAMES | {
    "nothing": b"",
    "too large a window": b"\x28\xb5\x2f\xfd\x00" + bytes([15 << 3]) + bytes([0x01 | 2 << 1, 4, 0]) + b"a",
    "an old format": b"\x27\xb5\x2f\xfd" + compressed(bytes(1024))[4:],
    "an unknown dictionary": b"\x28\xb5\x2f\xfd\x21\x09" + compressed(bytes(1024))[5:],
    "a wrong checksum": compressed(noise(500, 1).tobytes() + bytes(524), write_checksum=True)[:-1] + b"\x00",
}


@needs_library
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("whole", [True, False], ids=["whole block", "part"])
def test_bad_frames_are_refused_by_both(name, whole):
    granules = set(range(128)) if whole else {3, 4}
    bad = (layout.FRAME_ZSTD, granules, granules, HOSTILE[name])
    good = (layout.FRAME_RAW, {0}, {0}, bytes(GRANULE))
    *_, said, failed = lay_both_ways([good, bad, good], [0, 1, 0], 2)
    assert said == failed == 1


@needs_library
@pytest.mark.parametrize("size", [0, GRANULE, 3 * GRANULE])
@pytest.mark.parametrize("whole", [True, False], ids=["whole block", "part"])
def test_bytes_that_do_not_fill_their_granules_are_refused_by_both(size, whole):
    granules = set(range(128)) if whole else {3, 4}
    *_, said, failed = lay_both_ways([(layout.FRAME_RAW, granules, granules, bytes(size))], [0], 1)
    assert said == failed == 0


@needs_library
@pytest.mark.parametrize(
    ("row", "start", "length"),
    [(2, 0, GRANULE), (-1, 0, GRANULE), (0, -1, GRANULE), (0, 2, GRANULE), (0, 2**63 - 1, 9), (0, 0, -1)],
)
def test_no_frame_lies_outside_its_buffers(row, start, length):
    records = records_of([{"mask_lo": 1, "mask_hi": 0, "flags": layout.FRAME_RAW}])
    numbers = (np.array([number], np.int64) for number in (start, length))
    one, none = np.ones(1, np.uint64), np.zeros(1, np.uint64)
    stored, plain, scratch = noise(GRANULE + 1, 1), noise(2 * BLOCK, 2).reshape(2, BLOCK), noise(BLOCK, 3)
    before = plain.copy()
    rows = np.array([row], np.int64)
    assert lay_frames(records, rows, one, none, stored, *numbers, GRANULE, plain, scratch, LIBRARY) == 0
    assert np.array_equal(plain, before)


@needs_library
@pytest.mark.parametrize(("block_bytes", "scratch_bytes"), [(BLOCK - 1, BLOCK), (BLOCK, BLOCK - 1)])
def test_blocks_are_as_long_as_their_granules(block_bytes, scratch_bytes):
    none, words, some = np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.uint8)
    plain, scratch = np.empty((1, block_bytes), np.uint8), np.empty(scratch_bytes, np.uint8)
    with pytest.raises(ValueError, match="another size"):
        lay_frames(records_of([]), none, words, words, some, none, none, GRANULE, plain, scratch, LIBRARY)


@needs_library
@given(st.data(), frames().filter(lambda frame: frame[0] == layout.FRAME_ZSTD))
def test_spoilt_frames_write_nowhere_else(data, frame):
    flags, granules, wanted, stored = frame
    at = data.draw(st.integers(0, len(stored) - 1))
    spoilt = stored[:at] + bytes([stored[at] ^ data.draw(st.integers(1, 255))]) + stored[at + 1 :]
    at_once, singly, _, _ = lay_both_ways([(flags, granules, wanted, spoilt)], [1], 3)
    assert np.array_equal(at_once[[0, 2]], singly[[0, 2]])


CODER = native_zstd.coding_library()


def code(plain, rows, held, stored):
    """Code some granules of some rows; return the pieces of `stored` that the frames take."""
    words = np.array([words_of(granules) for granules in held], np.uint64).reshape(-1, 2)
    lo, hi = np.ascontiguousarray(words[:, 0]), np.ascontiguousarray(words[:, 1])
    lengths, scratch = np.empty(len(held), np.int64), np.empty(BLOCK, np.uint8)
    end = code_frames(plain, np.array(rows, np.int64), lo, hi, GRANULE, stored, lengths, scratch, CODER)
    assert end == lengths.sum()
    return np.split(stored[:end], np.cumsum(lengths)[:-1])


@needs_library
@given(st.lists(st.tuples(st.integers(0, 2), MASKS), min_size=1, max_size=5), st.integers(0, 99))
def test_what_is_coded_at_once_is_decoded_one_by_one(drawn, seed):
    plain = noise(3 * BLOCK, seed).reshape(3, BLOCK)
    plain[0, GRANULE:], plain[1] = 7, 9
    rows, held = zip(*drawn, strict=True)
    for (row, granules), piece in zip(
        drawn, code(plain, rows, held, np.empty(5 * BLOCK, np.uint8)), strict=True
    ):
        expected = plain[row].reshape(-1, GRANULE)[sorted(granules)].tobytes()
        is_smaller = len(piece) < len(expected)
        compressible = row == 1 or (row == 0 and granules != {0})
        assert is_smaller == (compressible and len(expected) > 0), "noise stays as it is"
        flags = layout.FRAME_ZSTD if is_smaller else layout.FRAME_RAW
        assert bytes(decode_frame(flags, piece.tobytes(), len(expected))) == expected
        if is_smaller:
            assert zstandard.get_frame_parameters(piece.tobytes()).content_size in (0, 2**64 - 1)
            assert not zstandard.get_frame_parameters(piece.tobytes()).has_checksum


@needs_library
@pytest.mark.parametrize(("row", "room"), [(3, BLOCK), (-1, BLOCK), (0, 2 * GRANULE - 1)])
def test_nothing_is_coded_outside_its_buffers(row, room):
    plain, stored = noise(3 * BLOCK, 1).reshape(3, BLOCK), noise(2 * BLOCK, 2)
    before = stored.copy()
    with pytest.raises(ValueError, match="within their buffers"):
        code(plain, [row], [{0, 5}], stored[:room])
    assert np.array_equal(stored, before)


def test_captures_without_the_library_hold_the_same(quick_path, monkeypatch):
    states = [bytes([7]) * (3 * BLOCK) + noise(BLOCK, 1).tobytes()]
    states.append(states[0][: 2 * BLOCK] + b"text" * (BLOCK // 4) + noise(BLOCK, 2).tobytes())
    found = []
    for name in ("with", "without"):
        volume = TinyVolume(quick_path / name)
        volume.capture_states(states)
        found.append(volume_of([volume.image(0), volume.image(1)]))
        monkeypatch.setattr(scan, "coding_library", lambda: None)
    assert found[0] == found[1] == states[1]


def test_without_the_library_it_is_the_same(tiny, monkeypatch):
    paths = scattered(tiny, 4)
    expected = volume_of(paths)
    monkeypatch.setattr(replay, "decoding_library", lambda: None)
    assert volume_of(paths) == expected


def test_a_machine_without_the_library(monkeypatch):
    native_zstd._load.cache_clear()
    monkeypatch.setattr(native_zstd, "_LIBRARY", "libnothing.so.0")
    try:
        assert native_zstd._load() is None
    finally:
        native_zstd._load.cache_clear()
