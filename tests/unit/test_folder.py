"""What lies in a folder: images told by their headers, and all that only looks like one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from policies.errors import StorageError
from policies.names import parse_image_name
from storage.folder import (
    chain_identity,
    chains,
    disagreement,
    find_image,
    kind_of,
    look_at,
    refuse_unusable,
    scan_folder,
    stray_images,
)
from storage.image import ImageReader
from tests.unit.forge import take_apart
from tests.unit.tiny import TinyVolume, noise, open_files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TinyVolume:
    """A base, four incrementals, a daily, a weekly."""
    tiny = TinyVolume(tmp_path_factory.mktemp("made"))
    tiny.capture_states([noise(3000, seed) for seed in range(5)])
    tiny.merge(0, 4, "-cd")
    tiny.merge(1, 3, "-cw")
    return tiny


@pytest.fixture
def filled(made: TinyVolume, quick_path: Path) -> TinyVolume:
    """A base, four incrementals, a daily, a weekly, to do with as one likes."""
    return made.copy(quick_path / "tiny")


def problems(folder: Path, volume: str | None = None) -> dict[str, str | None]:
    return {image.path.name: image.problem for image in scan_folder(folder, volume)}


def test_a_good_folder(filled):
    found = scan_folder(filled.folder)
    assert [(image.path.name, image.kind) for image in found] == [
        ("D_VOL-b001.spf", "base"),
        ("D_VOL-b001-i001.spi", "incremental"),
        ("D_VOL-b001-i002.spi", "incremental"),
        ("D_VOL-b001-i003-cw.spi", "weekly"),
        ("D_VOL-b001-i003.spi", "incremental"),
        ("D_VOL-b001-i004-cd.spi", "daily"),
        ("D_VOL-b001-i004.spi", "incremental"),
    ]
    for image in found:
        assert image.usable
        with ImageReader(image.path) as reader:
            assert (image.header, image.root) == (reader.header, reader.root)
            assert (image.plain_bytes, image.stored_bytes) == (reader.plain_bytes, reader.stored_bytes)
        span = image.span(verified=True)
        assert (span.name, span.verified, span.stored_bytes) == (image.path.name, True, image.stored_bytes)


def test_other_files_are_passed_over(filled):
    before = problems(filled.folder)
    for name in (
        "notes.txt",
        "D_VOL-b001.md5",
        "D_VOL.sp1",
        ".D_VOL-b001.spf",
        "D_VOL.spf",
        "x.rf-partial",
    ):
        (filled.folder / name).write_text("junk")
    (filled.folder / "sub").mkdir()
    shutil.copy(filled.image(), filled.folder / "sub" / "E_VOL-b001.spf")
    assert problems(filled.folder) == before
    assert stray_images(filled.folder) == (filled.folder / ".D_VOL-b001.spf", filled.folder / "D_VOL.spf")


def test_an_empty_or_missing_folder(tmp_path):
    assert scan_folder(tmp_path) == ()
    for path in (tmp_path / "gone", Path(__file__)):
        with pytest.raises(StorageError) as caught:
            scan_folder(path)
        assert caught.value.path == str(path)


def test_what_is_wrong_with_an_image_is_its_problem(filled, quick_path):
    image = filled.image(2).read_bytes()
    cases = {
        "D_VOL-b001-i011.spi": (b"", "empty"),
        "D_VOL-b001-i012.spi": (b"Dear diary, " * 100, "not a rollforward image"),
        "D_VOL-b001-i013.spi": (image[:100], "too short"),
        "D_VOL-b001-i014.spi": (image[:-1], "no trailer"),
        "D_VOL-b001-i015.spi": (image + b"\0", "no trailer"),
        "D_VOL-b001-i016.spi": (image[:60] + b"!" + image[61:], "header is damaged"),
        "D_VOL-b001-i017.spi": (image, "leads to point 2, the name to 17"),
    }
    for name, (content, _) in cases.items():
        (filled.folder / name).write_bytes(content)
    (filled.folder / "D_VOL-b001-i018.spi").mkdir()
    (filled.folder / "D_VOL-b001-i019.spi").symlink_to(filled.image())
    os.mkfifo(filled.folder / "D_VOL-b001-i020.spi")
    (filled.folder / "D_VOL-b001-i021.spi").symlink_to("/dev/zero")
    before = open_files()
    found = problems(filled.folder)
    for name, (_, words) in cases.items():
        assert words in (found[name] or ""), name
    assert "regular file" in (found["D_VOL-b001-i018.spi"] or "")
    assert "link" in (found["D_VOL-b001-i019.spi"] or "")
    assert "regular file" in (found["D_VOL-b001-i020.spi"] or "")
    assert "link" in (found["D_VOL-b001-i021.spi"] or "")
    assert found["D_VOL-b001-i004.spi"] is None
    assert open_files() == before


def test_an_image_of_another_chain_under_a_fitting_name(filled, quick_path):
    other = TinyVolume(quick_path / "other")
    other.capture_states([noise(3000, seed) for seed in range(6)])
    shutil.copy(other.image(5), filled.image(5))
    shutil.copy(other.image(2), filled.image(2))
    found = problems(filled.folder)
    assert "another chain" in (found["D_VOL-b001-i005.spi"] or "")
    assert "another chain" in (found["D_VOL-b001-i002.spi"] or "")
    assert sum(problem is not None for problem in found.values()) == 2
    alone = find_image(filled.image(5))
    assert alone is not None
    assert "another chain" in (alone.problem or "")


def test_without_its_base_a_chain_is_what_most_of_its_images_say(filled, quick_path):
    other = TinyVolume(quick_path / "other")
    other.capture_states([noise(3000, seed) for seed in range(6)])
    shutil.copy(other.image(5), filled.image(5))
    filled.image().unlink()
    found = problems(filled.folder)
    assert [name for name, problem in found.items() if problem] == ["D_VOL-b001-i005.spi"]
    shutil.copy(other.image(), filled.image())
    found = problems(filled.folder)
    assert [name for name, problem in found.items() if not problem] == [
        "D_VOL-b001.spf",
        "D_VOL-b001-i005.spi",
    ]


def test_images_of_another_volume_under_a_fitting_name(filled, quick_path):
    other = TinyVolume(quick_path / "other", "E_VOL")
    other.capture_states([noise(3000)])
    (filled.folder / "F_VOL-b001.spf").write_bytes(other.image().read_bytes())
    assert "'E_VOL'" in (problems(filled.folder)["F_VOL-b001.spf"] or "")
    assert set(problems(filled.folder, "F_VOL")) == {"F_VOL-b001.spf"}
    assert problems(filled.folder, "G_VOL") == {}


def test_a_base_under_an_incrementals_name_and_the_other_way_round(filled):
    base, incremental = filled.image().read_bytes(), filled.image(4).read_bytes()
    (filled.folder / "D_VOL-b001-i000.spi").write_bytes(base)
    (filled.folder / "D_VOL-b001-i004.spf").write_bytes(incremental)
    found = problems(filled.folder)
    for name in ("D_VOL-b001-i000.spi", "D_VOL-b001-i004.spf"):
        assert ".spf and .spi" in (found[name] or ""), name


KINDS = [
    ("D-b001.spf", "base"),
    ("D-b001-i005.spf", "full"),
    ("D-b001-i005.spi", "incremental"),
    ("D-b001-i005-cd.spi", "daily"),
    ("D-b001-i005-cw.spi", "weekly"),
    ("D-b001-i005-cm.spi", "monthly"),
    ("D-b001-i005-cr.spi", "rolling"),
    ("D-b001-i005-cd-cw.spi", "weekly"),
    ("D-b001-i005-cd-cm-cr.spi", "rolling"),
    ("notes.txt", "unknown"),
]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_kinds_by_name_alone(name, kind):
    if kind != "full":  # only the header tells it from a base
        assert kind_of(parse_image_name(name), None) == kind


def test_kinds_by_header(filled):
    with ImageReader(filled.image(4, "-cd")) as image:
        assert kind_of(None, image.header) == "consolidated"
    with ImageReader(filled.image(4)) as image:
        assert kind_of(None, image.header) == "incremental"
    forged = take_apart(filled.image(4).read_bytes())
    forged.points[0]["number"] = 1
    path = filled.folder / "D_VOL-b001-d001-i004.spi"
    path.write_bytes(forged.seal())
    found = find_image(path)
    assert found is not None
    assert (found.kind, found.problem) == ("differential", None)


def test_looking_at_one_image(filled, tmp_path):
    assert find_image(tmp_path / "notes.txt") is None
    found = find_image(filled.image(1))
    assert found is not None
    assert found.usable
    filled.image().write_text("junk")
    found = find_image(filled.image(1))
    assert found is not None
    assert found.usable, "a bad base says nothing of what stands on it"
    name = parse_image_name("D_VOL-b001-i001.spi")
    assert name is not None
    gone = look_at(tmp_path / "D_VOL-b001-i001.spi", name)
    assert (gone.usable, gone.stored_bytes) == (False, 0)
    with pytest.raises(ValueError, match="no readable header"):
        gone.span()
    with pytest.raises(StorageError):
        refuse_unusable([gone])
    refuse_unusable([found])
    assert disagreement(name, found.header) is None


def test_numbers_beyond_three_digits_stay_in_order(tiny):
    for number in (1, 1000, 999, 10):
        (tiny.folder / f"D_VOL-b001-i{number:03d}.spi").write_bytes(b"")
    (tiny.folder / "D_VOL-b1000.spf").write_bytes(b"")
    found = chains(scan_folder(tiny.folder))
    assert list(found) == [("D_VOL", 1), ("D_VOL", 1000)]
    assert [image.name.number for image in found["D_VOL", 1]] == [1, 10, 999, 1000]
    assert chain_identity(found["D_VOL", 1]) is None


def test_names_that_are_not_unicode_are_no_images(tiny):
    tiny.capture_states([noise(1000)])
    shutil.copy(tiny.image(), os.fsencode(tiny.folder) + b"/D\xff-b001.spf")
    assert len(scan_folder(tiny.folder)) == 1
    assert len(stray_images(tiny.folder)) == 1
