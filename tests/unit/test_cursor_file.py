"""The cursor file: read back as written, and not believed otherwise."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from hsr.disks.form import DiskKind
from hsr.disks.medium import LocalMedium
from hsr.disks.side_files import SidePaths
from hsr.rolling import layout_cursor as layout
from hsr.rolling.cursor_file import (
    Loan,
    Phase,
    Place,
    Standing,
    cursor_path,
    decode_cursor,
    encode_cursor,
    read_cursor,
    remove_cursor,
    write_cursor,
)
from policies.cursor import Cursor
from policies.errors import ConfigurationError, FormatError, UnsupportedVersionError
from policies.points import Point, PointId
from tests.torn_medium import PowerCut, TornMedium

PATHS = SidePaths(Path("/disks/.rollforward-hsr"), "d.vhd")
START = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


def point(number: int, volume_bytes: int = 4096) -> Point:
    time = START + timedelta(microseconds=number)
    return Point(PointId(number.to_bytes(16, "big")), number, time, volume_bytes)


ROLLING = Standing(
    DiskKind.VMDK_FLAT,
    Place(1 << 30, 1 << 20, 1 << 29, "gpt"),
    b"j" * 16,
    b"c" * 16,
    Phase.ROLLING,
    Cursor((point(3), point(7))),
    serial=5,
)


@st.composite
def standings(draw: st.DrawFn) -> Standing:
    phase = draw(st.sampled_from(Phase))
    numbers = draw(st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=9, unique=True).map(sorted))
    points = tuple(point(number, draw(st.integers(0, 1 << 63))) for number in numbers)
    goal = point(1, 1 << 40) if phase is Phase.BUILDING and draw(st.booleans()) else None
    return Standing(
        draw(st.sampled_from(DiskKind)),
        Place(
            1 << 50,
            draw(st.integers(0, 1 << 40)),
            draw(st.integers(1, 1 << 49)),
            draw(st.sampled_from(["none", "mbr"])),
        ),
        draw(st.binary(min_size=16, max_size=16)),
        draw(st.binary(min_size=16, max_size=16)),
        phase,
        Cursor({Phase.NEW: (), Phase.BUILDING: (), Phase.ROLLING: points}.get(phase, points[:1])),
        goal,
        draw(st.integers(0, 1 << 40)) if goal else 0,
        draw(st.integers(0, 1 << 63)),
        draw(loans()) if phase.is_lent else None,
    )


def loans() -> st.SearchStrategy[Loan]:
    names = st.binary(max_size=40).map(lambda name: os.fsdecode(b"/" + name))
    return st.builds(Loan, names, st.integers(0, 1 << 63), st.integers(-(1 << 63), (1 << 63) - 1))


@given(standings())
def test_what_is_written_is_read_back(standing):
    assert decode_cursor(encode_cursor(standing), "x") == standing


def test_no_byte_can_change_unseen():
    packed = encode_cursor(ROLLING)
    for at in range(len(packed)):
        with pytest.raises(FormatError):
            decode_cursor(packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :], "x")
        with pytest.raises(FormatError):
            decode_cursor(packed[:at], "x")
    with pytest.raises(FormatError):
        decode_cursor(packed + b"\0", "x")


def sealed(body: bytes) -> bytes:
    return body + blake3(body).digest()


@given(st.integers(0, 1 << 32))
def test_what_somebody_forged_is_refused_or_makes_sense(seed):
    random, packed = Random(seed), bytearray(encode_cursor(ROLLING)[: -layout.DIGEST_BYTES])
    for _ in range(random.randint(1, 4)):
        at = random.choice((random.randrange(120), random.randrange(len(packed))))
        packed[at] = random.choice((0, 1, 255, random.randrange(256)))
    try:
        found = decode_cursor(sealed(bytes(packed)), "x")
    except FormatError:
        return
    assert decode_cursor(encode_cursor(found), "x") == found


@pytest.mark.parametrize(
    "nonsense",
    [
        replace(ROLLING, cursor=Cursor.blank()),
        replace(ROLLING, cursor=Cursor((point(7), point(3)))),
        replace(ROLLING, done_bytes=1),
        replace(ROLLING, goal=point(9)),
        replace(ROLLING, phase=Phase.NEW),
        replace(ROLLING, phase=Phase.BUILDING),
        replace(ROLLING, phase=Phase.FINALIZING),
        replace(ROLLING, place=Place(1 << 20, 1, 1 << 20)),
        replace(ROLLING, loan=Loan("/child")),
        replace(ROLLING, phase=Phase.LENT, loan=Loan("/child", 1, 1)),
        replace(ROLLING, phase=Phase.LENT, cursor=Cursor((point(3),))),
        replace(ROLLING, phase=Phase.LENT, cursor=Cursor((point(3),)), loan=Loan("child", 1, 1)),
        replace(ROLLING, phase=Phase.LENT, cursor=Cursor((point(3),)), loan=Loan("", 1, 1)),
        replace(ROLLING, phase=Phase.BUILDING, cursor=Cursor.blank(), goal=point(1, 10), done_bytes=11),
        replace(ROLLING, phase=Phase.BUILDING, cursor=Cursor.blank(), done_bytes=11),
    ],
)
def test_nonsense_is_refused(nonsense):
    with pytest.raises(FormatError):
        decode_cursor(encode_cursor(nonsense), "x")


def test_a_later_version_is_refused():
    body = bytearray(encode_cursor(ROLLING)[: -layout.DIGEST_BYTES])
    body[8] = 2
    with pytest.raises(UnsupportedVersionError):
        decode_cursor(sealed(bytes(body)), "x")
    body[8], body[250] = 1, 1
    with pytest.raises(UnsupportedVersionError):
        decode_cursor(sealed(bytes(body)), "x")


def test_power_fails_while_it_is_replaced():
    after = replace(ROLLING, cursor=Cursor.closed(point(7)), serial=6)
    seen = set()
    for cut in range(1, 20):
        for seed in range(10):
            medium = TornMedium()
            write_cursor(medium, PATHS, ROLLING)
            medium.cut_at = medium.steps + cut
            done = True
            try:
                write_cursor(medium, PATHS, after)
            except PowerCut:
                done = False
            found = read_cursor(medium.recovered(Random(seed)), PATHS)
            assert found in ((after,) if done else (ROLLING, after))
            seen.add((done, found == after))
    assert seen == {(False, False), (False, True), (True, True)}


def test_on_a_file_system(tmp_path):
    paths, medium = SidePaths(tmp_path, "d"), LocalMedium()
    assert read_cursor(medium, paths) is None
    write_cursor(medium, paths, ROLLING)
    write_cursor(medium, paths, replace(ROLLING, serial=9))
    assert read_cursor(medium, paths) == replace(ROLLING, serial=9)
    assert [path.name for path in tmp_path.iterdir()] == ["d.cursor"]
    assert stat.S_IMODE(cursor_path(paths).stat().st_mode) & 0o007 == 0
    remove_cursor(medium, paths)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "d.cursor").mkdir()
    with pytest.raises(ConfigurationError):
        read_cursor(medium, paths)
