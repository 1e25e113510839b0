"""Images laid one over the other give the volume as it was, whatever lies over what."""

from __future__ import annotations

import tempfile
import threading
import tracemalloc
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.errors import DigestMismatchError, GeometryError, RollforwardError
from storage import layout, overlay
from storage.overlay import Overlay
from storage.replay import BlockReader
from tests.unit.forge import many_zero_frames, take_apart
from tests.unit.plain_kernels import granules_of
from tests.unit.tiny import BLOCK, GRANULE, TinyVolume, noise, open_files

SLOW = settings(max_examples=max(settings.default.max_examples // 5, 20))
"""For laws whose examples write and read real images."""


def volume_of(paths: Sequence[Path]) -> bytes:
    """Decode what some images, laid one over the other, lead to."""
    with Overlay(paths) as laid:
        volume = bytearray(laid.block_count * laid.block_bytes)
        for stripe in BlockReader(laid).stripes():
            for block, plain in zip(stripe.blocks.tolist(), stripe.plain, strict=True):
                if block < laid.block_count:
                    volume[block * laid.block_bytes : (block + 1) * laid.block_bytes] = plain.tobytes()
                else:
                    assert not plain.any(), f"block {block} lies beyond the volume's end, and is not zero"
        assert not any(volume[laid.end_bytes :]), "there is something beyond the volume's end"
        for clears in (True, False):
            assert parcelled(laid, clears=clears) == volume
        return bytes(volume[: laid.end_bytes])


def parcelled(laid: Overlay, first_block: int = 0, *, clears: bool = False) -> bytearray:
    """Decode the same in parcels, from a block on: all of their blocks, or only the granules that are seen."""
    volume = bytearray(laid.block_count * laid.block_bytes)
    before = -1
    for parcel in BlockReader(laid).parcels(first_block, clears=clears):
        for row, block in enumerate(parcel.blocks.tolist()):
            assert before < block < laid.block_count
            before, at = block, block * laid.block_bytes
            if clears:
                volume[at : at + laid.block_bytes] = parcel.plain[row].tobytes()
                continue
            for granule in granules_of(parcel.seen_lo[row], parcel.seen_hi[row]):
                first = granule * laid.granule_bytes
                piece = parcel.plain[row, first : first + laid.granule_bytes].tobytes()
                volume[at + first : at + first + laid.granule_bytes] = piece
    return volume


# --- real histories


@st.composite
def histories(draw):
    """Some states of a volume that is written to, cleared, cut, extended and set back."""
    sizes = st.integers(1, 3 * BLOCK) | st.sampled_from(
        [1, GRANULE, GRANULE + 1, BLOCK, BLOCK + 1, 2 * BLOCK]
    )
    states = [noise(draw(sizes), 1)]
    for number in range(draw(st.integers(2, 5))):
        kinds = ["write", "write", "clear", "cut", "extend", "extend by what was", "set back", "nothing"]
        kind = draw(st.sampled_from(kinds))
        now, size = bytearray(states[-1]), len(states[-1])
        if kind in ("write", "clear"):
            for _ in range(draw(st.integers(1, 3))):
                first = draw(st.integers(0, size - 1))
                length = min(draw(st.integers(1, 3 * GRANULE) | st.just(BLOCK)), size - first)
                now[first : first + length] = noise(length, number + 2) if kind == "write" else bytes(length)
        elif kind == "set back":
            now = bytearray(draw(st.sampled_from(states)))
        elif kind != "nothing":
            new_size = draw(sizes)
            older = draw(st.sampled_from(states)) if kind == "extend by what was" else b""
            now = now[:new_size].ljust(size, b"\0") if kind == "cut" else now
            now = (now[:new_size] + older[size:new_size]).ljust(new_size, b"\0")
        states.append(bytes(now))
    return states


@SLOW
@given(histories(), st.data())
def test_every_way_to_a_point_gives_that_point(states, data):
    with tempfile.TemporaryDirectory(dir=memory()) as home:
        tiny = TinyVolume(Path(home))
        tiny.capture_states(states)
        last = len(states) - 1
        line = [tiny.image(number) for number in range(last + 1)]
        for number, content in enumerate(states):
            assert volume_of(line[: number + 1]) == content
        after = data.draw(st.integers(0, last - 1))
        upto = data.draw(st.integers(after + 1, last))
        merged = tiny.merge(after, upto, "-cd").path
        for standing in range(after, upto):  # law 1: usable at its from point and at each that it covers
            found = volume_of([*line[: standing + 1], merged])
            assert found == states[upto], f"({after}, {upto}] applied at {standing}"
        for number in range(upto, last + 1):
            assert volume_of([*line[: after + 1], merged, *line[upto + 1 : number + 1]]) == states[number]
        if last > upto:  # overlapping: from a point inside the first to the end
            inside = data.draw(st.integers(after, upto - 1))
            wider = tiny.merge(inside, last, "-cw").path
            assert volume_of([*line[: after + 1], merged, wider]) == states[last]


def memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


SIZES = [
    # what the volume's sizes were, in bytes; it is full of noise each time, then extended by zeros or by noise
    (3 * BLOCK, BLOCK, 3 * BLOCK),
    (1000, 700, 1000),
    (1000, 512, 1000),
    (1000, 513, 511, 1000),
    (BLOCK + 1, 1, BLOCK + 1),
    (BLOCK, BLOCK - 1, BLOCK),
    (2 * BLOCK, 10, BLOCK, 5, 2 * BLOCK),
    (1, 3 * BLOCK, 1),
]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("content", ["zeros", "new", "old"])
def test_what_was_cut_off_stays_away_until_it_is_written_again(tiny, sizes, content):
    largest = noise(max(sizes), 1)
    states, now = [], largest[: sizes[0]]
    for number, size in enumerate(sizes):
        more = {"zeros": bytes(size), "new": noise(size, number + 9), "old": largest}[content]
        now = (now[:size] + more[len(now) : size])[:size]
        states.append(now)
    tiny.capture_states(states)
    last = len(states) - 1
    line = [tiny.image(number) for number in range(last + 1)]
    merged = tiny.merge(0, last, "-cd").path
    for number in range(last + 1):
        assert volume_of(line[: number + 1]) == states[number]
        if number < last:
            assert volume_of([*line[: number + 1], merged]) == states[last]


def test_a_state_that_comes_back_is_not_taken_for_unchanged(tiny):
    a, b = noise(BLOCK, 1), noise(BLOCK, 2)
    tiny.capture_states([a, b, a])
    merged = tiny.merge(0, 2, "-cd").path
    assert len(take_apart(merged.read_bytes()).records) == 1
    assert volume_of([tiny.image(0), tiny.image(1), merged]) == a


# --- windows


@pytest.fixture
def small_pages(monkeypatch):
    """Index pages of three records, and windows of as few pages as may be."""
    monkeypatch.setattr(layout, "RECORDS_PER_PAGE", 3)
    monkeypatch.setattr(layout, "PAGE_BYTES", 3 * layout.RECORD_BYTES)
    monkeypatch.setattr(overlay, "_WINDOW_PAGES", 4)


def scattered(tiny: TinyVolume, points: int, blocks: int = 40) -> list[Path]:
    """Capture states that differ in some blocks each, far and near, one block in all of them."""
    now = bytearray(noise(blocks * BLOCK, 1))
    states = [bytes(now)]
    for number in range(1, points):
        chosen = np.random.default_rng(number).permutation(blocks)[:7].tolist()
        for block in {*chosen, 17}:
            first = block * BLOCK + number % 5 * GRANULE
            now[first : first + 2 * GRANULE] = noise(2 * GRANULE, number)
        states.append(bytes(now))
    tiny.capture_states(states)
    return [tiny.image(number) for number in range(points)]


def test_each_frame_lies_in_exactly_one_window(tiny, small_pages):
    paths = scattered(tiny, 6)
    forged = [take_apart(path.read_bytes()) for path in paths]
    expected = sorted(
        (record["block"], -layer, record["offset"])
        for layer, image in enumerate(forged)
        for record in image.records
    )
    for align in (1, 4, 64):
        with Overlay(paths) as laid:
            windows = list(laid.windows(align_blocks=align))
        found = [
            (block, -layer, offset)
            for window in windows
            for block, layer, offset in zip(
                window.records["block"].tolist(), window.layer.tolist(), window.records["offset"], strict=True
            )
        ]
        assert found == expected
        assert len(windows) > 3 or align == 64
        at = 0
        for window in windows:
            assert window.first_block == at
            assert window.first_block % align == window.stop_block % align == 0
            assert all(
                window.first_block <= block < window.stop_block for block in window.records["block"].tolist()
            )
            at = window.stop_block


def test_small_pages_and_windows_change_nothing(tiny, small_pages):
    paths = scattered(tiny, 6)
    for number in range(6):
        assert volume_of(paths[: number + 1]) == tiny.states[number]
    tiny.merge(0, 5, "-cd")
    tiny.check()


def test_a_block_with_frames_on_several_pages(tiny, small_pages):
    paths = scattered(tiny, 9)
    merged = tiny.merge(0, 8, "-cd").path
    forged = take_apart(paths[0].read_bytes())
    assert forged.seal() != b""
    with Overlay([merged]) as laid:
        window = laid.between(17, 18)
        assert len(window) > 3, "block 17 changed in every state"
        assert window.records["origin"].tolist() == sorted(window.records["origin"].tolist(), reverse=True)
    assert volume_of([paths[0], merged]) == tiny.states[8]


def test_a_range_of_blocks_is_the_same_from_any_side(tiny, small_pages):
    paths = scattered(tiny, 4)
    with Overlay(paths) as laid:
        whole = laid.between(0, 1 << 32)
        for first, stop in [(0, 1), (17, 18), (3, 29), (39, 40), (5, 5), (40, 90), (0, 40), (17, 19), (1, 2)]:
            window = laid.between(first, stop)
            rows = (whole.records["block"] >= first) & (whole.records["block"] < stop)
            assert np.array_equal(window.records, whole.records[rows])
            assert np.array_equal(window.need_lo, whole.need_lo[rows])
        blocks = np.array([2, 17, 38], np.int64)
        some = laid.of_blocks(blocks)
        assert set(some.records["block"].tolist()) == {2, 17, 38}
        assert np.array_equal(some.records, whole.records[np.isin(whole.records["block"], blocks)])


def test_blocks_far_apart_are_found_without_reading_all_between(tiny, quick_path):
    """An index of 19 MB, of which two blocks are wanted."""
    tiny.capture_states([noise(1000)])
    count = 300_000
    path = quick_path / "large.spf"
    path.write_bytes(many_zero_frames(tiny.image().read_bytes(), count).seal())
    with Overlay([path]) as laid:
        wanted = np.array([0, 5, 150_000, count - 1], np.int64)
        tracemalloc.start()
        try:
            window = laid.of_blocks(wanted)
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()
        assert window.records["block"].tolist() == wanted.tolist()
        assert window.need_lo.tolist() == [1] * 4
        assert not BlockReader(laid).read(wanted).any()


def test_batches_and_stripes_cut_a_window_without_losing_anything(tiny):
    paths = scattered(tiny, 5)
    with Overlay(paths) as laid:
        window = laid.between(0, 40)
        for limit in (1, 1000, 100_000, 1 << 30):
            parts = list(window.batches(limit))
            assert np.array_equal(np.concatenate([part.records for part in parts]), window.records)
            for part in parts:
                lengths = part.records["length"].tolist()
                assert sum(lengths[:-1]) <= limit or len(lengths) == 1
        for blocks in (1, 3, 64, 1000):
            parts = list(window.stripes(blocks))
            assert np.array_equal(np.concatenate([part.layer for part in parts]), window.layer)
            stripes = [set((part.records["block"] // blocks).tolist()) for part in parts]
            assert [len(stripe) for stripe in stripes] == [1] * len(parts)
            assert len(set.union(*stripes)) == len(parts)


def test_parcels_hold_so_many_blocks_and_begin_anywhere(tiny, small_pages):
    paths = scattered(tiny, 5)
    with Overlay(paths) as laid:
        window = laid.between(0, 40)
        for blocks in (1, 3, 64):
            parts = list(window.parcels(blocks))
            assert np.array_equal(np.concatenate([part.layer for part in parts]), window.layer)
            counts = [len(set(part.records["block"].tolist())) for part in parts]
            assert counts[:-1] == [blocks] * (len(parts) - 1)
            assert sum(counts) == 40
        for first in (0, 1, 17, 39, 40, 1000):
            begun = min(first, 40) * BLOCK
            assert parcelled(laid, first)[begun:] == parcelled(laid)[begun:]
            assert not any(parcelled(laid, first)[:begun])


def test_only_what_is_seen_is_needed(tiny):
    paths = scattered(tiny, 5)
    with Overlay(paths) as laid:
        window = laid.between(0, 40)
    seen: dict[int, set[int]] = {}
    for row, record in enumerate(window.records):
        need = granules_of(window.need_lo[row], window.need_hi[row])
        assert need <= granules_of(record["mask_lo"], record["mask_hi"])
        shown = seen.setdefault(int(record["block"]), set())
        assert not need & shown
        shown |= need
    assert all(shown == set(range(128)) for shown in seen.values())


def test_blocks_are_decoded_one_by_one_too(tiny):
    paths = scattered(tiny, 4)
    with Overlay(paths) as laid:
        reader = BlockReader(laid)
        for blocks in ([0], [17], [3, 17, 39], list(range(40)), [39, 40, 1000]):
            plain = reader.read(np.array(blocks, np.int64))
            for row, block in enumerate(blocks):
                content = tiny.states[3][block * BLOCK : (block + 1) * BLOCK].ljust(BLOCK, b"\0")
                assert plain[row].tobytes() == content


def test_many_layers(tiny):
    now = bytearray(noise(4 * BLOCK, 1))
    tiny.capture_states([bytes(now)])
    for number in range(1, 60):
        now[number * 777 : number * 777 + 600] = noise(600, number)
        tiny.capture_states([bytes(now)])
    paths = [tiny.image(number) for number in range(60)]
    assert volume_of(paths) == bytes(now)
    merged = tiny.merge(0, 59, "-cd").path
    assert volume_of([paths[0], merged]) == bytes(now)
    assert volume_of([*paths[:30], merged]) == bytes(now)


# --- refusals


def test_images_of_another_chain_or_geometry_are_refused_by_name(tiny, quick_path, monkeypatch):
    tiny.capture_states([noise(5000), noise(5000, 1)])
    other = TinyVolume(quick_path / "other")
    other.capture_states([noise(5000), noise(5000, 1)])
    with pytest.raises(GeometryError, match="another chain") as caught:
        Overlay([tiny.image(), other.image(1)])
    assert caught.value.path == str(other.image(1))
    forged = take_apart(tiny.image(1).read_bytes())
    forged.header.update(granule_bytes=1024, block_bytes=1024 * 128)
    for record in forged.records:
        record.update(length=0, flags=0)
    forged.frames = b""
    wrong = quick_path / "wrong.spi"
    wrong.write_bytes(forged.seal())
    with pytest.raises(GeometryError, match="geometry") as caught:
        Overlay([tiny.image(), wrong])
    assert caught.value.path == str(wrong)


def test_nothing_stays_open_when_one_of_the_images_is_bad(tiny, quick_path):
    tiny.capture_states([noise(5000), noise(5000, 1)])
    before = open_files()
    bad = quick_path / "bad.spi"
    bad.write_bytes(tiny.image(1).read_bytes()[:-1])
    for second in (bad, quick_path / "gone.spi"):
        with pytest.raises(RollforwardError):
            Overlay([tiny.image(), second])
    assert open_files() == before


def test_a_damaged_frame_is_named_with_its_file_and_place(tiny):
    scattered(tiny, 3)
    path = tiny.image(2)
    image = path.read_bytes()
    record = take_apart(image).records[3]
    at = int(record["offset"]) + int(record["length"]) // 2
    path.write_bytes(image[:at] + bytes([image[at] ^ 1]) + image[at + 1 :])
    with Overlay([tiny.image(0), tiny.image(1), path]) as laid:
        reader = BlockReader(laid)
        with pytest.raises(DigestMismatchError, match="stored data") as caught:
            list(reader.stripes())
        assert caught.value.path == str(path)
        with pytest.raises(DigestMismatchError, match=f"block {record['block']}") as caught:
            reader.read(np.array([record["block"]], np.int64))
        assert (caught.value.path, caught.value.offset) == (str(path), record["offset"])
        good = next(block for block in range(40) if block != record["block"])
        reader.read(np.array([good], np.int64))  # no buffer is lost: all threads still have one
        for _ in range(20):
            with pytest.raises(DigestMismatchError):
                reader.read(np.array([record["block"]], np.int64))
        reader.read(np.array([good], np.int64))


def test_a_walk_may_end_early(tiny):
    paths = scattered(tiny, 2, blocks=400)
    before = threading.active_count()
    with Overlay(paths) as laid:
        reader = BlockReader(laid)
        for _ in range(5):
            with closing(reader.stripes()) as walk:
                assert len(next(walk).blocks) > 0
            assert threading.active_count() == before
        assert sum(len(stripe.blocks) for stripe in reader.stripes()) == 400
