"""Consolidation: the same bytes from the same sources, and nothing from sources that do not fit."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from policies.errors import (
    BusyError,
    ChainError,
    DigestMismatchError,
    FormatError,
    GeometryError,
    RollforwardError,
    StorageError,
)
from storage import consolidate as consolidation
from storage import layout, output, overlay, spool, streams
from storage.consolidate import consolidate
from storage.verify import verify_image
from tests.unit.forge import sections, take_apart
from tests.unit.tiny import BLOCK, GRANULE, TinyVolume, names, noise, open_files


def changing(states: int, size: int = 6 * BLOCK, seed: int = 0) -> list[bytes]:
    """States of a volume of which some granules change each time, some of them again and again."""
    now = bytearray(noise(size, seed))
    found = [bytes(now)]
    for number in range(1, states):
        chooser = np.random.default_rng([seed, number])
        for first in [*chooser.integers(0, size - 5000, 6).tolist(), 2 * BLOCK]:
            length = int(chooser.integers(1, 5000))
            content = noise(length, number) if chooser.integers(3) else bytes(length)
            now[first : first + length] = content
        found.append(bytes(now))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyVolume:
    """A base and seven incrementals."""
    tiny = TinyVolume(tmp_path_factory.mktemp("made"))
    tiny.capture_states(changing(8))
    return tiny


@pytest.fixture
def week(made: TinyVolume, quick_path: Path) -> TinyVolume:
    """A base and seven incrementals, to do with as one likes."""
    return made.copy(quick_path / "tiny")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- determinism


def test_the_same_sources_give_the_same_bytes(week, quick_path):
    sources = [week.image(number) for number in range(1, 8)]
    one = consolidate(sources, quick_path / "one.spi")
    copies = quick_path / "copies"
    copies.mkdir()
    for source in sources:
        (copies / source.name).write_bytes(source.read_bytes())
        os.utime(copies / source.name, (1, 1))
    other = consolidate([copies / source.name for source in sources], copies / "other.spi")
    assert one.path.read_bytes() == other.path.read_bytes()
    assert one.root == other.root


def test_another_process_with_other_threads_gives_the_same_bytes(week, quick_path):
    sources = [week.image(number) for number in range(1, 8)]
    here = consolidate(sources, quick_path / "here.spi")
    script = (
        "import sys; from pathlib import Path; import os; os.cpu_count = lambda: 5\n"
        "from storage.consolidate import consolidate\n"
        "paths = [Path(word) for word in sys.argv[1:]]; consolidate(paths[:-1], paths[-1])"
    )
    there = quick_path / "there.spi"
    command = [sys.executable, "-c", script, *map(str, sources), str(there)]
    env = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run(command, check=True, env=env, cwd=Path(__file__).parents[2])
    assert there.read_bytes() == here.path.read_bytes()


def test_in_steps_or_at_once(week, quick_path):
    images = [week.image(number) for number in range(8)]
    at_once = consolidate(images[1:], quick_path / "at-once.spi").path
    early = consolidate(images[1:4], quick_path / "early.spi").path
    late = consolidate(images[4:], quick_path / "late.spi").path
    assert consolidate([early, late], quick_path / "steps.spi").path.read_bytes() == at_once.read_bytes()
    most = consolidate([early, *images[4:7]], quick_path / "most.spi").path
    assert consolidate([most, images[7]], quick_path / "left.spi").path.read_bytes() == at_once.read_bytes()
    full = consolidate([images[0], at_once], quick_path / "full.spf").path
    assert consolidate(images, quick_path / "full-at-once.spf").path.read_bytes() == full.read_bytes()


SMALL = {
    "the spool": (spool, "_HELD_BYTES", 256),
    "batches": (consolidation, "_BATCH_BYTES", 3000),
    "windows": (overlay, "_WINDOW_PAGES", 1),
    "reads": (streams, "_AHEAD", 1),
    "flushes": (output, "_FLUSH_BYTES", 2000),
    "writing past the cache": (consolidation, "_PAST_CACHE_BYTES", 0),
}


@pytest.mark.parametrize("fails", ["", "alignment", "disk full"])
def test_writing_past_the_cache(week, quick_path, monkeypatch, fails):
    images = [week.image(number) for number in range(8)]
    expected = consolidate(images[1:], quick_path / "expected.spi").path.read_bytes()
    monkeypatch.setattr(consolidation, "_PAST_CACHE_BYTES", 0)
    monkeypatch.setattr(output, "_PIECE_BYTES", 4096)
    direct: list[int] = []
    real = os.pwrite

    def pwrite(fd: int, piece: memoryview, offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            direct.append(len(piece))
            if fails and len(direct) > 2:
                number = errno.EINVAL if fails == "alignment" else errno.ENOSPC
                raise OSError(number, os.strerror(number))
        return real(fd, piece, offset)

    monkeypatch.setattr(output.os, "pwrite", pwrite)
    target, before = quick_path / "out" / "direct.spi", open_files()
    target.parent.mkdir()
    if fails == "disk full":
        with pytest.raises(StorageError, match="the disk is full"):
            consolidate(images[1:], target)
        assert names(target.parent) == []
    else:
        assert consolidate(images[1:], target).path.read_bytes() == expected
    assert set(direct) == {4096}
    assert open_files() == before


@pytest.mark.parametrize("name", SMALL)
def test_how_much_is_done_at_once_changes_no_byte(week, quick_path, monkeypatch, name):
    images = [week.image(number) for number in range(8)]
    expected = consolidate(images[1:], quick_path / "expected.spi").path.read_bytes()
    module, constant, value = SMALL[name]
    monkeypatch.setattr(module, constant, value)
    assert consolidate(images[1:], quick_path / "small.spi").path.read_bytes() == expected
    week.states[8] = week.states[7]
    assert week.capture().header.end.number == 8
    week.check(8)


def test_the_spool_is_used_and_leaves_nothing(week, quick_path, monkeypatch):
    monkeypatch.setattr(spool, "_HELD_BYTES", 1)
    before = open_files()
    out = quick_path / "out"
    out.mkdir()
    made = consolidate([week.image(number) for number in range(8)], out / "D_VOL-b001-i007.spf")
    assert names(out) == ["D_VOL-b001-i007.spf"]
    assert open_files() == before
    assert made.changed_bytes == take_apart(made.path.read_bytes()).plain_bytes()


# --- what it says and holds


def test_the_result_covers_every_point_of_its_sources(week):
    made = week.merge(2, 5, "-cd")
    assert made.header.start is not None
    assert made.header.start.number == 2
    assert [point.number for point in made.header.covers] == [3, 4, 5]
    assert verify_image(made.path, deep=True).root == made.root
    assert made.stored_bytes == made.path.stat().st_size
    captures = [take_apart(week.image(number).read_bytes()).points[1]["capture_id"] for number in (3, 4, 5)]
    assert [point["capture_id"] for point in take_apart(made.path.read_bytes()).points[1:]] == captures


def test_frames_are_copied_as_they_are(week):
    made = week.merge(0, 7, "-cd")
    stored = {}
    for number in range(1, 8):
        image = week.image(number).read_bytes()
        for record in take_apart(image).records:
            at = int(record["offset"])
            stored[record["digest"], number - 1, record["block"]] = image[at : at + int(record["length"])]
    image = made.path.read_bytes()
    forged = take_apart(image)
    for record in forged.records:
        at = int(record["offset"])
        frame = stored[record["digest"], record["origin"], record["block"]]
        assert image[at : at + int(record["length"])] == frame
    assert len(forged.records) < len(stored), "what newer frames hide was left out"


def test_what_a_newer_frame_hides_is_left_out_and_no_more(tiny):
    base = noise(2 * BLOCK, 1)
    first = noise(1024, 2) + base[1024:]
    second = noise(512, 3) + first[512:]
    third = noise(4 * GRANULE, 4) + second[4 * GRANULE :]
    tiny.capture_states([base, first, second, third])
    two = take_apart(tiny.merge(0, 2, "-cd").path.read_bytes())
    assert [(record["origin"], record["mask_lo"]) for record in two.records] == [(1, 1), (0, 3)]
    three = take_apart(tiny.merge(0, 3, "-cd").path.read_bytes())
    assert [(record["origin"], record["mask_lo"]) for record in three.records] == [(2, 15)]


def test_a_single_source_is_copied(week, quick_path):
    made = consolidate([week.image(3)], quick_path / "copy.spi")
    assert made.path.read_bytes() == week.image(3).read_bytes()


def test_many_sources(tiny):
    tiny.capture_states(changing(40, size=2 * BLOCK + 100))
    made = tiny.merge(0, 39, "-cm")
    assert len(made.header.covers) == 39
    assert verify_image(made.path, deep=True).status == "good"
    for number in range(1, 40):
        tiny.image(number).unlink()
    tiny.check(39)


def test_sources_without_any_change(tiny):
    tiny.capture_states([noise(5000)] * 4)
    made = tiny.merge(0, 3, "-cd")
    assert take_apart(made.path.read_bytes()).records == []
    assert made.changed_bytes == 0
    tiny.check()


def test_every_point_comes_back_from_any_mixture(week):
    week.merge(0, 3, "-cd")
    week.merge(3, 6, "-cd")
    week.merge(0, 6, "-cw")
    week.check()
    for number in (1, 2, 3, 4, 5, 6):
        week.image(number).unlink()
    week.check(0, 3, 6, 7)
    week.image(6, "-cw").unlink()
    week.check(0, 3, 6, 7)


# --- refusals


def test_sources_that_do_not_touch_are_refused_by_name(week, quick_path):
    target = quick_path / "target.spi"
    cases = [
        ([1, 3], 3),
        ([2, 1], 1),
        ([1, 1], 1),
        ([1, 0], 0),
        ([0, 2], 2),
    ]
    for numbers, at_fault in cases:
        with pytest.raises(ChainError, match="does not begin where") as caught:
            consolidate([week.image(number) for number in numbers], target)
        assert caught.value.path == str(week.image(at_fault))
        assert not target.exists()


def test_overlapping_sources_are_refused(week, quick_path):
    early = week.merge(0, 3, "-cd").path
    late = week.merge(2, 5, "-cd").path
    with pytest.raises(ChainError):
        consolidate([early, late], quick_path / "target.spi")


def test_sources_of_another_chain_are_refused(week, quick_path):
    other = TinyVolume(quick_path / "other")
    other.capture_states(changing(3))
    with pytest.raises(GeometryError, match="another chain") as caught:
        consolidate([week.image(1), other.image(2)], quick_path / "target.spi")
    assert caught.value.path == str(other.image(2))


def test_a_point_that_two_images_describe_otherwise_is_refused(week, quick_path):
    forged = take_apart(week.image(2).read_bytes())
    forged.points[0]["number"] = 9
    liar = quick_path / "liar.spi"
    liar.write_bytes(forged.seal())
    with pytest.raises(ChainError) as caught:
        consolidate([week.image(1), liar], quick_path / "target.spi")
    assert caught.value.path == str(liar)


def test_a_taken_name_is_left_alone(week, quick_path):
    target = quick_path / "target.spi"
    target.write_text("mine")
    with pytest.raises(BusyError) as caught:
        consolidate([week.image(1), week.image(2)], target)
    assert caught.value.path == str(target)
    assert target.read_text() == "mine"
    assert names(quick_path) == ["target.spi", "tiny"]


def test_a_missing_source_or_folder_is_named(week, quick_path):
    with pytest.raises(StorageError, match=r"gone\.spi"):
        consolidate([week.image(1), quick_path / "gone.spi"], quick_path / "target.spi")
    with pytest.raises(StorageError, match="nowhere"):
        consolidate([week.image(1), week.image(2)], quick_path / "nowhere" / "target.spi")


PARTS = ["fixed header", "points", "metadata", "frames", "index", "page table", "segment table", "trailer"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("victim", [1, 2, 3])
def test_a_damaged_source_is_refused_and_leaves_nothing(week, quick_path, part, victim):
    path = week.image(victim)
    image = path.read_bytes()
    at = sections(image)[part]
    at = at[len(at) // 2]
    path.write_bytes(image[:at] + bytes([image[at] ^ 4]) + image[at + 1 :])
    out = quick_path / "out"
    out.mkdir()
    before = open_files()
    with pytest.raises(FormatError) as caught:
        consolidate([week.image(number) for number in (1, 2, 3)], out / "target.spi")
    assert caught.value.path == str(path)
    assert names(out) == []
    assert open_files() == before


def test_damage_in_a_frame_that_would_be_left_out_is_noticed_too(tiny, quick_path):
    states = [noise(BLOCK, seed) for seed in range(4)]
    tiny.capture_states(states)
    path = tiny.image(1)
    image = path.read_bytes()
    at = sections(image)["frames"][100]
    path.write_bytes(image[:at] + bytes([image[at] ^ 4]) + image[at + 1 :])
    with pytest.raises(DigestMismatchError) as caught:
        consolidate([tiny.image(number) for number in (1, 2, 3)], quick_path / "target.spi")
    assert caught.value.path == str(path)


@pytest.mark.parametrize("place", [0, 0.5, 0.999])
def test_the_damaged_segment_is_named(tiny, quick_path, monkeypatch, place):
    monkeypatch.setattr(layout, "SEGMENT_BYTES", 4096)
    tiny.capture_states([noise(3 * BLOCK, seed) for seed in range(3)])
    path = tiny.image(2)
    image = path.read_bytes()
    frames = sections(image)["frames"]
    at = frames[int(len(frames) * place)]
    path.write_bytes(image[:at] + bytes([image[at] ^ 4]) + image[at + 1 :])
    with pytest.raises(DigestMismatchError) as caught:
        consolidate([tiny.image(1), path], quick_path / "target.spi")
    assert caught.value.path == str(path)
    assert caught.value.offset == at - (at - frames[0]) % 4096
    assert names(quick_path) == ["tiny"]


def test_a_file_that_is_cut_off_while_it_is_read_is_an_error(week, quick_path):
    """Opening found it whole; then its end is gone."""
    sources = [week.image(number) for number in (1, 2, 3)]
    cut = sources[1]

    def cut_off(done_bytes: int, total_bytes: int) -> None:
        os.truncate(cut, 400)

    with overlay.Overlay(sources) as laid:
        window = laid.between(0, 100)
        cut_off(0, 0)
        with pytest.raises(RollforwardError) as caught:
            laid.load(window, np.arange(len(window)), memoryview(bytearray(1 << 20)))
    assert caught.value.path == str(cut)


def test_progress_ends_at_the_whole(week, quick_path):
    told: list[tuple[int, int]] = []
    sources = [week.image(number) for number in range(1, 8)]
    consolidate(sources, quick_path / "out.spi", progress=lambda *step: told.append(step))
    frames = sum(len(sections(source.read_bytes())["frames"]) for source in sources)
    assert told[-1] == (frames, frames)
    assert told == sorted(told)


def test_a_source_that_was_exchanged_is_refused(week):
    sources = [week.image(1), week.image(2)]
    roots = [verify_image(path).root for path in sources]
    target = week.folder / "D_VOL-b001-i002-cd.spi"
    with pytest.raises(DigestMismatchError, match="not the image that was verified") as caught:
        consolidate(sources, target, roots=[roots[1], roots[0]])
    assert caught.value.path == str(sources[0])
    assert not target.exists()
    consolidate(sources, target, roots=[roots[0], None])
    assert verify_image(target).status == "good"
