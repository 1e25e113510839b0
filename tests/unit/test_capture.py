"""Capture: a volume's states become images; whatever is lost on the way, the images hold the truth."""

from __future__ import annotations

import errno
import os
import threading
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from hsr.restore import restore
from policies.errors import (
    BusyError,
    ConfigurationError,
    DigestMismatchError,
    FormatError,
    MissingPointError,
    RollforwardError,
    SourceError,
    StorageError,
)
from storage import capture as capturing
from storage import fingerprints, layout, replay, scan, source
from storage.capture import capture
from storage.chain import load_chain
from storage.fingerprints import fingerprints_path
from storage.image import ImageReader
from storage.publish import folder_lock
from storage.source import VolumeSource
from storage.verify import verify_image
from tests.commands import run
from tests.loop import loop_device, needs_root, small_file_system
from tests.unit.forge import sections, take_apart
from tests.unit.plain_kernels import granules_of
from tests.unit.tiny import BLOCK, GRANULE, START, TinyVolume, fill, names, noise, open_files


def held(path: Path) -> dict[int, set[int]]:
    """Say which granules of which blocks an image holds."""
    records = take_apart(path.read_bytes()).records
    return {int(record["block"]): granules_of(record["mask_lo"], record["mask_hi"]) for record in records}


# --- what is stored


def test_a_base_holds_what_is_not_zero(tiny):
    tiny.capture_states([noise(GRANULE) + bytes(BLOCK) + noise(10, 1) + bytes(3 * BLOCK) + noise(1, 2)])
    assert held(tiny.image()) == {0: {0}, 1: {1}, 4: {1}}
    tiny.check()


def test_an_incremental_holds_the_granules_that_changed_and_no_others(tiny):
    now = bytearray(noise(3 * BLOCK))
    tiny.capture_states([bytes(now)])
    now[0] ^= 1
    now[BLOCK + 5 * GRANULE - 1] ^= 1
    now[2 * BLOCK + 64 * GRANULE : 2 * BLOCK + 66 * GRANULE] = bytes(2 * GRANULE)
    now[-1] ^= 0x80
    (made,) = tiny.capture_states([bytes(now)])
    assert held(made.path) == {0: {0}, 1: {4}, 2: {64, 65, 127}}
    assert made.changed_bytes == 5 * GRANULE
    tiny.check()


def test_what_is_written_again_as_it_was_is_no_change(tiny):
    content = noise(3 * BLOCK)
    tiny.capture_states([content])
    tiny.put(100, content[100:5000])
    made = tiny.capture()
    assert (made.changed_bytes, held(made.path)) == (0, {})
    assert made.header.end.number == 1
    tiny.check()


def test_a_blank_volume(tiny):
    tiny.capture_states([bytes(BLOCK), bytes(BLOCK), bytes(3 * BLOCK), bytes(1)])
    assert [held(tiny.image(number)) for number in range(4)] == [{}] * 4
    tiny.check()


def test_zeros_over_something_are_a_change_that_takes_no_room(tiny):
    tiny.capture_states([noise(BLOCK), bytes(BLOCK)])
    (record,) = take_apart(tiny.image(1).read_bytes()).records
    assert (record["flags"], record["length"]) == (layout.FRAME_ZERO, 0)
    tiny.check()


@pytest.mark.parametrize("size", [1, 511, 512, 513, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 700])
def test_volumes_of_any_size(tiny, size):
    tiny.capture_states([noise(size), noise(size, 1)])
    assert tiny.image().read_bytes() != b""
    tiny.check()


RESIZED = [
    [3 * BLOCK, BLOCK],
    [BLOCK, 3 * BLOCK],
    [1000, 700, 1000],
    [1000, 300, 1300],
    [BLOCK + 1, BLOCK, BLOCK - 1, BLOCK + 1],
    [5, 3 * BLOCK + 5, 5],
    [700_000, 1, 700_000],
    [9 * BLOCK + 77, 4 * BLOCK + 513, 9 * BLOCK + 78],
]


@pytest.mark.parametrize("sizes", RESIZED)
@pytest.mark.parametrize("forget", [False, True])
def test_volumes_that_shrink_and_grow(tiny, sizes, forget):
    content = noise(max(sizes))
    for number, size in enumerate(sizes):
        tiny.raw.write_bytes(content[:size])
        if forget and number:
            fingerprints_path(tiny.folder, tiny.name, 1).unlink()
        tiny.capture()
    tiny.check()
    tiny.merge(0, len(sizes) - 1, "-cd")
    tiny.check()


def test_a_volume_of_several_batches(tiny, monkeypatch):
    monkeypatch.setattr(scan, "_BATCH_BYTES", 2 * BLOCK)
    monkeypatch.setattr(replay, "_STRIPE_BYTES", BLOCK)
    monkeypatch.setattr(replay, "_LOAD_BYTES", 5000)
    now = bytearray(noise(15 * BLOCK + 9))
    states = [bytes(now)]
    for number in range(1, 4):
        for block in range(number, 15, number):
            now[block * BLOCK : block * BLOCK + 3000] = noise(3000, number)
        states.append(bytes(now))
    tiny.capture_states(states)
    tiny.check()


def test_a_sparse_source(tiny):
    tiny.resize(300 << 20)
    tiny.put(100 << 20, noise(5000))
    base = tiny.capture()
    assert base.changed_bytes == 10 * GRANULE
    tiny.put(200 << 20, noise(700, 1))
    with tiny.raw.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 250 << 20, 1 << 20)  # room without content
    made = tiny.capture()
    assert made.changed_bytes == 2 * GRANULE
    assert made.stored_bytes < 4000
    os.truncate(tiny.raw, 100 << 20)
    os.truncate(tiny.raw, 300 << 20)  # everything is a hole now
    made = tiny.capture()
    assert made.changed_bytes == 12 * GRANULE
    assert {record["flags"] for record in take_apart(made.path.read_bytes()).records} == {layout.FRAME_ZERO}
    tiny.states.clear()
    tiny.states[2] = bytes(300 << 20)
    tiny.check(2)


def test_large_granules_from_end_to_end(tiny, monkeypatch):
    """A volume from 1 TiB on has blocks of 512 KiB: here a small one is told to."""
    monkeypatch.setattr(layout, "geometry_for", lambda volume_bytes: 4096)
    now = bytearray(noise(3 * 524_288 + 1000))
    states = [bytes(now)]
    for number, first in enumerate((0, 4095, 524_287, 1_572_864), start=1):
        now[first : first + 2] = b"\xff\xff"
        now[600_000 + number * 3000 : 603_000 + number * 3000] = bytes(3000)
        states.append(bytes(now))
    states += [states[2][:600_001], states[4]]
    made = tiny.capture_states(states)
    monkeypatch.undo()
    assert {image.header.granule_bytes for image in made} == {4096}, (
        "geometry is the chain's, not the volume's"
    )
    assert held(tiny.image(1))[0] == {0}
    assert held(tiny.image(2))[0] == {0, 1}
    tiny.check()
    tiny.merge(0, 3, "-cd")
    tiny.merge(3, 6, "-cd")
    tiny.merge(0, 6, "-cw")
    for number in range(1, 6):
        tiny.image(number).unlink()
    tiny.check(0, 3, 6)
    assert all(verify_image(path, deep=True).status == "good" for path in tiny.folder.glob("*.sp?"))


# --- what it says


def test_the_header_says_what_was_captured(tiny):
    base, first = tiny.capture_states([noise(1000), noise(2000, 1)])
    assert (base.path, first.path) == (tiny.image(), tiny.image(1))
    assert base.header.start is None
    assert first.header.start == base.header.end
    assert first.header.chain_id == base.header.chain_id
    assert (first.header.end.number, first.header.end.volume_bytes) == (1, 2000)
    assert base.header.end.time == START
    assert first.header.volume == tiny.name
    assert first.header.metadata["source"] == str(tiny.raw)
    assert first.root == take_apart(first.path.read_bytes()).seal()[-32:]
    assert first.stored_bytes == first.path.stat().st_size
    assert not tiny.folder.stat().st_mode & 0o002
    assert not first.path.stat().st_mode & 0o007


def test_time_never_runs_backward_in_a_chain(tiny):
    tiny.raw.write_bytes(noise(1000))
    for hours in (5, 3, 7):
        capture(tiny.raw, tiny.folder, tiny.name, now=START + timedelta(hours=hours))
    times = []
    for number in range(3):
        with ImageReader(tiny.image(number)) as image:
            times.append((image.header.end.time - START) // timedelta(hours=1))
    assert times == [5, 5, 7]


@pytest.mark.parametrize(
    "name", ["Büro C", "it's", "a-b001", "-x", "x" * 200, "ü" * 100, "語-i003", "[red]x[b]", "{}"]
)
def test_names_of_volumes(quick_path, name):
    tiny = TinyVolume(quick_path / "tiny", name)
    tiny.capture_states([noise(1000), noise(1000, 1)])
    assert sorted(path.name for path in tiny.folder.glob("*.sp?")) == [
        f"{name}-b001-i001.spi",
        f"{name}-b001.spf",
    ]
    tiny.merge(0, 1, "-cd")
    tiny.check()


@pytest.mark.parametrize(
    "name", ["", "a/b", "..", ".x", "a\nb", "a\x1bb", "x" * 201, "ü" * 101, "\ud800", "a\0b"]
)
def test_names_that_cannot_be(tiny, name):
    tiny.raw.write_bytes(noise(1000))
    with pytest.raises(ConfigurationError):
        capture(tiny.raw, tiny.folder, name, now=START)
    assert names(tiny.folder) == []


def test_a_source_whose_name_is_not_unicode(tiny):
    path = tiny.raw.with_name(os.fsdecode(b"volume-\xff.raw"))
    path.write_bytes(noise(1000))
    made = capture(path, tiny.folder, tiny.name, now=START)
    assert verify_image(made.path).status == "good"
    with ImageReader(made.path) as image:
        assert "volume-" in str(image.header.metadata["source"])


# --- what it goes on from


def test_numbers_go_on_and_are_never_used_again(tiny):
    tiny.capture_states([noise(1000, seed) for seed in range(4)])
    tiny.image(3).unlink()
    tiny.states.pop(3)
    assert tiny.capture().header.end.number == 3, "the folder shows no trace of a third"
    tiny.image(2).write_text("something else")
    made = tiny.capture()
    assert made.header.end.number == 4
    assert made.path == tiny.image(4)


def test_a_bad_newest_image_is_passed_over(tiny):
    tiny.capture_states([noise(5000), noise(5000, 1), noise(5000, 2)])
    bad = tiny.image(2)
    bad.write_bytes(bad.read_bytes()[:-1])
    tiny.raw.write_bytes(noise(5000, 3))
    made = tiny.capture()
    assert (made.header.end.number, made.header.start.number) == (3, 1)
    assert fingerprints_path(tiny.folder, tiny.name, 1).exists()
    tiny.check(0, 1, 3)


def test_a_lost_newest_image_is_gone_on_without(tiny):
    tiny.capture_states([noise(5000), noise(5000, 1), noise(5000, 2), noise(5000, 3)])
    tiny.image(2).unlink()
    tiny.raw.write_bytes(noise(5000, 4))
    made = tiny.capture()
    assert (made.header.end.number, made.header.start.number) == (4, 1)
    tiny.check(0, 1, 4)


def test_consolidations_serve_as_well(tiny):
    tiny.capture_states([noise(5000, seed) for seed in range(5)])
    tiny.merge(0, 4, "-cd")
    for number in range(1, 5):
        tiny.image(number).unlink()
    tiny.raw.write_bytes(noise(5000, 9))
    made = tiny.capture()
    assert (made.header.end.number, made.header.start.number) == (5, 4)
    tiny.check(0, 4, 5)


def test_without_a_good_base_there_is_nothing_to_go_on_from(tiny):
    tiny.capture_states([noise(1000), noise(1000, 1)])
    before = names(tiny.folder)
    tiny.image().write_text("not an image")
    with pytest.raises(MissingPointError, match="no good base") as caught:
        tiny.capture()
    assert "--new-base" in (caught.value.hint or "")
    assert names(tiny.folder) == before
    made = tiny.capture(new_base=True)
    assert made.path.name == "D_VOL-b002.spf"
    assert made.header.end.number == 0


def test_a_new_base_begins_a_new_chain(tiny):
    tiny.capture_states([noise(1000), noise(1000, 1)])
    second = tiny.capture(new_base=True)
    after = tiny.capture()
    with ImageReader(tiny.image()) as image:
        assert second.header.chain_id != image.header.chain_id
    assert after.path.name == "D_VOL-b002-i001.spi"
    assert after.header.chain_id == second.header.chain_id


def test_images_of_another_volume_are_left_alone(tiny):
    tiny.capture_states([noise(1000)])
    other = capture(tiny.raw, tiny.folder, "E_VOL", now=START)
    assert other.path.name == "E_VOL-b001.spf"
    longer = capture(tiny.raw, tiny.folder, "D_VOL-b001", now=START)
    assert longer.path.name == "D_VOL-b001-b001.spf"
    assert tiny.capture().path == tiny.image(1)


@pytest.mark.parametrize("ending", ["-b001-i999999999.spi", "-b999999999.spf"])
def test_where_numbers_end_there_is_an_error(tiny, ending):
    tiny.capture_states([noise(1000)])
    (tiny.folder / f"{tiny.name}{ending}").write_text("junk")
    with pytest.raises(RollforwardError):
        tiny.capture(new_base=ending.endswith("f"))


# --- fingerprints


def lose(path: Path) -> None:
    path.unlink()


def flip_head(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)


def flip_print(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def blank(path: Path) -> None:
    path.write_bytes(b"")


def make_a_folder_of_it(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [lose, flip_head, flip_print, cut, lengthen, blank, make_a_folder_of_it])
def test_fingerprints_that_are_lost_or_damaged_cost_time_only(tiny, harm):
    states = [noise(5 * BLOCK + 77, 1)]
    states.append(states[0][:1000] + b"changed" + states[0][1007:])
    states.append(states[1][: 2 * BLOCK] + noise(700, 2) + states[1][2 * BLOCK + 700 :])
    tiny.capture_states(states[:2])
    path = fingerprints_path(tiny.folder, tiny.name, 1)
    assert path.exists()
    harm(path)
    (made,) = tiny.capture_states(states[2:])
    assert held(made.path) == {2: {0, 1}}
    tiny.check()


def test_stale_fingerprints_are_not_believed(tiny):
    """Those of the point before, under the name of the present ones: as a crash between the two leaves them."""
    states = [noise(3 * BLOCK, 1)]
    states.append(noise(1000, 2) + states[0][1000:])
    states.append(noise(1000, 1) + states[0][1000:])
    tiny.capture_states(states[:1])
    path = fingerprints_path(tiny.folder, tiny.name, 1)
    old = path.read_bytes()
    tiny.capture_states(states[1:2])
    path.write_bytes(old)
    (made,) = tiny.capture_states(states[2:])
    assert held(made.path) == {0: {0, 1}}
    tiny.check()


def test_fingerprints_of_another_chain_are_not_believed(tiny, quick_path):
    other = TinyVolume(quick_path / "other")
    other.capture_states([noise(3 * BLOCK, 1)])
    tiny.capture_states([noise(3 * BLOCK, 2)])
    path = fingerprints_path(tiny.folder, tiny.name, 1)
    path.write_bytes(fingerprints_path(other.folder, other.name, 1).read_bytes())
    (made,) = tiny.capture_states([noise(3 * BLOCK, 1)])
    assert held(made.path) == {block: set(range(128)) for block in range(3)}
    tiny.check()


def test_the_image_is_the_same_with_and_without_fingerprints(quick_path, monkeypatch):
    """But for what is drawn at random, and the name of the source."""
    monkeypatch.setattr(capturing.platform, "node", lambda: "host")
    images = []
    for forget in (False, True):
        tiny = TinyVolume(quick_path / f"tiny-{forget}")
        now = noise(4 * BLOCK, 1)
        for number in range(4):
            monkeypatch.setattr(capturing.secrets, "token_bytes", lambda size, n=number: _drawn(n, size))
            if forget and number:
                fingerprints_path(tiny.folder, tiny.name, 1).unlink()
            now = now[: number * 5000] + noise(3000, number) + now[number * 5000 + 3000 :]
            tiny.raw.write_bytes(now)
            tiny.capture()
        images.append([take_apart(tiny.image(number).read_bytes()) for number in range(4)])
    for one, other in zip(*images, strict=True):
        one.metadata = other.metadata = b"{}"
        one.header["metadata_bytes"] = other.header["metadata_bytes"] = 2
        for image in (one, other):
            for record in image.records:
                record["offset"] = 0
        assert one == other


def _drawn(number: int, size: int) -> bytes:
    return bytes([number + 1]) * size


def test_fingerprints_that_find_no_room_do_not_undo_a_capture(tiny, monkeypatch):
    tiny.capture_states([noise(5000)])

    def full(*_: object) -> None:
        raise StorageError("the disk is full", path="somewhere")

    monkeypatch.setattr(fingerprints.PartialFile, "replace", full)
    (made,) = tiny.capture_states([noise(5000, 1)])
    assert made.path == tiny.image(1)
    assert [name for name in names(tiny.folder / ".rollforward") if name.endswith("partial")] == []
    monkeypatch.undo()
    tiny.capture_states([noise(5000, 2)])
    tiny.check()


# --- refusals


def test_a_source_that_is_none(tiny, quick_path):
    empty = quick_path / "empty"
    empty.touch()
    for path, words in (
        (empty, "is empty"),
        (quick_path, "neither a regular file nor a block device"),
        (quick_path / "gone", "cannot be opened"),
        (Path("/dev/null"), "neither a regular file nor a block device"),
    ):
        with pytest.raises(SourceError, match=words) as caught:
            capture(path, tiny.folder, tiny.name, now=START)
        assert caught.value.path == str(path)
    assert names(tiny.folder) == [".rollforward"]


def test_a_chain_that_claims_a_vast_volume_takes_no_memory_for_it(tiny):
    """2**32 blocks: their fingerprints alone would be 100 GB."""
    tiny.capture_states([noise(5000)])
    fingerprints_path(tiny.folder, tiny.name, 1).unlink()
    forged = take_apart(tiny.image().read_bytes())
    forged.points[1]["volume_bytes"] = (2**32 - 1) * BLOCK
    tiny.image().write_bytes(forged.seal())
    tracemalloc.start()
    try:
        made = tiny.capture()
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert (made.changed_bytes, made.header.zero_from_bytes) == (0, 5000)


def test_a_missing_folder_is_named(tiny, quick_path):
    tiny.raw.write_bytes(noise(1000))
    with pytest.raises(StorageError, match="nowhere"):
        capture(tiny.raw, quick_path / "nowhere", tiny.name, now=START)


def test_one_capture_at_a_time(tiny):
    tiny.raw.write_bytes(noise(1000))
    with folder_lock(tiny.folder, f"{tiny.name}.capture", "it"):
        with pytest.raises(BusyError, match="already running"):
            tiny.capture()
        assert capture(tiny.raw, tiny.folder, "another", now=START).header.end.number == 0
    tiny.capture()


def test_two_captures_at_once_give_one_image_or_two_good_ones(tiny):
    tiny.raw.write_bytes(noise(40 * BLOCK))
    outcome: list[object] = []

    def go() -> None:
        try:
            outcome.append(capture(tiny.raw, tiny.folder, tiny.name, now=START).header.end.number)
        except BusyError:
            outcome.append("busy")

    threads = [threading.Thread(target=go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    captured = sorted(number for number in outcome if isinstance(number, int))
    assert captured == list(range(len(captured)))
    assert captured


def test_a_damaged_image_of_the_chain_stops_a_capture_that_needs_it(tiny):
    tiny.capture_states([noise(5 * BLOCK)])
    path = tiny.image()
    image = path.read_bytes()
    at = sections(image)["frames"][3 * BLOCK]
    path.write_bytes(image[:at] + bytes([image[at] ^ 1]) + image[at + 1 :])
    fingerprints_path(tiny.folder, tiny.name, 1).unlink()
    before, open_before = names(tiny.folder), open_files()
    with pytest.raises(DigestMismatchError) as caught:
        tiny.capture_states([noise(5 * BLOCK, 1)])
    assert caught.value.path == str(path)
    assert names(tiny.folder) == before
    assert open_files() == open_before


class Shrinking(VolumeSource):
    """A source that something cuts off while it is read."""

    def __init__(self, path: Path, called: Path | None = None) -> None:
        super().__init__(path, called)
        os.truncate(path, Shrinking.to_bytes)

    to_bytes = 0


@pytest.mark.parametrize("blocks_left", [1, 64, 97])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_source_that_becomes_shorter_is_an_error(tiny, monkeypatch, is_first, blocks_left):
    """Also where just what is cut off would look like a hole."""
    if not is_first:
        tiny.capture_states([noise(100 * BLOCK)])
    tiny.raw.write_bytes(noise(100 * BLOCK))
    monkeypatch.setattr(Shrinking, "to_bytes", blocks_left * BLOCK)
    monkeypatch.setattr(capturing, "VolumeSource", Shrinking)
    before = names(tiny.folder)
    with pytest.raises(SourceError, match=r"became shorter|another size"):
        tiny.capture()
    assert set(names(tiny.folder)) <= {*before, ".rollforward"}


def test_a_medium_that_fails_is_named_with_its_place(tiny, monkeypatch):
    tiny.raw.write_bytes(noise(10 * BLOCK))

    def failing(fd: int, buffers: list[memoryview], offset: int) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(source.os, "preadv", failing)
    with pytest.raises(SourceError, match="Input/output error") as caught:
        tiny.capture()
    assert (caught.value.path, caught.value.offset) == (str(tiny.raw), 0)
    assert names(tiny.folder) == [".rollforward"]


def test_progress(tiny):
    told: list[tuple[int, int]] = []
    tiny.raw.write_bytes(noise(200 * BLOCK + 5))
    for _ in range(2):
        told.clear()
        capture(tiny.raw, tiny.folder, tiny.name, now=START, progress=lambda *step: told.append(step))
        assert told[-1] == (200 * BLOCK + 5, 200 * BLOCK + 5)
        assert told == sorted(told)


# --- mounted volumes


@pytest.fixture
def ext4(tmp_path: Path) -> Path:
    """A raw file with a file system."""
    path = tmp_path / "volume.ext4"
    with path.open("wb") as file:
        file.truncate(4 << 20)
    run("mkfs.ext4", "-q", "-F", str(path))
    return path


@pytest.fixture
def mounted(tmp_path: Path):
    """Mount things, and unmount them in the end."""
    points: list[Path] = []

    def mount(device: Path, *options: str, name: str = "mnt") -> Path:
        point = tmp_path / f"{name}{len(points)}"
        point.mkdir()
        run("mount", *options, str(device), str(point))
        points.append(point)
        return point

    yield mount
    for point in reversed(points):
        run("umount", str(point))


Mount = Callable[..., Path]


@needs_root
def test_a_device_that_is_mounted_read_write_is_refused(tiny, ext4, mounted: Mount):
    with loop_device(ext4) as device:
        capture(device, tiny.folder, tiny.name, now=START)
        point = mounted(device)
        for path in (device, ext4):
            with pytest.raises(SourceError, match="in use read-write") as caught:
                capture(path, tiny.folder, tiny.name, now=START)
            assert caught.value.path == str(path)
            assert str(point) in caught.value.message
            assert caught.value.hint
        assert not tiny.image(1).exists()
        run("mount", "-o", "remount,ro", str(point))
        for path in (device, ext4):
            capture(path, tiny.folder, tiny.name, now=START)
        run("umount", str(point))
        capture(device, tiny.folder, tiny.name, now=START)
        run("mount", str(device), str(point))


@needs_root
def test_a_device_that_is_mounted_read_only_is_captured(tiny, ext4, mounted: Mount):
    with loop_device(ext4) as device:
        point = mounted(device, "-o", "ro")
        made = capture(device, tiny.folder, tiny.name, now=START)
        assert made.header.end.volume_bytes == 4 << 20
        run("umount", str(point))
        run("mount", "-o", "ro", str(device), str(point))


@needs_root
def test_a_device_that_is_mounted_twice_is_in_use_if_one_mount_may_write(tiny, ext4, mounted: Mount):
    with loop_device(ext4) as device:
        first = mounted(device)
        second = mounted(first, "--bind", name="second")
        run("mount", "-o", "remount,bind,ro", str(first))
        with pytest.raises(SourceError) as caught:
            capture(device, tiny.folder, tiny.name, now=START)
        assert str(second) in caught.value.message
        run("mount", "-o", "remount,bind,rw", str(first))
        with pytest.raises(SourceError):
            capture(device, tiny.folder, tiny.name, now=START)


@needs_root
def test_a_device_that_somebody_else_claims_is_refused(tiny, tmp_path):
    """A restore that is writing to it, a file system of several devices, a mount in another container: no mount
    of ours shows them."""
    file = tmp_path / "device"
    file.write_bytes(noise(BLOCK))
    with loop_device(file) as device:
        claim = os.open(device, os.O_RDWR | os.O_EXCL)
        try:
            with pytest.raises(SourceError, match="in use read-write") as caught:
                capture(device, tiny.folder, tiny.name, now=START)
            assert caught.value.path == str(device)
        finally:
            os.close(claim)
        capture(device, tiny.folder, tiny.name, now=START)


@needs_root
@pytest.mark.parametrize("name", ["Büro C", "new\nline", "tab\tand \\134", os.fsdecode(b"latin-\xe9")])
def test_mount_points_of_any_name(tiny, ext4, mounted: Mount, name):
    """Ours, and any other that the machine happens to have."""
    with loop_device(ext4) as device:
        point = mounted(device, name=name)
        other = tiny.raw
        other.write_bytes(noise(1000))
        capture(other, tiny.folder, "other", now=START)
        with pytest.raises(SourceError) as caught:
            capture(device, tiny.folder, tiny.name, now=START)
        assert str(point) in caught.value.message


@needs_root
def test_a_block_device_is_captured_like_the_file_behind_it(tiny, quick_path):
    raw = quick_path / "device.raw"
    raw.write_bytes(noise(5 * BLOCK + 1024))
    with loop_device(raw) as device:
        made = capture(device, tiny.folder, tiny.name, now=datetime.now(UTC))
    assert made.header.end.volume_bytes == 5 * BLOCK + 1024
    tiny.states[0] = raw.read_bytes()
    tiny.check()


def test_numbers_of_prints_and_blocks_agree():
    key = fingerprints.StateKey(b"c" * 16, b"p" * 16, 512, 2 * BLOCK + 1)
    assert key.blocks == 3


def saved(path: Path, key: fingerprints.StateKey, prints: np.ndarray) -> None:
    with fingerprints.NewFingerprints(path, key) as new:
        new.put(np.arange(len(prints)), prints)
        new.save()


def test_prints_are_saved_and_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "PIECE_BLOCKS", 4)
    key = fingerprints.StateKey(b"c" * 16, b"p" * 16, 512, 18 * BLOCK + 1)
    prints = np.frombuffer(noise(19 * 24), np.uint8).reshape(19, 24).copy()
    prints[5:13] = 0
    path = tmp_path / ".rollforward" / "D-b001.fingerprints"
    with fingerprints.NewFingerprints(path, key) as new:
        for blocks in ([0, 1], [2, 4], [13, 14, 15, 16, 17, 18]):
            new.put(np.array(blocks), prints[blocks])
        new.save()
    prints[3] = 0
    known = fingerprints.open_fingerprints(path, key)
    assert known is not None
    with known:
        assert np.array_equal(np.concatenate([known.piece(number) for number in range(6)]), prints)
    other = fingerprints.StateKey(b"c" * 16, b"q" * 16, 512, 18 * BLOCK + 1)
    assert fingerprints.open_fingerprints(path, other) is None
    assert fingerprints.open_fingerprints(tmp_path / "gone", key) is None


def test_prints_are_as_those_before_where_nothing_new_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "PIECE_BLOCKS", 4)
    key = fingerprints.StateKey(b"c" * 16, b"p" * 16, 512, 19 * BLOCK)
    path = tmp_path / ".rollforward" / "D-b001.fingerprints"
    prints = np.frombuffer(noise(19 * 24), np.uint8).reshape(19, 24).copy()
    saved(path, key, prints)
    for harm in (None, 88 + 5):
        if harm:
            content = bytearray(path.read_bytes())
            content[harm] ^= 1
            path.write_bytes(content)
        known = fingerprints.open_fingerprints(path, key)
        assert known is not None
        with known, fingerprints.NewFingerprints(path, key) as new:
            new.base = known
            new.put(np.array([6, 17]), np.full((2, 24), 7, np.uint8))
            new.complete()
            new.save()
        assert new.void == bool(harm)


@pytest.mark.parametrize("spoilt", [0, 2, 3])
def test_damage_in_fingerprints_costs_only_their_piece(tiny, monkeypatch, spoilt):
    """What is in other pieces still serves, and nothing that changed is missed."""
    for module in (fingerprints, scan):
        monkeypatch.setattr(module, "PIECE_BLOCKS", 4)
    monkeypatch.setattr(scan, "_BATCH_BYTES", 3 * BLOCK)
    now = bytearray(noise(15 * BLOCK + 9))
    tiny.capture_states([bytes(now)])
    path = fingerprints_path(tiny.folder, tiny.name, 1)
    content = bytearray(path.read_bytes())
    content[88 + spoilt * (4 * 24 + 32) + 20] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(capturing, "fingerprints_of", None)
    now[13 * BLOCK + 3] ^= 1
    now[BLOCK + 3] ^= 1
    (made,) = tiny.capture_states([bytes(now)])
    assert held(made.path) == {1: {0}, 13: {0}}
    tiny.check()


def test_without_room_for_fingerprints_made_anew_all_is_compared(tiny, monkeypatch):
    tiny.capture_states([noise(5 * BLOCK)])
    fingerprints_path(tiny.folder, tiny.name, 1).unlink()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fingerprints.tempfile, "TemporaryFile", full)
    now = bytearray(noise(5 * BLOCK))
    now[4 * BLOCK] ^= 1
    (made,) = tiny.capture_states([bytes(now)])
    assert held(made.path) == {4: {0}}
    tiny.check()


def test_format_errors_of_the_chain_reach_the_caller(tiny):
    tiny.capture_states([noise(1000)])
    image = tiny.image().read_bytes()
    index = sections(image)["index"]
    tiny.image().write_bytes(image[: index.start] + b"!" + image[index.start + 1 :])
    with pytest.raises(FormatError):
        tiny.capture_states([noise(1000, 1)])


@needs_root
def test_the_image_comes_before_its_fingerprints_where_room_is_short(tiny, tmp_path, monkeypatch):
    for module in (fingerprints, scan):
        monkeypatch.setattr(module, "PIECE_BLOCKS", 128)
    blocks = 4096
    contents = np.arange(1, blocks + 1, dtype=np.uint32)
    now = np.repeat(contents, BLOCK // 4).tobytes()
    tiny.raw.write_bytes(now)
    with small_file_system(tmp_path, 4 << 20) as folder:
        made = capture(tiny.raw, folder, tiny.name, now=START)
        path = fingerprints_path(folder, tiny.name, 1)
        known = path.stat().st_size
        path.unlink()
        made.path.unlink()
        left = made.stored_bytes + known // 2
        fill(folder, left)
        made = capture(tiny.raw, folder, tiny.name, now=START)
        assert not path.exists()
        (folder / "filler").unlink()
        assert capture(tiny.raw, folder, tiny.name, now=START).changed_bytes == 0
        assert path.exists()
        chain = load_chain(folder, tiny.name)
        restore(chain.path_to(chain.point(0)), tmp_path / "restored.raw")
    assert (tmp_path / "restored.raw").read_bytes() == now
