"""Images that version 1 of the format wrote once are read, verified, merged and restored as on their first day."""

from __future__ import annotations

import hashlib
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from hsr.restore import restore
from storage.capture import capture
from storage.consolidate import consolidate
from storage.folder import scan_folder
from storage.image import ImageReader
from storage.verify import verify_image
from tests.golden.make_golden import START, states
from tests.unit.forge import take_apart

HERE = Path(__file__).parent
BASE, FIRST, SECOND = (HERE / f"D_GOLD-b001{end}" for end in (".spf", "-i001.spi", "-i002.spi"))
DAILY, FULL = (HERE / f"D_GOLD-b001-i002{end}" for end in ("-cd.spi", ".spf"))

ROOTS = {
    BASE: "862ff84884adfad9407e3f53a61fe728e18ced92c59cf92e76b790d504be9718",
    FIRST: "a996efa600262881efbd98c6f1ac55a1e0b7048029a170f0f01af7313194f539",
    SECOND: "14ebaa8e574892e93f4809edd9c5ecd114ec2888c574fb8e964283a3711aaae4",
    DAILY: "b4bac61d666314ead077904297e7fd0dc28be06677979c012329b6c496243088",
    FULL: "ba622b51466f51c29fa44e9fa30ed4efd5682955a21b9f9ff640fd4b59f842b3",
}
CONTENTS = [
    (197_308, "b6545ce85da36adb36e914a25957d434204e4cd0cd48f05f44b49e71a9470dbe"),
    (65_636, "cc197bcf858dcd73b1e1538e00ecfafcbff3d369fdc94bc4b68baa8dbac43884"),
    (131_072, "e3462a40a3fa2cac3bc88fdc8c808391b6901e907d4f2763f2cbcf9de4da7fa6"),
]
POINTS = [
    "5cc3a6551605a0b4e9c3334f5eb5554c",
    "8fad34bbb0c1ed095fbf1b50cb0e4878",
    "1c9338eb9c4746e1c7c03aa4af28451b",
]
FRAMES = {
    # block, origin, coding (0 zero, 1 raw, 2 Zstandard), stored bytes, granules 0 to 63
    BASE: [(0, 0, 2, 64, 2**64 - 1), (1, 0, 2, 67, 1), (2, 0, 2, 64, 2**64 - 1), (3, 0, 2, 722, 3)],
    FIRST: [(0, 0, 2, 72, 2), (1, 0, 2, 66, 1)],
    SECOND: [(0, 0, 1, 1024, 768), (1, 0, 0, 0, 1)],
    DAILY: [(0, 1, 1, 1024, 768), (0, 0, 2, 72, 2), (1, 1, 0, 0, 1)],
    FULL: [(0, 2, 1, 1024, 768), (0, 1, 2, 72, 2), (0, 0, 2, 64, 2**64 - 1), (1, 2, 0, 0, 1)],
}


@pytest.mark.parametrize("path", ROOTS, ids=lambda path: path.name)
def test_they_are_good_and_the_same_as_ever(path):
    for deep in (False, True):
        found = verify_image(path, deep=deep, from_medium=False)
        assert (found.status, found.reason) == ("good", None)
        assert found.root is not None
        assert found.root.hex() == ROOTS[path]
    assert take_apart(path.read_bytes()).seal() == path.read_bytes()


@pytest.mark.parametrize("path", ROOTS, ids=lambda path: path.name)
def test_what_they_say(path):
    with ImageReader(path) as image:
        header = image.header
        records = image.read_pages(0, 1)
    assert header.chain_id.hex() == "933305f987bcf5fb6c250018e35a6eee"
    assert (header.granule_bytes, header.block_bytes) == (512, 65_536)
    points = [*([header.start] if header.start else []), *header.covers]
    first = {BASE: 0, FIRST: 0, SECOND: 1, DAILY: 0, FULL: 0}[path]
    for number, point in enumerate(points, start=first):
        assert (point.number, point.id.hex()) == (number, POINTS[number])
        assert point.time == START + timedelta(hours=number)
        assert point.volume_bytes == CONTENTS[number][0]
    assert header.zero_from_bytes == (65_636 if header.start else 0)
    assert dict(header.metadata) == {
        "volume": "D_GOLD",
        "computer": "golden",
        "source": "volume.raw",
        "sector_bytes": 512,
    }
    names = ("block", "origin", "flags", "length", "mask_lo")
    assert [tuple(int(record[name]) for name in names) for record in records] == FRAMES[path]


WAYS = [
    (0, [BASE]),
    (1, [BASE, FIRST]),
    (2, [BASE, FIRST, SECOND]),
    (2, [BASE, DAILY]),
    (2, [BASE, FIRST, DAILY]),
    (2, [FULL]),
]


@pytest.mark.parametrize(("number", "images"), WAYS)
def test_they_lead_to_the_same_bytes(tmp_path, number, images):
    restore(images, tmp_path / "x.raw")
    content = (tmp_path / "x.raw").read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == CONTENTS[number]
    assert content == states()[number]


def test_merging_them_gives_the_very_same_bytes(tmp_path):
    made = consolidate([FIRST, SECOND], tmp_path / "daily.spi")
    assert made.path.read_bytes() == DAILY.read_bytes()
    made = consolidate([BASE, FIRST, SECOND], tmp_path / "full.spf")
    assert made.path.read_bytes() == FULL.read_bytes()
    made = consolidate([BASE, DAILY], tmp_path / "full-too.spf")
    assert made.path.read_bytes() == FULL.read_bytes()


def test_a_chain_goes_on_from_them(tmp_path):
    for path in ROOTS:
        shutil.copy(path, tmp_path)
    assert all(image.usable for image in scan_folder(tmp_path))
    raw = tmp_path / "volume.raw"
    raw.write_bytes(states()[2] + b"more")
    made = capture(raw, tmp_path, "D_GOLD", now=START + timedelta(days=1))
    assert made.path.name == "D_GOLD-b001-i003.spi"
    assert made.changed_bytes == 512
    assert made.header.start is not None
    assert made.header.start.id.hex() == POINTS[2]
    restore([FULL, made.path], tmp_path / "x.raw")
    assert (tmp_path / "x.raw").read_bytes() == raw.read_bytes()
