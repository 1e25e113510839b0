"""What file names say."""

from __future__ import annotations

import pytest

from policies.errors import ConfigurationError
from policies.names import (
    ImageName,
    SideFile,
    Tier,
    check_volume_name,
    image_name,
    parse_image_name,
    side_file_kind,
)

D, W, M, R = Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY, Tier.ROLLING

READ = [
    # name, volume, base, differential, number, tiers, extension, part
    ("D_VOL-b001.spf", "D_VOL", 1, None, None, (), "spf", 0),
    ("D_VOL-b001-i005.spi", "D_VOL", 1, None, 5, (), "spi", 0),
    ("D_VOL-b001-i000.spi", "D_VOL", 1, None, 0, (), "spi", 0),
    ("D_VOL-b001-d002.spi", "D_VOL", 1, 2, None, (), "spi", 0),
    ("D_VOL-b001-d002-i005.spi", "D_VOL", 1, 2, 5, (), "spi", 0),
    ("D_VOL-b001-i005-cd.spi", "D_VOL", 1, None, 5, (D,), "spi", 0),
    ("D_VOL-b001-i026-cw.spi", "D_VOL", 1, None, 26, (W,), "spi", 0),
    ("D_VOL-b001-i097-cm.spi", "D_VOL", 1, None, 97, (M,), "spi", 0),
    ("D_VOL-b001-i900-cr.spi", "D_VOL", 1, None, 900, (R,), "spi", 0),
    ("D_VOL-b001-i005-cd-cw.spi", "D_VOL", 1, None, 5, (D, W), "spi", 0),
    ("D_VOL-b001-d002-i005-cd-cm.spi", "D_VOL", 1, 2, 5, (D, M), "spi", 0),
    ("D_VOL-b001-i005-cd-cm-cr.spi", "D_VOL", 1, None, 5, (D, M, R), "spi", 0),
    ("D_VOL-b001-i005.spf", "D_VOL", 1, None, 5, (), "spf", 0),
    ("D_VOL-b012-i35000.spi", "D_VOL", 12, None, 35000, (), "spi", 0),
    ("D_VOL-b1000.spf", "D_VOL", 1000, None, None, (), "spf", 0),
    ("D_VOL-b001.sp1", "D_VOL", 1, None, None, (), "spf", 1),
    ("D_VOL-b001-i005.sp1", "D_VOL", 1, None, 5, (), "spi", 1),
    ("D_VOL-b001-d002.sp3", "D_VOL", 1, 2, None, (), "spi", 3),
    ("D_VOL-b001-i005-cd.sp12", "D_VOL", 1, None, 5, (D,), "spi", 12),
    ("D_VOL-b001-i005.spf.sp1", "D_VOL", 1, None, 5, (), "spf", 1),
    ("D_VOL-b001-d002-i005.spf.sp20", "D_VOL", 1, 2, 5, (), "spf", 20),
    ("Größe's D-Platte (alt)-b001-i001.spi", "Größe's D-Platte (alt)", 1, None, 1, (), "spi", 0),
    ("a-b001-i002-b003.spf", "a-b001-i002", 3, None, None, (), "spf", 0),
    ("-b001-b002.spf", "-b001", 2, None, None, (), "spf", 0),
    (" -b002.spf", " ", 2, None, None, (), "spf", 0),
]

NOT_IMAGES = [
    "",
    ".spf",
    "-b001.spf",
    "D_VOL.spf",
    "D_VOL-b01.spf",
    "D_VOL-b0001.spf",
    "D_VOL-b\u0660\u0660\u0661.spf",
    "D_VOL-b001.spi",
    "D_VOL-b001.SPF",
    "D_VOL-b001.spf.tmp",
    "D_VOL-b001.spf\n",
    "D_VOL-b001.sp0",
    "D_VOL-b001.sp01",
    "D_VOL-b001",
    "D_VOL-b001-i005",
    "D_VOL-b001.spf.sp1",
    "D_VOL-b001-i005.spi.sp1",
    "D_VOL-b001-i005.spf.sp0",
    "D_VOL-b001-i005.spf.sp01",
    "D_VOL-b001-i005.sp1.spf",
    "D_VOL-b001-i005.sp1.sp2",
    "D_VOL-b001-d002.spf.sp1",
    "D_VOL-b001.spk",
    "D_VOL-b001-i005.md5",
    "D_VOL-b001-cd.spf",
    "D_VOL-b001-d002-cd.spi",
    "D_VOL-b001-i005-cd.spf",
    "D_VOL-b001-i005-cw-cd.spi",
    "D_VOL-b001-i005-cd-cd.spi",
    "D_VOL-b001-i005-cx.spi",
    "D_VOL-b001-d002.spf",
    "D_VOL-b001-i005-d002.spi",
    "D_VOL-b1234567890.spf",
    ".rollforward-b001.spf",
    "folder/D_VOL-b001.spf",
    "folder\\D_VOL-b001.spf",
    "D\x00VOL-b001.spf",
    "D\x1bVOL-b001.spf",
    "D\udcf6VOL-b001.spf",
    "D\u2028VOL-b001.spf",
    "ö" * 101 + "-b001.spf",
    "D" * 100_000 + "-b001.spf",
    "-b001" * 50_000,
]


@pytest.mark.parametrize(("text", "volume", "base", "differential", "number", "tiers", "ext", "part"), READ)
def test_a_name_is_read_and_spelled_alike(text, volume, base, differential, number, tiers, ext, part):
    name = parse_image_name(text)
    assert name == ImageName(volume, base, differential, number, tiers, ext, part)
    assert name.filename() == text


@pytest.mark.parametrize("text", NOT_IMAGES, ids=lambda text: ascii(text)[:40])
def test_other_names_are_no_images(text):
    assert parse_image_name(text) is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "D_VOL-b001.spf"),
        ({"number": 5}, "D_VOL-b001-i005.spi"),
        ({"number": 5, "tiers": [Tier.INCREMENTAL]}, "D_VOL-b001-i005.spi"),
        ({"number": 5, "tiers": [D]}, "D_VOL-b001-i005-cd.spi"),
        ({"number": 5, "tiers": {M, D}}, "D_VOL-b001-i005-cd-cm.spi"),
        ({"number": 5, "full": True}, "D_VOL-b001-i005.spf"),
        ({"number": 123456}, "D_VOL-b001-i123456.spi"),
    ],
)
def test_names_are_made(arguments, expected):
    assert image_name("D_VOL", 1, **arguments).filename() == expected


@pytest.mark.parametrize(
    "arguments",
    [
        {"number": -1},
        {"number": 10**9},
        {"tiers": [D]},
        {"number": 5, "tiers": [D], "full": True},
    ],
)
def test_names_that_nothing_could_read_are_refused(arguments):
    with pytest.raises(ValueError, match=r"number|rolled up"):
        image_name("D_VOL", 1, **arguments)


def test_parts_of_a_synthetic_full_are_told_from_those_of_the_incremental():
    full, incremental = ImageName("D", 1, None, 5, (), "spf"), ImageName("D", 1, None, 5)
    assert full.of_part(1).filename() == "D-b001-i005.spf.sp1"
    assert incremental.of_part(1).filename() == "D-b001-i005.sp1"
    for name in (full, incremental, ImageName("D", 1, extension="spf")):
        assert parse_image_name(name.of_part(7).filename()) == name.of_part(7)
        assert name.of_part(7).of_part(0) == name


def test_full_and_consolidation_are_told_apart():
    assert image_name("D", 1).is_full
    assert image_name("D", 1, 5, full=True).is_full
    assert not image_name("D", 1, 5).is_full
    assert image_name("D", 1, 5, [D]).is_consolidation
    assert not image_name("D", 1, 5).is_consolidation


@pytest.mark.parametrize("volume", ["D_VOL", "ö" * 100, "a.b", "it's mine", "-", "C: drive", "日本"])
def test_good_volume_names(volume):
    check_volume_name(volume)


@pytest.mark.parametrize(
    ("volume", "why"),
    [
        ("", "is empty"),
        (".hidden", "begins with a dot"),
        ("..", "begins with a dot"),
        ("a/b", "slash"),
        ("a\\b", "slash"),
        ("a\x00", "control"),
        ("a\n", "control"),
        ("a\x85b", "control"),
        ("a\ud800", "UTF-8"),
        ("ö" * 101, "longer than 200 bytes"),
    ],
)
def test_bad_volume_names(volume, why):
    with pytest.raises(ConfigurationError, match=why) as caught:
        check_volume_name(volume)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("D_VOL-b001.md5", SideFile.DIGEST),
        ("D_VOL-b001-i005.spi.md5", SideFile.DIGEST),
        ("D_VOL-b001-i005.sp2.md5", SideFile.DIGEST),
        ("D_VOL-b001.spk", SideFile.KEY),
        ("D_VOL-b001.spf", None),
        (".md5", None),
        (".hidden.md5", None),
        ("md5", None),
        ("", None),
    ],
)
def test_side_files(name, kind):
    assert side_file_kind(name) is kind
