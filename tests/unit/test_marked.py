"""Captures that read only what is marked: exact for any marks that hold all changes, whatever the sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from policies.errors import SourceError
from storage.bitmap_names import begins_at, bitmap_name
from storage.capture import capture
from storage.fingerprints import fingerprints_path
from storage.marked import batches_of, blocks_of, ranges_to_read
from storage.nbd_uri import NbdUri
from storage.source import CaptureStep, Ranges, VolumeSource
from storage.source_bitmap import BitmapAccess
from tests.nbd_server import SET_CONTEXT, STATUS, Lies, chunk, plain_nbd_server
from tests.unit.tiny import BLOCK, START, Password, TinyVolume, noise


class Marked:
    """A raw file, of which marked ranges alone may be read."""

    def __init__(self, path: Path, ranges: Sequence[tuple[int, int]]) -> None:
        self._path = path
        self._ranges = np.array(ranges, np.int64).reshape(-1, 2)
        self.read: list[tuple[int, int]] = []
        self.notes: list[str] = []
        self.reads_marked = True

    @contextlib.contextmanager
    def open(self, _step: CaptureStep) -> Iterator[VolumeSource]:
        with VolumeSource(self._path) as source:
            source.marked = lambda: iter([self._ranges[:1], self._ranges[1:]])  # type: ignore[method-assign]
            whole = source.read_into
            source.read_into = lambda at, buffer: (
                self.read.append((at, at + len(buffer))),
                whole(at, buffer),
            )
            yield source


def differing(old: bytes, new: bytes, step: int = 512) -> list[tuple[int, int]]:
    """Mark what differs, as a bitmap of that granularity does; growth is not marked."""
    size = min(len(old), len(new))
    return [
        (at, min(at + step, len(new)))
        for at in range(0, size, step)
        if old[at : at + step] != new[at : at + step]
    ]


STEPS = {
    "nothing": lambda old: old,
    "a byte": lambda old: b"x" + old[1:],
    "here and there": lambda old: b"".join(
        bytes([byte[0] ^ 1]) + old[at + 1 : at + 9000]
        for at in range(0, len(old), 9000)
        for byte in [old[at : at + 1]]
    ),
    "zeros": lambda old: old[:BLOCK] + bytes(2 * BLOCK) + old[3 * BLOCK :],
    "all": lambda old: noise(len(old), 9),
    "grown": lambda old: old + noise(3 * BLOCK + 77, 4),
    "grown by zeros": lambda old: old + bytes(BLOCK),
    "cut": lambda old: old[: -BLOCK - 333],
    "cut and changed": lambda old: b"y" + old[1 : 2 * BLOCK + 5],
}


CASES = [
    *((name, step, False) for name in STEPS for step in (512, 3 * BLOCK)),
    *((name, 4096, True) for name in ("here and there", "cut and changed")),
]


@pytest.mark.parametrize(("name", "step", "encrypted"), CASES)
def test_marked_captures_are_exact(tmp_path, name, step, encrypted):
    tiny = TinyVolume(tmp_path, password=Password() if encrypted else None)
    old = noise(9 * BLOCK + 700)
    tiny.capture_states([old])
    new = STEPS[name](old)
    tiny.raw.write_bytes(new)
    marks = differing(old, new, step)
    access = Marked(tiny.raw, marks)
    made = capture(access, tiny.folder, tiny.name, now=START, encrypt=encrypted, passwords=tiny.password)
    tiny.states[1] = new
    tiny.check()
    allowed = {*range(len(old), len(new)), *(byte for first, stop in marks for byte in range(first, stop))}
    assert all(byte in allowed for first, stop in access.read for byte in (first, stop - 1))
    assert tiny.capture().changed_bytes == 0, "the next whole comparison was misled"
    whole = TinyVolume(tmp_path / "whole", password=tiny.password)
    assert whole.capture_states([old, new])[1].changed_bytes == made.changed_bytes


@pytest.mark.parametrize("lost", ["fingerprints", "size"])
def test_fingerprints_that_are_lost_stay_lost_until_all_is_read(tiny, lost):
    old = noise(5 * BLOCK)
    tiny.capture_states([old])
    new = b"x" + old[1:] + (noise(BLOCK) if lost == "size" else b"")
    if lost == "fingerprints":
        fingerprints_path(tiny.folder, tiny.name, 1).unlink()
    tiny.raw.write_bytes(new)
    capture(Marked(tiny.raw, differing(old, new)), tiny.folder, tiny.name, now=START)
    tiny.put(3 * BLOCK, b"changed")
    tiny.capture()
    tiny.states = {0: old, 1: new, 2: tiny.raw.read_bytes()}
    tiny.check()


def test_batches_touch_few_blocks_and_share_none():
    random = np.random.default_rng(1)
    for _ in range(50):
        borders = np.unique(random.integers(0, 5000, 2 * random.integers(1, 60)))
        ranges = borders[: len(borders) // 2 * 2].reshape(-1, 2)
        parts = np.array_split(ranges, random.integers(1, 4))
        batches = list(batches_of(iter(parts), 100, 3))
        seen = [blocks_of(batch, 100) for batch in batches]
        assert all(0 < len(blocks) <= 3 for blocks in seen)
        assert len(np.unique(np.concatenate(seen))) == sum(map(len, seen))
        assert bytes_of(batches) == bytes_of([ranges])


def bytes_of(batches: Sequence[Ranges]) -> list[int]:
    return [byte for batch in batches for first, stop in batch.tolist() for byte in range(first, stop)]


def test_growth_counts_as_marked_and_marks_end_with_the_volume():
    marks = [np.array([[0, 10], [90, 300]])]
    assert bytes_of(list(ranges_to_read(iter(marks), 100, 120))) == [*range(10), *range(90, 120)]
    assert bytes_of(list(ranges_to_read(iter(marks), 100, 95))) == [*range(10), *range(90, 95)]


# --- bitmaps by name


def with_bitmap(name: str, dirty: Sequence[tuple[int, int]]) -> Lies:
    """A server that shows a dirty bitmap, too."""

    def answers(option: int, honest: bytes) -> bytes:
        if option != SET_CONTEXT:
            return honest
        told = b"\0\0\0\2qemu:dirty-bitmap:" + name.encode()
        return (
            honest[:-20]
            + honest[:12]
            + (4).to_bytes(4, "big")
            + len(told).to_bytes(4, "big")
            + told
            + honest[-20:]
        )

    def reply(command: int, cookie: int, _offset: int, _size: int, honest: bytes) -> bytes:
        if command != STATUS:
            return honest
        extents = b"".join(size.to_bytes(4, "big") + flags.to_bytes(4, "big") for size, flags in dirty)
        return chunk(5, cookie, b"\0\0\0\2" + extents, done=False) + honest

    return Lies(answers=answers, reply=reply)


def test_a_bitmap_counts_only_from_its_own_point(tiny, tmp_path):
    old = noise(8 * BLOCK)
    (base,) = tiny.capture_states([old])
    new = old[: 3 * BLOCK] + b"changed" + old[3 * BLOCK + 7 :]
    uri, name = NbdUri(tmp_path / "s"), bitmap_name(base.header.end.id)
    lies = with_bitmap(name, [(3 * BLOCK, 0), (BLOCK, 1), (4 * BLOCK, 0)])
    assert begins_at(name, base.header.end)
    for wrong in ("bk0", "rf-0123456789abcdef", name + "0", f"rf-0-{name[3:]}"):
        with (
            plain_nbd_server(uri.address, new, lies),
            pytest.raises(SourceError, match="parent point") as caught,
        ):
            capture(BitmapAccess(uri, wrong), tiny.folder, tiny.name, now=START)
        assert (caught.value.actual, caught.value.expected) == (wrong, f"a bitmap named {name}")
    with plain_nbd_server(uri.address, new, lies):
        made = capture(BitmapAccess(uri, name), tiny.folder, tiny.name, now=START)
    assert made.header.metadata["read"] == "marked"
    with plain_nbd_server(uri.address, new, lies), pytest.raises(SourceError, match="parent point"):
        capture(BitmapAccess(uri, name), tiny.folder, tiny.name, now=START)
    access = BitmapAccess(uri, name, or_whole=True)
    with plain_nbd_server(uri.address, old, lies):
        made = capture(access, tiny.folder, tiny.name, now=START)
    assert ("read" in made.header.metadata, access.reads_marked, len(access.notes)) == (False, False, 1)
    tiny.states |= {1: new, 2: old}
    tiny.check()


def test_an_export_without_the_bitmap_is_refused(tiny, tmp_path):
    (base,) = tiny.capture_states([noise(8 * BLOCK)])
    access = BitmapAccess(NbdUri(tmp_path / "s"), bitmap_name(base.header.end.id))
    with (
        plain_nbd_server(tmp_path / "s", noise(8 * BLOCK)),
        pytest.raises(SourceError, match="no dirty bitmap"),
    ):
        capture(access, tiny.folder, tiny.name, now=START)
