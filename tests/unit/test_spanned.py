"""Images in several files: read as one, and what is wrong with a set is said of the file that is to blame."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from policies.errors import ConfigurationError, FormatError, NotAnImageError, StorageError
from storage.consolidate import consolidate
from storage.folder import find_image, look_at, scan_folder
from storage.image import ImageReader
from storage.open_files import SharedFile
from storage.overlay import Overlay
from storage.parts import group_parts, image_files, part_path, stored_bytes_of
from storage.stored_file import StoredFile
from storage.verify import verify_image
from tests.unit.tiny import BLOCK, TinyVolume, noise, open_files

PART = 220_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyVolume:
    """A base and three incrementals; a daily of them in one file, a weekly of the same in nine."""
    tiny = TinyVolume(tmp_path_factory.mktemp("made"))
    tiny.capture_states([noise(28 * BLOCK, seed) for seed in range(4)])
    sources = [tiny.image(number) for number in (1, 2, 3)]
    consolidate(sources, tiny.image(3, "-cd"))
    consolidate(sources, tiny.image(3, "-cw"), part_bytes=PART)
    return tiny


@pytest.fixture
def filled(made: TinyVolume, quick_path: Path) -> TinyVolume:
    return made.copy(quick_path / "tiny")


@pytest.fixture
def spanned(filled: TinyVolume) -> Path:
    """The weekly, alone with the base."""
    for number in (1, 2, 3):
        filled.image(number).unlink()
    filled.image(3, "-cd").unlink()
    return filled.image(3, "-cw")


# --- one image in several files


def test_the_parts_one_after_the_other_are_the_image(made):
    single, spanned = made.image(3, "-cd"), made.image(3, "-cw")
    files = image_files(spanned)
    assert [path.name for path in files[:3]] == [
        "D_VOL-b001-i003-cw.spi",
        "D_VOL-b001-i003-cw.sp1",
        "D_VOL-b001-i003-cw.sp2",
    ]
    assert b"".join(path.read_bytes() for path in files) == single.read_bytes()
    sizes = [path.stat().st_size for path in files]
    assert set(sizes[:-1]) == {PART}
    assert 0 < sizes[-1] <= PART
    assert len(files) == 9
    assert stored_bytes_of(spanned) == single.stat().st_size
    with ImageReader(single) as one, ImageReader(spanned) as several:
        assert (one.root, one.header, one.stored_bytes) == (
            several.root,
            several.header,
            several.stored_bytes,
        )


@pytest.mark.parametrize("deep", [False, True])
def test_a_set_verifies_like_one_file(made, deep):
    found = verify_image(made.image(3, "-cw"), deep=deep)
    assert (found.status, found.reason) == ("good", None)
    assert found.stored_bytes == made.image(3, "-cd").stat().st_size


def test_a_folder_shows_a_set_as_one_image(made):
    found = {image.path.name: image for image in scan_folder(made.folder)}
    assert len(found) == 6
    weekly = found["D_VOL-b001-i003-cw.spi"]
    assert (weekly.usable, weekly.parts, weekly.problem) == (True, 9, None)
    assert weekly.stored_bytes == stored_bytes_of(weekly.path)
    assert weekly.root == found["D_VOL-b001-i003-cd.spi"].root


def test_a_set_restores_and_consolidates_like_one_file(spanned, filled):
    filled.check(3)
    full = filled.folder / "D_VOL-b001-i003.spf"
    made = consolidate([filled.image(), spanned], full, part_bytes=PART)
    assert [path.name for path in image_files(full)][1] == "D_VOL-b001-i003.spf.sp1"
    whole = consolidate([filled.image(), spanned], filled.folder / "D_VOL-b001-i009.spf")
    assert (made.root, made.stored_bytes) == (whole.root, whole.stored_bytes)
    assert made.parts == 9
    whole.path.unlink()
    for path in (filled.image(), *image_files(spanned)):
        path.unlink()
    filled.check(3)


def test_the_full_and_the_incremental_of_one_number_may_both_be_in_parts(filled):
    sources = [filled.image(number) for number in (1, 2, 3)]
    filled.image(3).unlink()
    incremental = consolidate([filled.image(3, "-cd")], filled.image(3), part_bytes=PART)
    full = consolidate(
        [filled.image(), filled.image(3, "-cd")], filled.folder / "D_VOL-b001-i003.spf", part_bytes=PART
    )
    del sources
    assert {image.problem for image in scan_folder(filled.folder)} == {None}
    assert verify_image(incremental.path).status == verify_image(full.path).status == "good"


@pytest.mark.parametrize("part_bytes", [65_536, 220_000, 262_144, 10**9])
def test_any_part_size_gives_the_same_image(made, quick_path, part_bytes):
    target = quick_path / "D_VOL-b001-i003-cm.spi"
    result = consolidate([made.image(number) for number in (1, 2, 3)], target, part_bytes=part_bytes)
    with ImageReader(made.image(3, "-cd")) as one:
        assert result.root == one.root
    assert result.parts == -(-result.stored_bytes // part_bytes) == len(image_files(target))


def test_an_image_that_ends_with_a_part_has_no_empty_one(made, quick_path):
    size = made.image(3, "-cd").stat().st_size
    target = quick_path / "D_VOL-b001-i003-cm.spi"
    sources = [made.image(number) for number in (1, 2, 3)]
    assert consolidate(sources, target, part_bytes=size).parts == 1
    for path in image_files(target):
        path.unlink()
    assert consolidate(sources, target, part_bytes=size - 1).parts == 2
    assert part_path(target, 1).stat().st_size == 1
    assert verify_image(target).status == "good"


def test_a_file_that_was_cut_by_hand_is_a_set(made, quick_path):
    content = made.image(3, "-cd").read_bytes()
    target = quick_path / "D_VOL-b001-i003.spi"
    for number, start in enumerate(range(0, len(content), 300_000)):
        part_path(target, number).write_bytes(content[start : start + 300_000])
    assert verify_image(target).status == "good"


def test_reads_may_cross_any_border(made):
    single, spanned = made.image(3, "-cd"), made.image(3, "-cw")
    content = single.read_bytes()
    before = open_files()
    file = StoredFile(spanned)
    try:
        for start, stop in ((0, len(content)), (PART - 1, PART + 1), (PART, 3 * PART), (10, 2 * PART + 7)):
            pieces = [bytearray(size) for size in (0, (stop - start) // 3, 1, 0)]
            pieces.append(bytearray(stop - start - sum(map(len, pieces))))
            file.read_into(start, [memoryview(piece) for piece in pieces])
            assert b"".join(pieces) == content[start:stop]
        with pytest.raises(FormatError, match="ends too early") as caught:
            file.read(len(content) - 5, 6)
        assert caught.value.path == str(part_path(spanned, 8))
        assert file.place(PART - 1) == (spanned, PART - 1)
        assert file.place(3 * PART + 5) == (part_path(spanned, 3), 5)
        assert [file.part_at(offset) for offset in (0, PART - 1, PART, len(content) - 1, 10**9)] == [
            0,
            0,
            1,
            8,
            8,
        ]
    finally:
        file.close()
    assert open_files() == before


# --- what may be wrong with a set


Spoil = Callable[[Path], Path]
"""Spoils a set and returns the file that is to be blamed."""


def lose(*numbers: int) -> Spoil:
    def spoil(first: Path) -> Path:
        for number in numbers:
            part_path(first, number).unlink()
        return part_path(first, numbers[0])

    return spoil


def swap(one: int, other: int) -> Spoil:
    def spoil(first: Path) -> Path:
        here, there = part_path(first, one), part_path(first, other)
        kept = here.read_bytes()
        here.write_bytes(there.read_bytes())
        there.write_bytes(kept)
        return here

    return spoil


def rewrite(number: int, change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(first: Path) -> Path:
        path = part_path(first, number)
        path.write_bytes(change(path.read_bytes()))
        return path

    return spoil


def copy_over(source: int, target: int) -> Spoil:
    def spoil(first: Path) -> Path:
        shutil.copyfile(part_path(first, source), part_path(first, target))
        return part_path(first, target)

    return spoil


def add(number: int, content: bytes) -> Spoil:
    def spoil(first: Path) -> Path:
        part_path(first, number).write_bytes(content)
        return part_path(first, number)

    return spoil


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


SPOILT = {
    "first part missing": (lose(0), "first part is missing"),
    "second part missing": (lose(1), "is missing"),
    "middle part missing": (lose(4), "is missing"),
    "last part missing": (lose(8), "is missing"),
    "last two missing": (lose(7, 8), "is missing"),
    "all further parts missing": (lose(1, 2, 3, 4, 5, 6, 7, 8), None),
    "two middle parts swapped": (swap(2, 5), "holds what belongs into D_VOL-b001-i003-cw.sp5"),
    "neighbours swapped": (swap(3, 4), "holds what belongs into D_VOL-b001-i003-cw.sp4"),
    "first part swapped": (swap(0, 3), "D_VOL-b001-i003-cw.sp3 is: were they swapped"),
    "last part swapped": (swap(3, 8), "too short"),
    "a part copied over another": (copy_over(6, 2), "holds what belongs into D_VOL-b001-i003-cw.sp6"),
    "the first part copied over another": (copy_over(0, 2), "holds what belongs into D_VOL-b001-i003-cw.spi"),
    "a part of other bytes": (rewrite(4, lambda content: noise(len(content))), "of another image"),
    "a part of zeros": (rewrite(4, lambda content: bytes(len(content))), "of another image"),
    "a middle part cut": (rewrite(3, lambda content: content[:-1]), "too short"),
    "a middle part empty": (rewrite(3, lambda content: b""), "too short"),
    "a middle part grown": (rewrite(3, lambda content: content + b"\0"), "too long"),
    "the first part cut": (rewrite(0, lambda content: content[:-1]), "too short"),
    "the first part grown": (rewrite(0, lambda content: content + b"\0"), "too long"),
    "the first part empty": (rewrite(0, lambda content: b""), "too short"),
    "the last part cut": (rewrite(8, lambda content: content[:-1]), "cut off"),
    "the last part grown": (rewrite(8, lambda content: content + b"\0"), "cut off"),
    "the last part empty": (rewrite(8, lambda content: b""), "too short"),
    "one part too many": (add(9, b"more"), "does not belong to the set"),
    "one part too many, of full size": (add(9, noise(PART)), "does not belong to the set"),
    "a part too many after a gap": (add(11, b"more"), "does not belong to the set"),
    "a bit in the first part": (rewrite(0, flip(PART - 9)), "damaged"),
    "a bit of the header": (rewrite(0, flip(60)), "header is damaged"),
    "a bit in a middle part": (rewrite(4, flip(PART // 2)), "damaged"),
    "a bit in the last part": (rewrite(8, flip(5)), "damaged"),
    "a part that is a link": (lambda first: _link(part_path(first, 2)), "link"),
    "a part that is a folder": (lambda first: _folder(part_path(first, 2)), "regular file"),
}


def _link(path: Path) -> Path:
    shutil.move(path, path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))
    return path


def _folder(path: Path) -> Path:
    path.unlink()
    path.mkdir()
    return path


@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_set_is_bad_and_the_file_is_named(spanned, filled, what):
    spoil, words = SPOILT[what]
    blamed = spoil(spanned)
    before = open_files()
    found = verify_image(spanned)
    assert found.status == "bad"
    assert found.reason is not None
    if words is not None:
        assert words in found.reason
        assert blamed == spanned or blamed.name in found.reason
    if what != "a part too many after a gap":  # that one is not read, and not in the way
        with pytest.raises(FormatError):
            _read_everything(spanned)
    seen = find_image(spanned)
    assert seen is not None
    if "bit in" not in what and "of other bytes" not in what and "zeros" not in what and "copied" not in what:
        listed = {image.path: image.problem for image in scan_folder(filled.folder)}
        if "swapped" not in what or what in ("first part swapped", "last part swapped"):
            assert listed[spanned], "a first look is enough to see it"
            assert seen.problem == listed[spanned]
            assert words is None or words in listed[spanned]
    assert open_files() == before


def _read_everything(image: Path) -> None:
    with Overlay([image]) as overlay:
        for window in overlay.windows():
            size = int(window.records["length"].sum())
            overlay.load(window, np.arange(len(window)), memoryview(bytearray(size)))


def test_restoring_names_the_damaged_part(spanned, filled, tmp_path):
    blamed = rewrite(4, flip(PART // 2))(spanned)
    with pytest.raises(FormatError, match="damaged") as caught:
        filled.restore(3, tmp_path / "out.raw")
    assert caught.value.path == str(blamed)
    assert caught.value.offset is not None
    assert 0 <= caught.value.offset < PART
    assert not (tmp_path / "out.raw").exists()
    swap(4, 6)(spanned)
    with pytest.raises(FormatError, match=r"holds what belongs into .*\.sp6") as caught:
        consolidate([spanned], tmp_path / "D_VOL-b001-i003-cm.spi")
    assert caught.value.path == str(blamed)


def test_a_restore_never_replaces_a_part_of_what_it_reads(spanned, filled):
    part = part_path(spanned, 3)
    with pytest.raises(ConfigurationError, match="one of the images"):
        filled.restore(3, part, overwrite=True)
    assert verify_image(spanned).status == "good"


def test_a_part_of_another_set_is_told(spanned, filled, quick_path, tmp_path_factory):
    """Of another image, of the same image in other parts, and the end of another image."""
    other = quick_path / "D_VOL-b001-i003-cw.spi"
    consolidate([spanned], other, part_bytes=PART - 1000)
    content = part_path(spanned, 3).read_bytes()
    shutil.copyfile(part_path(other, 3), part_path(spanned, 3))
    assert "sp3: is too short for its place" in (verify_image(spanned).reason or "")
    part_path(spanned, 3).write_bytes(content)

    stranger = TinyVolume(
        tmp_path_factory.mktemp("evil")
    )  # paths of the same length make images of the same length
    stranger.capture_states([noise(28 * BLOCK, seed) for seed in range(10, 14)])
    strange = consolidate(
        [stranger.image(number) for number in (1, 2, 3)], stranger.image(3, "-cw"), part_bytes=PART
    )
    assert strange.stored_bytes == stored_bytes_of(spanned)
    shutil.copyfile(part_path(strange.path, 3), part_path(spanned, 3))
    assert "sp3: holds nothing of what belongs there" in (verify_image(spanned).reason or "")
    part_path(spanned, 3).write_bytes(content)
    assert verify_image(spanned).status == "good"
    shutil.copyfile(part_path(strange.path, 8), part_path(spanned, 8))
    assert "sp8: is the end of another image" in (verify_image(spanned).reason or "")
    assert filled.folder == spanned.parent


def test_parts_without_a_first_one_are_shown_once(tiny):
    tiny.capture_states([noise(BLOCK)])
    for name in ("D_VOL-b001-i007.sp1", "D_VOL-b001-i007.sp2", "E_VOL-b002.sp3", "D_VOL-b001-i005.spf.sp1"):
        (tiny.folder / name).write_bytes(b"rest")
    found = {image.path.name: image for image in scan_folder(tiny.folder)}
    assert set(found) == {
        "D_VOL-b001.spf",
        "D_VOL-b001-i007.spi",
        "D_VOL-b001-i005.spf",
        "E_VOL-b002.spf",
    }
    rest = found["D_VOL-b001-i007.spi"]
    assert (rest.usable, rest.parts, rest.stored_bytes) == (False, 2, 8)
    assert "first part is missing; there are .sp1 and .sp2" in (rest.problem or "")
    assert "there is .sp3" in (found["E_VOL-b002.spf"].problem or "")
    made = tiny.capture()
    assert made.path.name == "D_VOL-b001-i008.spi", "the number of the rest is not given away"


def test_an_image_alone_has_no_parts(tmp_path):
    with pytest.raises(StorageError, match="cannot be opened"):
        StoredFile(tmp_path / "D_VOL-b001.spf")
    path = tmp_path / "notes.txt"
    path.write_text("notes")
    assert image_files(path) == [path]
    with pytest.raises(NotAnImageError):
        ImageReader(path.with_name("notes.txt")) if path.write_bytes(bytes(300)) else None
    with pytest.raises(ValueError, match="not the name of an image"):
        part_path(path, 1)


def test_names_are_grouped_by_image():
    groups = group_parts(["a-b001.sp2", "a-b001.spf", "a-b001.sp10", "b-b001.sp1", "notes", "a-b001.sp1.md5"])
    assert {name.filename(): numbers for name, numbers in groups.items()} == {
        "a-b001.spf": (2, 10),
        "b-b001.spf": (1,),
    }


# --- few descriptors


@pytest.fixture
def few_descriptors() -> Iterator[int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 24, hard))
    yield used + 24
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_long_chain_of_sets_needs_few_descriptors(made, tmp_path, few_descriptors):
    before = open_files()
    images = []
    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        for path in image_files(made.image(3, "-cw")):
            os.link(path, folder / path.name)
        images.append(folder / made.image(3, "-cw").name)
    readers = [ImageReader(image) for image in images]
    try:
        assert sum(reader.file.part_count for reader in readers) == 270
        for reader in readers:
            assert verify_image(reader.path).status == "good"
            assert reader.read_pages(0, 1) is not None
        assert len(open_files()) < few_descriptors
    finally:
        for reader in readers:
            reader.close()
    assert open_files() == before


def test_a_file_that_was_replaced_meanwhile_is_not_read_on(tmp_path, few_descriptors):
    before = open_files()
    files = []
    for number in range(few_descriptors + 10):
        path = tmp_path / f"{number}"
        path.write_bytes(b"%d" % number)
        files.append(SharedFile(path))
    (tmp_path / "0").rename(tmp_path / "kept")
    (tmp_path / "0").write_bytes(b"another")
    with pytest.raises(StorageError, match="was replaced"), files[0].descriptor():
        pass
    with files[1].descriptor() as fd:
        assert os.pread(fd, 9, 0) == b"1"
    for file in files:
        file.close()
    assert open_files() == before


def test_a_file_that_is_closed_under_its_readers_stays_open_for_them(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    file = SharedFile(path)
    before = open_files()
    with file.descriptor() as fd:
        file.close()
        assert os.pread(fd, 9, 0) == b"content"
    assert open_files() == before - {str(path)}


def test_looking_at_a_set_costs_no_listing(made, monkeypatch):
    """A folder of many images is listed once, not once for each."""
    listed = []
    real = Path.iterdir

    def counted(path: Path) -> Iterator[Path]:
        listed.append(path)
        return real(path)

    monkeypatch.setattr(Path, "iterdir", counted)
    scan_folder(made.folder)
    assert len(listed) == 1
    with ImageReader(made.image(3, "-cw")) as image:
        assert look_at(image.path, scan_folder(made.folder)[0].name).path == image.path
