"""Encrypted images that version 1 of the format wrote once are opened, merged and restored as on their first day."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from hsr.restore import restore
from policies.errors import PasswordError
from storage.capture import capture
from storage.consolidate import consolidate
from storage.folder import scan_folder
from storage.image import ImageReader
from storage.key_files import unlock
from storage.keys import ChainKey
from storage.seals import open_metadata
from storage.verify import verify_image
from tests.golden.make_golden import LOCKED, PASSWORD, START, GoldenPassword, states

HERE = Path(__file__).parent
BASE, FIRST, SECOND = (HERE / f"{LOCKED}-b001{end}" for end in (".spf", "-i001.spi", "-i002.spi"))
DAILY, FULL = (HERE / f"{LOCKED}-b001-i002{end}" for end in ("-cd.spi", ".spf"))
KEYS = HERE / f"{LOCKED}-b001.spk"

ROOTS = {
    BASE: "7bf055fb122b2b96e49540156f4d16c2aa943a5180e14e264dd1a60ce6c927a9",
    FIRST: "046394d439ea000902c3cb373a428ca3899a4a5a2264d9aca5ad713819a479fe",
    SECOND: "832a0deea612f3e1d6530c91c5b9678dd03382e099d722962643bb1ae5eeffcc",
    DAILY: "a223b53a8024f7edaf9cab19180523fac62651f59e7cfd5d25ad97712e14f92c",
    FULL: "4ed8be1158b83d314d56fac9faf9ee5c4e0d120fc1aa3ba5e501bfe2d1893a87",
}
FRAMES = {
    # block, origin, flags (0 zero, 1 raw, 2 Zstandard; 8 a trace), stored bytes
    BASE: [(0, 0, 2, 80), (1, 0, 2, 83), (2, 0, 2, 80), (3, 0, 2, 738)],
    FIRST: [(0, 0, 2, 88), (1, 0, 2, 82)],
    SECOND: [(0, 0, 1, 1040), (1, 0, 0, 0)],
    DAILY: [(0, 1, 1, 1040), (0, 0, 2, 88), (1, 1, 0, 0), (1, 0, 10, 0)],
    FULL: [
        (0, 2, 1, 1040),
        (0, 1, 2, 88),
        (0, 0, 2, 80),
        (1, 2, 0, 0),
        (1, 1, 10, 0),
        (1, 0, 10, 0),
        (2, 0, 10, 0),
        (3, 0, 10, 0),
    ],
}


@pytest.fixture(scope="module")
def key() -> ChainKey:
    return opened(KEYS)


def opened(path: Path, password: bytes = PASSWORD) -> ChainKey:
    headers = [image.header for image in scan_folder(HERE, LOCKED)]
    return unlock(path, [header for header in headers if header], password).key


@pytest.mark.parametrize("path", ROOTS, ids=lambda path: path.name)
def test_they_are_good_and_the_same_as_ever(path, key):
    for found in (
        verify_image(path, from_medium=False),
        verify_image(path, deep=True, key=key, from_medium=False),
    ):
        assert (found.status, found.reason) == ("good", None)
        assert found.root is not None
        assert found.root.hex() == ROOTS[path]
    with ImageReader(path) as image:
        records = image.read_pages(0, 1)
        metadata = open_metadata(image.header, key, "x")
    names = ("block", "origin", "flags", "length")
    assert [tuple(int(record[name]) for name in names) for record in records] == FRAMES[path]
    assert metadata == {"volume": LOCKED, "computer": "golden", "source": "volume.raw", "sector_bytes": 512}


def test_key_file_and_copies_open(key, tmp_path):
    assert opened(tmp_path / "gone").derive("x") == key.derive("x")
    with pytest.raises(PasswordError):
        opened(KEYS, b"Golden")


@pytest.mark.parametrize(
    ("number", "images"),
    [(0, [BASE]), (1, [BASE, FIRST]), (2, [BASE, FIRST, SECOND]), (2, [BASE, DAILY]), (2, [FULL])],
)
def test_they_lead_to_the_same_bytes(tmp_path, key, number, images):
    restore(images, tmp_path / "x.raw", key=key)
    assert (tmp_path / "x.raw").read_bytes() == states()[number]


def test_merging_them_gives_the_very_same_bytes(tmp_path):
    assert consolidate([FIRST, SECOND], tmp_path / "a.spi").path.read_bytes() == DAILY.read_bytes()
    assert consolidate([BASE, FIRST, SECOND], tmp_path / "b.spf").path.read_bytes() == FULL.read_bytes()
    assert consolidate([BASE, DAILY], tmp_path / "c.spf").path.read_bytes() == FULL.read_bytes()


def test_a_chain_goes_on_from_them(tmp_path):
    for path in (*ROOTS, KEYS):
        shutil.copy(path, tmp_path)
    raw = tmp_path / "volume.raw"
    raw.write_bytes(states()[2] + b"more")
    made = capture(raw, tmp_path, LOCKED, now=START + timedelta(days=1), passwords=GoldenPassword())
    assert made.path.name == f"{LOCKED}-b001-i003.spi"
    assert made.changed_bytes == 512
    restore([FULL, made.path], tmp_path / "x.raw", key=opened(tmp_path / KEYS.name))
    assert (tmp_path / "x.raw").read_bytes() == raw.read_bytes()
