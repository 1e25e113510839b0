"""The header: what is written is read back, and nothing else is believed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import (
    FormatError,
    NotAnImageError,
    RollforwardError,
    TruncatedError,
    UnsupportedVersionError,
)
from policies.points import Point, PointId
from storage import layout
from storage.header import ImageHeader, decode_header, encode_header, read_header, section_bytes
from storage.key_area import KeyArea, KeySlot, encode_key_area
from storage.stored_file import StoredFile
from tests.unit.forge import Forged, take_apart
from tests.unit.tiny import TinyVolume, noise

IDS = st.binary(min_size=16, max_size=16)
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
WORDS = st.text(st.characters(exclude_categories=("Cs",)))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


SLOTS = st.builds(
    KeySlot, st.just(64), st.just(1), st.just(1), IDS, st.binary(min_size=12, max_size=12), st.just(bytes(48))
)


@st.composite
def headers(draw):
    ids = draw(st.lists(IDS, min_size=2, max_size=6, unique=True))
    largest = layout.MAX_BLOCKS * 512 * 128
    points = [
        Point(PointId(id_), draw(st.integers(0, 2**32 - 1)), draw(TIMES), draw(st.integers(1, largest)))
        for id_ in ids
    ]
    start = points.pop(0) if draw(st.booleans()) else None
    chain_id, encrypted = draw(IDS), draw(st.booleans())
    slots = tuple(draw(st.lists(SLOTS, min_size=1, max_size=3)))
    return ImageHeader(
        chain_id=chain_id,
        granule_bytes=draw(st.sampled_from([512, 1024, 4096, 65_536])),
        start=start,
        covers=tuple(points),
        capture_ids=tuple(draw(IDS) for _ in points),
        metadata=draw(st.dictionaries(WORDS, VALUES, max_size=4)),
        key_area=encode_key_area(KeyArea(chain_id, 1, slots)) if encrypted else b"",
        encrypted=encrypted,
    )


@given(headers())
def test_what_is_written_is_read_back(header):
    packed = encode_header(header)
    assert section_bytes(packed[:256], "x") == len(packed)
    found = decode_header(packed, "x")
    assert found.digest == packed[224:256]
    assert encode_header(found) == packed
    for name in (
        "chain_id",
        "granule_bytes",
        "start",
        "covers",
        "capture_ids",
        "metadata",
        "key_area",
        "encrypted",
    ):
        assert getattr(found, name) == getattr(header, name), name
    sizes = [point.volume_bytes for point in header.covers]
    assert found.zero_from_bytes == (min([header.start.volume_bytes, *sizes]) if header.start else 0)
    assert found.block_bytes == header.granule_bytes * 128


@given(headers(), st.data())
def test_a_flipped_bit_is_noticed(header, data):
    packed = bytearray(encode_header(header))
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        size = section_bytes(bytes(packed[:256]), "x")
    except FormatError:
        return
    if size == len(packed):
        with pytest.raises(FormatError, match="x: "):
            decode_header(bytes(packed), "x")


@given(st.binary(min_size=256, max_size=256), st.booleans())
def test_random_bytes_are_refused_before_anything_is_allocated(fixed, looks_right):
    if looks_right:
        fixed = b"RFIMAGE\x1a\x01\x00\x00\x00" + fixed[12:]
    try:
        size = section_bytes(fixed, "x")
    except FormatError:
        return
    largest = layout.MAX_POINTS * 64 + layout.MAX_METADATA_BYTES + layout.MAX_KEY_AREA_BYTES
    assert size <= 256 + largest
    with pytest.raises(FormatError):
        decode_header(fixed + bytes(size - 256), "x")


@pytest.fixture
def forged(tiny: TinyVolume) -> Forged:
    """An incremental over two points, in parts."""
    tiny.capture_states([noise(3000, 1), noise(4000, 2), noise(3500, 3), noise(5000, 4)])
    return take_apart(tiny.merge(1, 3, "-cd").path.read_bytes())


FAULTS = {
    "another program's file": (NotAnImageError, lambda image: image.header.update(magic=b"%PDF-1.7")),
    "a later version": (UnsupportedVersionError, lambda image: image.header.update(version_major=2)),
    "an earlier version": (UnsupportedVersionError, lambda image: image.header.update(version_major=0)),
    "an unknown flag": (UnsupportedVersionError, lambda image: image.header.update(flags=4)),
    "reserved_a": (UnsupportedVersionError, lambda image: image.header.update(reserved_a=1)),
    "reserved_b": (
        UnsupportedVersionError,
        lambda image: image.header.update(reserved_b=bytes(159) + b"\1"),
    ),
    "no points": (FormatError, lambda image: image.header.update(point_count=0)),
    "one point": (FormatError, lambda image: image.header.update(point_count=1)),
    "too many points": (FormatError, lambda image: image.header.update(point_count=2**32 - 1)),
    "endless metadata": (FormatError, lambda image: image.header.update(metadata_bytes=2**32 - 1)),
    "an endless key area": (FormatError, lambda image: image.header.update(key_area_bytes=2**32 - 1)),
    "granules of 0": (FormatError, lambda image: image.header.update(granule_bytes=0, block_bytes=0)),
    "granules of 256": (
        FormatError,
        lambda image: image.header.update(granule_bytes=256, block_bytes=32_768),
    ),
    "granules of 768": (
        FormatError,
        lambda image: image.header.update(granule_bytes=768, block_bytes=98_304),
    ),
    "granules of 2**31": (
        FormatError,
        lambda image: image.header.update(granule_bytes=2**31, block_bytes=0),
    ),
    "blocks of another size": (FormatError, lambda image: image.header.update(block_bytes=32_768)),
    "another zero_from": (FormatError, lambda image: image.header.update(zero_from_bytes=3001)),
    "a base with a from point": (FormatError, lambda image: image.header.update(flags=1)),
    "a point that is named twice": (
        FormatError,
        lambda image: image.points[1].update(id=image.points[2]["id"]),
    ),
    "a from point that it covers": (
        FormatError,
        lambda image: image.points[0].update(id=image.points[2]["id"]),
    ),
    "a from point with a capture": (FormatError, lambda image: image.points[0].update(capture_id=b"1" * 16)),
    "a reserved field of a point": (
        UnsupportedVersionError,
        lambda image: image.points[1].update(reserved_a=1),
    ),
    "another reserved field": (UnsupportedVersionError, lambda image: image.points[1].update(reserved_b=1)),
    "a time beyond all calendars": (FormatError, lambda image: image.points[1].update(time_us=2**63 - 1)),
    "a time before all calendars": (FormatError, lambda image: image.points[1].update(time_us=-(2**63))),
    "the last moment of the calendar": (
        FormatError,
        lambda image: image.points[1].update(time_us=253_402_300_799_999_999),
    ),
    "the first moment of the calendar": (
        FormatError,
        lambda image: image.points[1].update(time_us=-62_135_596_800_000_000),
    ),
    "a volume beyond all disks": (FormatError, lambda image: image.points[2].update(volume_bytes=2**64 - 1)),
    "a volume of more blocks than can be numbered": (
        FormatError,
        lambda image: image.points[2].update(volume_bytes=(2**32 - 1) * 65_536 + 1),
    ),
    "metadata that is no JSON": (FormatError, lambda image: image.put_metadata(b"{")),
    "metadata that is a list": (FormatError, lambda image: image.put_metadata(b"[1]")),
    "metadata that is not UTF-8": (FormatError, lambda image: image.put_metadata(b'{"a":"\xff"}')),
    "metadata in UTF-16": (FormatError, lambda image: image.put_metadata('{"a":"b"}'.encode("utf-16"))),
    "metadata that nests too deep": (
        FormatError,
        lambda image: image.put_metadata(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    ),
    "metadata with a number of too many digits": (
        FormatError,
        lambda image: image.put_metadata(b'{"a":' + b"9" * 10_000 + b"}"),
    ),
    "metadata with half a character": (
        FormatError,
        lambda image: image.put_metadata(b'{"volume":"\\ud800"}'),
    ),
    "no metadata at all": (FormatError, lambda image: image.put_metadata(b"")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_hostile_header_is_refused_by_name(forged, tmp_path, fault):
    kind, change = FAULTS[fault]
    change(forged)
    path = tmp_path / "hostile.spi"
    path.write_bytes(forged.seal())
    file = StoredFile(path)
    try:
        with pytest.raises(kind) as caught:
            read_header(file)
    finally:
        file.close()
    assert caught.value.path == str(path)
    assert caught.value.exit_code == 3


def test_the_untouched_header_is_read(forged, tmp_path):
    path = tmp_path / "good.spi"
    path.write_bytes(forged.seal())
    file = StoredFile(path)
    header = read_header(file)
    file.close()
    assert [point.number for point in header.covers] == [2, 3]
    assert header.start is not None
    assert header.start.number == 1
    assert header.volume == "D_VOL"


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 300])
def test_a_header_that_is_cut_off(forged, tmp_path, size):
    path = tmp_path / "short.spi"
    path.write_bytes(forged.seal()[:size])
    file = StoredFile(path)
    with pytest.raises(TruncatedError) as caught:
        read_header(file)
    file.close()
    assert caught.value.path == str(path)
    assert ("empty" in caught.value.message) == (size == 0)


def header_of(**changes: object) -> ImageHeader:
    point = Point(PointId(b"p" * 16), 0, datetime(2026, 3, 2, tzinfo=UTC), 1000)
    told: dict[str, object] = {
        "chain_id": b"c" * 16,
        "granule_bytes": 512,
        "start": None,
        "covers": (point,),
        "capture_ids": (b"k" * 16,),
    }
    return ImageHeader(**(told | changes))  # type: ignore[arg-type]


def test_microseconds_are_kept():
    point = Point(PointId(b"p" * 16), 0, datetime(2026, 3, 2, 1, 2, 3, 456_789, tzinfo=UTC), 1000)
    assert decode_header(encode_header(header_of(covers=(point,))), "x").end.time == point.time


def test_a_time_in_another_zone_is_the_same_moment():
    moment = datetime(2026, 3, 2, 1, 2, tzinfo=timezone(timedelta(hours=5)))
    found = decode_header(encode_header(header_of(covers=(Point(PointId(b"p" * 16), 0, moment, 9),))), "x")
    assert found.end.time == moment
    assert found.end.time.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": {"a": "x" * (4 << 20)}},
        {"key_area": bytes((1 << 20) + 1)},
    ],
)
def test_what_the_format_has_no_room_for_is_not_written(changes):
    with pytest.raises(FormatError):
        encode_header(header_of(**changes))


def test_metadata_is_laid_out_in_one_way_only():
    one = encode_header(header_of(metadata={"b": 1, "a": "ü"}))
    assert encode_header(header_of(metadata={"a": "ü", "b": 1})) == one
    assert json.dumps({"a": "ü", "b": 1}, ensure_ascii=False, separators=(",", ":")).encode() in one


def test_the_volume_is_empty_where_the_metadata_has_no_word_for_it():
    assert header_of(metadata={"volume": 7}).volume == ""
    assert header_of().volume == ""


def test_the_error_is_one_of_ours_for_any_bytes_after_a_right_start(tmp_path):
    for seed in range(50):
        path = tmp_path / "junk.spi"
        path.write_bytes(b"RFIMAGE\x1a\x01\x00\x00\x00" + noise(5000, seed))
        file = StoredFile(path)
        with pytest.raises(RollforwardError):
            read_header(file)
        file.close()
