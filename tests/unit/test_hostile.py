"""Whatever a hostile writer makes, with every digest right: an error of ours, or a result that hangs together."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsr.restore import restore
from policies.errors import RollforwardError
from storage.consolidate import consolidate
from storage.verify import verify_image
from tests.command import in_this_process
from tests.unit.forge import (
    HEADER_FIELDS,
    POINT_FIELDS,
    RECORD_FIELDS,
    TRAILER_FIELDS,
    Forged,
    take_apart,
)
from tests.unit.tiny import BLOCK, TinyVolume, names, noise

WIDE = {"offset", "mask_lo", "mask_hi", "zero_from_bytes", "volume_bytes", "reserved_b"}
EDGES = [0, 1, 2, 127, 128, 511, 512, 65_535, 65_536, 2**31, 2**32 - 1, 2**53, 2**62, 2**63, 2**64 - 1]
METADATA = [b"", b"{}", b"[]", b'{"volume":"X"}', b'{"volume":[1]}', b'{"a":NaN}', b'{"a":1e999}', b"\xff"]
GEOMETRIES = [512, 1024, 4096, 65_536]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def made(home: Path) -> TinyVolume:
    """A base, two incrementals and a daily, with frames of every coding."""
    tiny = TinyVolume(home / "made")
    first = noise(BLOCK, 1) + b"text " * 20_000 + bytes(BLOCK) + noise(700, 2)
    second = first[:1000] + noise(600, 3) + first[1600:70_000] + bytes(10_000) + first[80_000:]
    third = second[:1000] + b"y" * 100 + second[1100:]
    tiny.capture_states([first, second, third])
    tiny.merge(0, 2, "-cd")
    return tiny


def number(draw: Callable, name: str, now: int, bits: int) -> int:
    """Choose a value that a field of so many bits may have, often one at an edge, or beside what it was."""
    if name == "time_us":
        return draw(st.integers(-(2**63), 2**63 - 1))
    top = 2**bits - 1
    near = st.sampled_from([max(now - 1, 0), min(now + 1, top)])
    return draw(st.one_of(near, st.sampled_from([min(edge, top) for edge in EDGES]), st.integers(0, top)))


def change_field(draw: Callable, fields: dict[str, int | bytes], choices: list[str]) -> None:
    name = draw(st.sampled_from(choices))
    now = fields[name]
    if isinstance(now, bytes):
        fields[name] = draw(st.binary(min_size=len(now), max_size=len(now)))
    else:
        bits = 64 if name in WIDE else 16 if name.startswith("version") else 32
        fields[name] = number(draw, name, now, bits)


def spoil(draw: Callable, image: Forged) -> None:
    """Change one thing about an image."""
    kinds = ["header", "geometry", "point", "sizes", "metadata", "trailer"]
    if image.records:
        kinds += ["record", "record", "record", "page", "frame", "drop", "again"]
    kind = draw(st.sampled_from(kinds))
    row = draw(st.integers(0, max(len(image.records) - 1, 0)))
    if kind == "header":
        told = ("magic", "point_count", "metadata_bytes", "key_area_bytes")
        change_field(draw, image.header, [name for name in HEADER_FIELDS if name not in told])
    elif kind == "geometry":
        size = draw(st.sampled_from(GEOMETRIES))
        image.header.update(granule_bytes=size, block_bytes=size * 128)
    elif kind == "point":
        change_field(draw, draw(st.sampled_from(image.points)), POINT_FIELDS)
    elif kind == "sizes":
        is_base = int(image.header["flags"]) & 1
        for point in image.points[is_base:]:
            point["volume_bytes"] = draw(st.integers(0, 4 * BLOCK) | st.integers(0, 2**33))
        if not is_base:
            image.header["zero_from_bytes"] = min(int(point["volume_bytes"]) for point in image.points)
    elif kind == "metadata":
        image.put_metadata(draw(st.sampled_from(METADATA)))
    elif kind == "trailer":
        name = draw(st.sampled_from(TRAILER_FIELDS[1:12]))
        image.lies[name] = number(draw, name, 0, 64)
    else:
        spoil_index(draw, image, kind, row)


def spoil_index(draw: Callable, image: Forged, kind: str, row: int) -> None:
    if kind == "record":
        change_field(draw, image.records[row], RECORD_FIELDS)
    elif kind == "page":
        image.page_lies = [(0, number(draw, "first_block", 0, 32), number(draw, "last_block", 3, 32))]
    elif kind == "frame":
        stored = draw(st.binary(max_size=600))
        if int(image.records[row]["offset"]) < 2**40:
            image.replace_frame(row, stored, flags=draw(st.integers(0, 2)))
    elif kind == "drop":
        image.records.pop(row)
    else:
        image.records.insert(row, dict(image.records[row]))


PATHS = [("",), ("", "-i001"), ("", "-i001", "-i002"), ("", "-i002-cd"), ("", "-i001", "-i002-cd")]
MERGES = [("-i001", "-i002"), ("", "-i001"), ("", "-i002-cd")]


def attempt(work: Callable[..., object], *arguments: object, **options: object) -> bool:
    """Tell whether it worked; any error but one of ours is a fault."""
    try:
        work(*arguments, **options)
    except RollforwardError:
        return False
    return True


@settings(max_examples=max(settings.default.max_examples // 3, 50))
@given(data=st.data())
def test_whatever_is_changed(home: Path, made: TinyVolume, data: st.DataObject):
    folder, raw, merged = home / "images", home / "restored.raw", home / "merged.spi"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made.folder, folder)
    victim = data.draw(st.sampled_from(sorted(path.name for path in folder.glob("*.sp?"))))
    image = take_apart((folder / victim).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        spoil(data.draw, image)
    (folder / victim).write_bytes(image.seal())
    found = verify_image(folder / victim, from_medium=False)
    verify_image(folder / victim, deep=True, from_medium=False)
    must_fail = found.status == "bad" and "plain size" not in (found.reason or "")

    def paths(endings: tuple[str, ...]) -> list[Path]:
        return [folder / f"D_VOL-b001{end}{'.spi' if end else '.spf'}" for end in endings]

    for endings in PATHS:
        worked = attempt(restore, paths(endings), raw, overwrite=True)
        assert not (worked and must_fail and folder / victim in paths(endings)), found.reason
    for endings in MERGES:
        merged.unlink(missing_ok=True)
        if attempt(consolidate, paths(endings), merged):
            assert not (must_fail and folder / victim in paths(endings)), found.reason
            assert verify_image(merged, from_medium=False).status == "good"
    volume = ["--volume", "D_VOL"]
    for words in (
        ["chain", folder],
        ["verify", folder, "--json"],
        ["restore", folder, *volume, "--to", raw, "--overwrite"],
        ["consolidate", folder, *volume, "--after", "0", "--upto", "2", "--tier", "weekly"],
        ["capture", made.raw, "--into", folder, *volume],
    ):
        in_this_process(*words)
    assert set(names(home)) <= {"made", "images", "restored.raw", "merged.spi"}
