"""Squashing on a tiny volume: what it saves, what stays as it was, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from policies.errors import BusyError, DigestMismatchError, FormatError, PasswordError
from storage import keys, layout, overlay, squash_check
from storage import squash as squashing
from storage.amplification import SquashLimits, survey
from storage.consolidate import consolidate
from storage.image import ImageReader
from storage.overlay import is_trace
from storage.squash import squash
from storage.squash_check import check_squashed
from storage.verify import verify_image
from tests.command import in_this_process
from tests.unit.forge import take_apart
from tests.unit.tiny import BLOCK, GRANULE, Password, TinyVolume, names, noise

LAST = 6


@pytest.fixture(autouse=True)
def _cheap_guesses(monkeypatch):
    monkeypatch.setattr(keys, "RECOMMENDED_COST", keys.KdfCost(memory_kib=64, passes=1, lanes=1))


def overlapping(count: int = LAST + 1) -> list[bytes]:
    """Twelve blocks: six in which each state writes a half and most of what the one before wrote, some quiet ones."""
    now = bytearray(noise(12 * BLOCK + 700))
    found = [bytes(now)]
    for number in range(1, count):
        for block in range(6):
            at = block * BLOCK + number * 8 * GRANULE
            now[at : at + BLOCK // 2] = noise(BLOCK // 2, 100 * number + block)
        if number == 3:
            now[7 * BLOCK : 8 * BLOCK] = bytes(BLOCK)
        now[9 * BLOCK + number * GRANULE : 9 * BLOCK + (number + 1) * GRANULE] = noise(GRANULE, number)
        found.append(bytes(now))
    return found


def make(home: Path, password: Password | None) -> TinyVolume:
    volume = TinyVolume(home, password=password)
    volume.capture_states(overlapping())
    volume.merge(0, LAST, "-cm")
    return volume


@pytest.fixture(params=["plain", "encrypted"])
def volume(request, quick_path) -> TinyVolume:
    return make(quick_path / "v", Password() if request.param == "encrypted" else None)


@pytest.fixture
def other(quick_path) -> Path:
    (quick_path / "squashed").mkdir()
    return quick_path / "squashed"


def squashed(volume: TinyVolume, other: Path, limits: SquashLimits | None = None) -> squashing.Squashed:
    source = volume.image(LAST, "-cm")
    return squash(source, other / source.name, key=volume.key(), limits=limits or SquashLimits())


def records_of(path: Path):
    with ImageReader(path) as image:
        return np.concatenate(list(image.iter_records()))


def told(records, *fields: str) -> list[object]:
    return [[row[field].tolist() for field in fields] for row in records]


def test_it_takes_less_room_and_shows_the_same(volume, other):
    original = volume.image(LAST, "-cm")
    before = original.read_bytes()
    done = squashed(volume, other)
    assert done.published is not None
    assert done.before.factor > 2
    assert done.before.blocks_above == 6
    assert done.after.factor == 1
    assert done.published.stored_bytes < 0.6 * done.before_bytes
    assert original.read_bytes() == before
    for number in range(1, LAST + 1):
        volume.image(number).unlink()
    shutil.copy(done.published.path, original)
    volume.check(0, LAST)
    assert verify_image(original, deep=True, key=volume.key()).status == "good"


def test_blocks_within_the_limits_are_copied_as_they_are(volume, other):
    done = squashed(volume, other)
    assert done.published is not None
    old, new = records_of(volume.image(LAST, "-cm")), records_of(done.published.path)
    for block in (7, 9):
        was, now = old[old["block"] == block], new[new["block"] == block]
        older = was["origin"] < LAST - 1
        same = ("origin", "length", "flags", "mask_lo", "mask_hi", "digest")
        assert told(was[older], *same) == told(now[older], *same)
        assert (len(was), len(now)) == ((1, 1) if block == 7 else (LAST, LAST))


def test_it_merges_on_both_sides_as_before(volume, other):
    done = squashed(volume, other)
    assert done.published is not None
    shutil.copy(done.published.path, volume.image(LAST, "-cm"))
    volume.put(4 * BLOCK + 5, b"more of it")
    volume.capture()
    for number in range(1, LAST + 1):
        volume.image(number).unlink()
    volume.merge(0, LAST + 1, "-cw")
    consolidate([volume.image(), volume.image(LAST + 1, "-cw")], volume.folder / "D_VOL-b001-i007.spf")
    for name in ("D_VOL-b001.spf", "D_VOL-b001-i006-cm.spi", "D_VOL-b001-i007.spi", "D_VOL-b001-i007-cw.spi"):
        (volume.folder / name).unlink()
    volume.check(LAST + 1)


def test_a_full_is_squashed_too(volume, other, quick_path):
    full = consolidate(
        [volume.image(), volume.image(LAST, "-cm")], volume.folder / "D_VOL-b001-i006.spf"
    ).path
    done = squash(full, other / full.name, key=volume.key())
    assert done.published is not None
    for path in volume.folder.glob("*.sp[fi]"):
        path.unlink()
    shutil.copy(done.published.path, full)
    volume.check(LAST)


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (overlay, "_WINDOW_PAGES", 1),
        (squashing, "_STRIPE_BYTES", 1),
        (squashing, "_LOAD_BYTES", 5000),
        (squashing, "_AHEAD", 1),
        (squashing, "_PAST_CACHE_BYTES", 0),
        (squash_check, "_COMPARED_BYTES", 1),
    ],
)
def test_sizes_of_pieces_are_no_matter(quick_path, other, monkeypatch, module, name, value):
    volume = make(quick_path / "v", None)
    at_once = squashed(volume, other).published
    assert at_once is not None
    (other / "again").mkdir()
    monkeypatch.setattr(module, name, value)
    again = squashed(volume, other / "again").published
    assert again is not None
    assert again.path.read_bytes() == at_once.path.read_bytes()


def test_depth_alone_is_a_reason(quick_path, other):
    volume = TinyVolume(quick_path / "v")
    states = [noise(2 * BLOCK)]
    for number in range(1, 20):  # each state writes granules of its own: nothing is stored that is not seen
        states.append(
            states[-1][: number * GRANULE] + noise(GRANULE, number) + states[-1][(number + 1) * GRANULE :]
        )
    volume.capture_states(states)
    volume.merge(0, 19, "-cm")
    source = volume.image(19, "-cm")
    assert (survey(source).factor, survey(source).depth, survey(source).blocks_above) == (1, 19, 1)
    done = squash(source, other / source.name)
    assert done.published is not None
    assert (done.after.depth, done.after.blocks) == (1, 1)
    assert squash(source, other / "x", limits=SquashLimits(depth=19)).published is None
    assert names(other) == [source.name]


def test_what_became_zero_takes_no_room(volume, other):
    volume.raw.write_bytes(bytes(12 * BLOCK + 700))
    volume.capture()
    merged = consolidate(
        [volume.image(LAST, "-cm"), volume.image(LAST + 1)], volume.folder / "D_VOL-b001-i007-cm.spi"
    ).path
    done = squash(merged, other / merged.name, key=volume.key(), limits=SquashLimits(factor=1, depth=1))
    if done.published is not None:
        records = records_of(done.published.path)
        assert not records["length"].any()


def test_nothing_to_do_is_no_failure(volume, other):
    done = squash(volume.image(1), other / "x.spi")
    assert done.published is None
    assert names(other) == []


def test_the_name_is_never_taken_twice(volume, other):
    squashed(volume, other)
    content = (other / volume.image(LAST, "-cm").name).read_bytes()
    with pytest.raises(BusyError):
        squashed(volume, other)
    with pytest.raises(BusyError):
        squashed(volume, volume.folder)
    assert (other / volume.image(LAST, "-cm").name).read_bytes() == content


def test_damage_is_not_carried_over(volume, other):
    path = volume.image(LAST, "-cm")
    good, key = path.read_bytes(), volume.key()
    for at in np.random.default_rng(1).integers(0, len(good), 25).tolist():
        spoilt = bytearray(good)
        spoilt[at] ^= 0x55
        path.write_bytes(spoilt)
        with pytest.raises(FormatError):
            squash(path, other / path.name, key=key)
        assert names(other) == []


# --- encrypted images


@pytest.fixture
def locked(quick_path) -> TinyVolume:
    return make(quick_path / "locked", Password())


def test_no_key_no_result(locked, other):
    source = locked.image(LAST, "-cm")
    with pytest.raises(PasswordError):
        squash(source, other / source.name)
    assert names(other) == []


def test_frames_coded_anew_have_a_capture_of_their_own(locked, other):
    """A nonce is a block's number: so no frame may be encrypted twice under the key of one capture."""
    done = squashed(locked, other)
    again = squash(locked.image(LAST, "-cm"), other / "D_VOL-b001-i006-cw.spi", key=locked.key())
    assert done.published is not None
    assert again.published is not None
    with ImageReader(locked.image(LAST, "-cm")) as image:
        was = image.header.capture_ids
        seals = image.read_seals()
    for published in (done.published, again.published):
        with ImageReader(published.path) as image:
            now = image.header.capture_ids
            assert now[:-1] == was[:-1]
            assert image.read_seals()[:-1] == seals[:-1]
            assert image.read_seals()[-1] != seals[-1]
            assert image.header.metadata != {}
    assert len({was[-1], done.published.header.capture_ids[-1], again.published.header.capture_ids[-1]}) == 3
    assert done.published.header.metadata != again.published.header.metadata


def test_what_was_folded_in_leaves_traces(locked, other):
    """Older points keep all their records: whoever cuts one out of the result has what was captured, or nothing."""
    done = squashed(locked, other)
    assert done.published is not None
    old, new = records_of(locked.image(LAST, "-cm")), records_of(done.published.path)
    for origin in range(LAST - 1):
        was, now = old[old["origin"] == origin], new[new["origin"] == origin]
        fields = ("block", "mask_lo", "mask_hi", "digest")
        assert told(was, *fields) == told(now, *fields)
    assert is_trace(new).sum() > is_trace(old).sum()


def test_a_forged_result_is_noticed(locked, other, quick_path):
    """Its newest point cannot be given older frames, nor an older point fewer."""
    done = squashed(locked, other)
    assert done.published is not None
    forged = take_apart(done.published.path.read_bytes())
    row = next(row for row, record in enumerate(forged.records) if int(record["flags"]) & layout.FRAME_TRACE)
    del forged.records[row]
    path = quick_path / "D_VOL-b001-i006-cm.spi"
    path.write_bytes(forged.seal())
    assert "the seal of point" in (verify_image(path, deep=True, key=locked.key()).reason or "")
    forged = take_apart(done.published.path.read_bytes())
    forged.points[-1]["capture_id"] = take_apart(locked.image(LAST).read_bytes()).points[-1]["capture_id"]
    path.write_bytes(forged.seal())
    assert verify_image(path, deep=True, key=locked.key()).status == "bad"


# --- the result is compared before anybody relies on it


def test_a_result_that_shows_something_else_is_found_out(quick_path, other):
    volume = make(quick_path / "v", None)
    source = volume.image(LAST, "-cm")
    made = squashed(volume, other).published
    assert made is not None

    def quiet(done, total):
        del done, total

    check_squashed(source, made.path, SquashLimits(), None, quiet)
    genuine = made.path.read_bytes()
    for spoil in (_other_bytes, _fewer_granules, _another_block, _fewer_records, _another_point):
        forged = take_apart(genuine)
        spoil(forged)
        made.path.write_bytes(forged.seal())
        with pytest.raises(DigestMismatchError) as caught:
            check_squashed(source, made.path, SquashLimits(), None, quiet)
        assert caught.value.path == str(made.path)
        assert "not touched" in (caught.value.hint or "")


def _other_bytes(forged):
    length = int(forged.records[0]["length"])
    forged.replace_frame(0, noise(length, 77), flags=layout.FRAME_RAW)


def _fewer_granules(forged):
    record = forged.records[0]
    kept = forged.frames[: int(record["length"]) - GRANULE]
    lo = int(record["mask_lo"])
    forged.replace_frame(0, kept, mask_lo=lo & (lo - 1))


def _another_block(forged):
    row = max(row for row, record in enumerate(forged.records) if int(record["length"]))
    forged.replace_frame(row, noise(int(forged.records[row]["length"]), 5))


def _fewer_records(forged):
    last = forged.records[-1]
    forged.frames = forged.frames[: len(forged.frames) - int(last["length"])]
    del forged.records[-1]


def _another_point(forged):
    forged.points[-1]["time_us"] = int(forged.points[-1]["time_us"]) + 1


# --- the command


def run(volume: TinyVolume, *arguments: str | Path):
    command = in_this_process
    if volume.password is not None:
        file = volume.folder.parent / "password"
        file.touch(mode=0o600)
        file.write_bytes(volume.password.password)
        arguments = (*arguments, "--password-file", file)
    return command("squash", *arguments)


def test_the_command_tells_what_it_saved(volume, other):
    ran = run(volume, volume.image(LAST, "-cm"), "--to", other, "--json")
    assert ran.code == 0, str(ran)
    (found,) = ran.objects
    assert (found["status"], found["kind"], found["number"]) == ("squashed", "monthly", LAST)
    assert found["path"] == str(other / "D_VOL-b001-i006-cm.spi")
    assert found["before_bytes"] > found["stored_bytes"]
    assert found["factor_before"] > 2 > found["factor_after"] == 1
    assert (found["blocks"], found["blocks_squashed"]) == (8, 6)
    assert "no other place" in found["notice"]


def test_the_command_in_words_and_by_number(volume, other):
    arguments = (volume.folder, "--volume", volume.name, "--number", str(LAST), "--to", other)
    ran = run(volume, *arguments, "--tier", "monthly", "--part-size", "128K")
    assert ran.code == 0, str(ran)
    assert "6 of 8 blocks coded anew" in ran.output
    assert "read back and compared" in ran.output
    assert "note: its bytes and root are its own" in ran.errors
    assert (other / "D_VOL-b001-i006-cm.sp1").exists()
    again = run(volume, *arguments)
    assert again.code == 8, str(again)


def test_the_command_has_nothing_to_do(volume, other):
    ran = run(volume, volume.image(2), "--to", other)
    assert (ran.code, "nothing to do" in ran.output) == (0, True), str(ran)
    (found,) = run(volume, volume.image(2), "--to", other, "--json").objects
    assert (found["status"], found["reason"]) == ("unchanged", "no block is above the limits")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("{f}", "--to", "{o}"), 2, "With a folder, give --volume and --number"),
        (("{f}", "--volume", "D_VOL", "--number", "5", "--to", "{o}"), 2, "no such image"),
        (("{f}", "--volume", "D_VOL", "--number", "6", "--full", "--to", "{o}"), 2, "D_VOL-b001-i006-cm.spi"),
        (("{f}/D_VOL-b001-i006-cm.spi", "--to", "{f}"), 2, "the image's own folder"),
        (("{f}/D_VOL-b001-i006-cm.spi", "--full", "--to", "{o}"), 2, "Give an image, or a folder"),
        (("{f}/../volume.raw", "--to", "{o}"), 2, "does not have the name of an image"),
    ],
)
def test_what_the_command_refuses(quick_path, other, arguments, code, words):
    volume = make(quick_path / "v", None)
    ran = run(volume, *(word.format(f=volume.folder, o=other) for word in arguments))
    assert ran.code == code, str(ran)
    assert words in ran.errors
    assert names(other) == []
