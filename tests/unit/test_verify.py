"""Verification proves what lies on the medium, not what the machine remembers of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from policies.errors import StorageError
from storage import stored_file, verify
from storage.verify import verify_image
from tests.loop import needs_root, small_file_system
from tests.unit.forge import sections
from tests.unit.tiny import BLOCK, TinyVolume, noise

PARTS = ["fixed header", "points", "metadata", "frames", "index", "page table", "segment table", "trailer"]


@needs_root
def test_a_byte_that_changes_on_the_medium_is_noticed_though_the_good_one_is_cached(tmp_path):
    """The file system lies on a loop device, whose own file is changed behind its back."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_file_system(disk, 4 << 20) as folder:
        tiny = TinyVolume(folder / "tiny")
        tiny.capture_states([noise(5 * BLOCK)])
        path = tiny.image()
        image = path.read_bytes()
        run_sync(path)
        behind = disk / "small.ext4"
        start = behind.read_bytes().index(image[:256])
        assert behind.read_bytes()[start : start + len(image)] == image, "the file lies in one piece"
        for part in PARTS:
            at = sections(image)[part]
            at = at[len(at) // 2]
            poke(behind, start + at, image[at] ^ 1)
            assert path.read_bytes() == image, "the good bytes are cached"
            assert verify_image(path, from_medium=False).status == "good"
            assert verify_image(path).status == "bad", f"a byte of the {part} was taken from the cache"
            assert path.read_bytes() != image
            poke(behind, start + at, image[at])
            assert verify_image(path).status == "good"


def run_sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def poke(file: Path, at: int, byte: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(bytes([byte]))
        opened.flush()
        os.fsync(opened.fileno())


@pytest.fixture
def image(tiny: TinyVolume) -> Path:
    tiny.capture_states([noise(100 * BLOCK)])
    return tiny.image()


def test_a_failing_medium_says_nothing_of_the_bytes(image, monkeypatch):
    def failing(*_: object) -> int:
        raise OSError(5, "Input/output error")

    for call in ("preadv", "fsync", "posix_fadvise"):
        with monkeypatch.context() as patched:
            patched.setattr(stored_file.os, call, failing)
            with pytest.raises(StorageError, match="Input/output error") as caught:
                verify_image(image)
            assert caught.value.path == str(image)
            assert caught.value.retryable


def test_a_medium_that_fails_in_the_middle(image, monkeypatch):
    real = os.preadv

    def failing(fd: int, buffers: list[memoryview], offset: int) -> int:
        if offset > 3 << 20 and sum(map(len, buffers)) >= 1 << 18:
            raise OSError(5, "Input/output error")
        return real(fd, buffers, offset)

    monkeypatch.setattr(stored_file.os, "preadv", failing)
    monkeypatch.setattr(verify, "_RUN_BYTES", 2 << 20)
    for deep in (False, True):
        with pytest.raises(StorageError, match="Input/output error"):
            verify_image(image, deep=deep)


def test_short_reads_are_read_on(image, monkeypatch):
    real = os.preadv

    def short(fd: int, buffers: list[memoryview], offset: int) -> int:
        return real(fd, [buffers[0][: max(len(buffers[0]) // 2, 1)]], offset)

    monkeypatch.setattr(stored_file.os, "preadv", short)
    assert verify_image(image, deep=True).status == "good"


def test_progress_reaches_the_end_of_the_file(image, monkeypatch):
    monkeypatch.setattr(verify, "_RUN_BYTES", 1 << 20)
    told: list[tuple[int, int]] = []
    verify_image(image, progress=lambda *step: told.append(step))
    assert told[-1] == (image.stat().st_size, image.stat().st_size)
    assert told == sorted(told)
    assert len(told) > 6


def test_damage_is_told_with_its_place(image):
    content = bytearray(image.read_bytes())
    at = sections(bytes(content))["frames"].start + (3 << 20) + 5
    content[at] ^= 1
    image.write_bytes(content)
    found = verify_image(image)
    assert found.reason is not None
    assert found.reason.startswith("stored data is damaged (at byte ")
    segment = sections(bytes(content))["frames"].start + (3 << 20)
    assert f"{segment:,}" in found.reason
    assert found.header is not None
    assert found.root == bytes(content[-32:])
