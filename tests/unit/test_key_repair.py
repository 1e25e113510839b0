"""Damaged key slots are mended without a password, and nothing else is touched."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from policies.errors import ConfigurationError
from storage import key_repair, keys
from storage.chain import load_chain
from storage.key_files import save_key_file, unlock, with_changed_password, with_password
from storage.key_repair import mend_key_slots
from storage.parts import image_files
from storage.verify import verify_image
from tests.command import in_this_process
from tests.unit.forge import take_apart
from tests.unit.tiny import BLOCK, Password, TinyVolume, noise

LAST = "D_VOL-b001-i002.spi"


@pytest.fixture(autouse=True)
def _cheap_guesses(monkeypatch):
    monkeypatch.setattr(keys, "RECOMMENDED_COST", keys.KdfCost(memory_kib=64, passes=1, lanes=1))


@pytest.fixture
def locked(quick_path) -> TinyVolume:
    volume = TinyVolume(quick_path / "locked", password=Password())
    volume.capture_states([noise(2 * BLOCK, number) for number in range(3)])
    return volume


def spoil(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def key_area_at(path: Path) -> tuple[int, int]:
    parts = take_apart(path.read_bytes())
    return parts.frames_offset - len(parts.key_area), len(parts.key_area)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def repair(volume: TinyVolume, *more: str):
    return in_this_process("password", "repair", volume.folder, "--volume", volume.name, *more)


def test_a_spoilt_byte_anywhere_is_found_by_the_digest(locked):
    """No other copy is needed; the image is as it was."""
    before = contents(locked.folder)
    path = locked.image(2)
    at, size = key_area_at(path)
    for offset in range(size):
        spoil(path, at + offset, bytes([before[path.name][at + offset] ^ (1 << offset % 8)]))
        if offset % 50 == 0:
            assert verify_image(path, from_medium=False).status == "bad"
        mended = mend_key_slots(locked.folder, locked.name)
        assert [(one.path, one.source) for one in mended] == [(path, path)]
    assert contents(locked.folder) == before
    locked.check()


def test_worse_damage_is_mended_from_another_copy(locked):
    before = contents(locked.folder)
    path = locked.image(1)
    at, size = key_area_at(path)
    for content in (bytes(size), random.Random(1).randbytes(size), b"\xff" * 2):
        spoil(path, at, content)
        (mended,) = mend_key_slots(locked.folder, locked.name)
        assert (mended.path, mended.base) == (path, 1)
        assert mended.source not in (None, path)
    assert contents(locked.folder) == before
    locked.check()


def test_the_copy_of_before_is_chosen_among_several(locked):
    """The slots changed since, but not their number: damage is small, so the nearest copy is it."""
    opened = unlock(*opening(locked))
    save_key_file(opening(locked)[0], with_changed_password(opened, b"x"))
    before = contents(locked.folder)
    path = locked.image(1)
    at, _ = key_area_at(path)
    spoil(path, at + 100, b"\xee\xee\xee")
    mend_key_slots(locked.folder, locked.name)
    assert contents(locked.folder) == before


def opening(volume: TinyVolume):
    headers = [image.header for image in load_chain(volume.folder, volume.name).images]
    return volume.folder / "D_VOL-b001.spk", headers, volume.password.password


def test_the_key_file_itself(locked):
    before = contents(locked.folder)
    path = locked.folder / "D_VOL-b001.spk"
    spoil(path, 70, bytes([before[path.name][70] ^ 4]))
    assert repair(locked).code == 0
    assert contents(locked.folder) == before
    spoil(path, 120, b"xxxx")
    damaged = path.read_bytes()
    ran = repair(locked, "--json")
    assert ran.code == 1
    assert [(line["path"], line["status"], line["source"]) for line in ran.objects] == [
        (str(path), "damaged", None)
    ]
    assert path.read_bytes() == damaged, "a person may know better"


def test_nothing_that_fits(locked):
    """All other copies are of another size."""
    opened = unlock(*opening(locked))
    save_key_file(opening(locked)[0], with_password(opened, b"x"))
    for number in range(3):
        at, _ = key_area_at(locked.image(number))
        spoil(locked.image(number), at, b"spoilt")
    before = contents(locked.folder)
    ran = repair(locked)
    assert ran.code == 1
    assert ran.output.count("damaged still") == 3
    assert contents(locked.folder) == before


def test_slots_across_the_border_of_parts(locked, quick_path):
    path = locked.image(2)
    content = path.read_bytes()
    at, size = key_area_at(path)
    part_bytes = at + size // 2
    for number, start in enumerate(range(0, len(content), part_bytes)):
        part = path if number == 0 else path.with_suffix(f".sp{number}")
        part.write_bytes(content[start : start + part_bytes])
    assert verify_image(path, from_medium=False).status == "good"
    before = contents(locked.folder)
    spoil(path, part_bytes - 10, b"0123456789")
    spoil(image_files(path)[1], 0, b"0123456789")
    assert verify_image(path, from_medium=False).status == "bad"
    ran = repair(locked)
    assert (ran.code, "mended, from D_VOL-b001.spk" in ran.output) == (0, True), str(ran)
    assert contents(locked.folder) == before


def test_stopped_at_any_byte_it_is_done_again(locked, monkeypatch):
    before = contents(locked.folder)
    path = locked.image(1)
    at, size = key_area_at(path)
    real = os.pwrite
    for stop in range(0, size, 13):
        spoil(path, at, bytes(size))

        def torn(fd: int, content: bytes, offset: int, stop: int = stop) -> int:
            real(fd, content[:stop], offset)
            raise KeyboardInterrupt

        with monkeypatch.context() as stopping:
            stopping.setattr(key_repair.os, "pwrite", torn)
            with pytest.raises(KeyboardInterrupt):
                mend_key_slots(locked.folder, locked.name)
        assert all(mended.source is not None for mended in mend_key_slots(locked.folder, locked.name))
        assert contents(locked.folder) == before


def test_what_else_is_damaged_is_left_alone(locked):
    spoil(locked.image(1), 60, b"spoilt")
    spoil(locked.image(2), 2000, b"spoilt")
    before = contents(locked.folder)
    ran = repair(locked)
    assert (ran.code, ran.output) == (0, "All key slots are good.\n")
    assert contents(locked.folder) == before


def test_a_plain_volume_has_nothing_to_mend(tiny):
    tiny.capture_states([noise(BLOCK)])
    with pytest.raises(ConfigurationError, match="no encrypted images"):
        mend_key_slots(tiny.folder, tiny.name)
    assert repair(tiny).code == 2
