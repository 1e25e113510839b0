"""Key slots and keys: what opens them, what does not, and what a hostile file may not cost."""

from __future__ import annotations

import struct
import time

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import DigestMismatchError, FormatError, TruncatedError, UnsupportedVersionError
from storage import layout
from storage.key_area import KeyArea, KeySlot, decode_key_area, encode_key_area
from storage.keys import ChainKey, KdfCost, open_slot

CHEAP = KdfCost(memory_kib=64, passes=1, lanes=1)
CHAIN, OTHER_CHAIN = b"c" * 16, b"d" * 16
IDS = st.binary(min_size=16, max_size=16)


@st.composite
def slots(draw):
    lanes = draw(st.integers(1, 16))
    memory_kib = draw(st.integers(8 * lanes, 256 << 10))
    passes = draw(st.integers(1, (1 << 20) // memory_kib))
    nonce, wrapped = draw(st.binary(min_size=12, max_size=12)), draw(st.binary(min_size=48, max_size=48))
    return KeySlot(memory_kib, passes, lanes, draw(IDS), nonce, wrapped)


AREAS = st.builds(
    KeyArea, IDS, st.integers(1, 2**64 - 1), st.lists(slots(), min_size=1, max_size=8).map(tuple)
)


@given(AREAS)
def test_what_is_written_is_read_back(area):
    packed = encode_key_area(area)
    assert len(packed) == 96 + 128 * len(area.slots)
    assert decode_key_area(packed, "x") == area


@given(AREAS, st.data())
def test_damage_is_told_without_a_password(area, data):
    packed = bytearray(encode_key_area(area))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DigestMismatchError, match="x: the key slots are damaged"):
        decode_key_area(bytes(packed), "x")


@given(AREAS, st.data())
def test_what_is_cut_off_is_refused(area, data):
    packed = encode_key_area(area)
    with pytest.raises((TruncatedError, DigestMismatchError)):
        decode_key_area(packed[: data.draw(st.integers(0, len(packed) - 1))], "x")


def hostile(**fields: int) -> bytes:
    """Key slots with some fields of the first slot changed, their digest made to fit."""
    packed = bytearray(
        encode_key_area(KeyArea(CHAIN, 1, (KeySlot(64, 1, 1, bytes(16), bytes(12), bytes(48)),)))
    )
    places = {
        "kdf": 96,
        "memory_kib": 100,
        "passes": 104,
        "lanes": 108,
        "reserved": 220,
        "slot_count": 8,
        "head": 12,
    }
    for name, value in fields.items():
        struct.pack_into("<I", packed, places[name], value)
    packed[64:96] = blake3(packed[:64] + packed[96:]).digest()
    return bytes(packed)


@pytest.mark.parametrize(
    "fields",
    [
        {"memory_kib": 2**32 - 1},
        {"memory_kib": (256 << 10) + 1},
        {"memory_kib": 7},
        {"memory_kib": 256 << 10, "passes": 5},
        {"passes": 0},
        {"passes": 2**32 - 1},
        {"lanes": 0},
        {"lanes": 17, "memory_kib": 1024},
        {"lanes": 2**32 - 1},
        {"slot_count": 0},
        {"slot_count": 9},
        {"slot_count": 2},
    ],
    ids=str,
)
def test_hostile_slots_cost_nothing(fields):
    with pytest.raises(FormatError, match="x: "):
        decode_key_area(hostile(**fields), "x")


@pytest.mark.parametrize("fields", [{"kdf": 2}, {"reserved": 1}, {"head": 1}], ids=str)
def test_later_features_are_refused_as_such(fields):
    with pytest.raises(UnsupportedVersionError):
        decode_key_area(hostile(**fields), "x")


def test_the_dearest_slots_that_are_allowed_take_a_few_seconds_at_most():
    dear = KdfCost(memory_kib=256 << 10, passes=4, lanes=1)
    key = ChainKey.new(CHAIN)
    begin = time.monotonic()
    slot = key.wrap(b"dear", dear)
    assert time.monotonic() - begin < 30
    assert decode_key_area(encode_key_area(KeyArea(CHAIN, 1, (slot,))), "x").slots == (slot,)


def test_each_password_opens_its_slot_and_no_other_does():
    key = ChainKey.new(CHAIN)
    area = KeyArea(CHAIN, 1, tuple(key.wrap(password, CHEAP) for password in (b"one", b"two")))
    for number, password in enumerate((b"one", b"two")):
        found = open_slot(area, password)
        assert found is not None
        assert found[1] == number
        assert found[0].derive(layout.SEAL_KEY_CONTEXT) == key.derive(layout.SEAL_KEY_CONTEXT)
    for password in (b"", b"One", b"one ", b"three"):
        assert open_slot(area, password) is None


def test_slots_do_not_open_for_another_chain():
    area = KeyArea(OTHER_CHAIN, 1, (ChainKey.new(CHAIN).wrap(b"one", CHEAP),))
    assert open_slot(area, b"one") is None


def test_the_same_password_gives_other_slots_each_time():
    key = ChainKey.new(CHAIN)
    one, two = key.wrap(b"one", CHEAP), key.wrap(b"one", CHEAP)
    assert (one.salt, one.nonce, one.wrapped) != (two.salt, two.nonce, two.wrapped)


def test_a_key_shows_nothing_of_itself():
    key = ChainKey(CHAIN, b"SECRET" * 5 + b"!!")
    shown = f"{key!r} {key} {vars(key)['chain_id']!r}"
    assert "SECRET" not in shown
    assert b"SECRET".hex() not in shown


def test_keys_differ_by_use_and_by_what_they_are_for():
    key = ChainKey.new(CHAIN)
    contexts = [
        layout.FRAME_KEY_CONTEXT,
        layout.METADATA_KEY_CONTEXT,
        layout.SEAL_KEY_CONTEXT,
        layout.FINGERPRINT_KEY_CONTEXT,
    ]
    derived = {key.derive(context, of) for context in contexts for of in (b"a" * 16, b"b" * 16)}
    assert len(derived) == 8


def record_of(block=7, flags=layout.FRAME_ZSTD, lo=5, hi=1 << 63) -> np.void:
    record = np.zeros(1, layout.RECORD)
    record["block"], record["flags"], record["mask_lo"], record["mask_hi"] = block, flags, lo, hi
    return record[0]


@given(st.binary(max_size=300), st.integers(0, 2**32 - 1))
def test_frames_come_back_and_are_longer_by_a_tag(packed, block):
    cipher = ChainKey.new(CHAIN).frame_cipher(b"x" * 16)
    stored = cipher.encrypt(record_of(block), packed)
    assert len(stored) == len(packed) + layout.FRAME_TAG_BYTES
    assert cipher.decrypt(record_of(block), stored) == packed


@given(st.binary(min_size=1, max_size=99), st.data())
def test_a_frame_counts_for_its_chain_capture_block_mask_and_coding_only(packed, data):
    key = ChainKey.new(CHAIN)
    cipher = key.frame_cipher(b"x" * 16)
    stored = cipher.encrypt(record_of(), packed)
    spoilt = bytearray(stored)
    spoilt[data.draw(st.integers(0, len(stored) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    bit = 1 << data.draw(st.integers(0, 31))
    wrong = [
        (cipher, record_of(block=7 ^ bit), stored),
        (cipher, record_of(flags=layout.FRAME_ZSTD ^ bit), stored),
        (cipher, record_of(lo=5 ^ bit), stored),
        (cipher, record_of(hi=1 << 63 ^ bit), stored),
        (cipher, record_of(), bytes(spoilt)),
        (cipher, record_of(), stored[:-1]),
        (cipher, record_of(), b""),
        (key.frame_cipher(b"y" * 16), record_of(), stored),
        (ChainKey.new(CHAIN).frame_cipher(b"x" * 16), record_of(), stored),
    ]
    for other, record, found in wrong:
        with pytest.raises(DigestMismatchError, match="was exchanged"):
            other.decrypt(record, found)


def test_where_a_frame_lies_and_what_number_its_point_has_is_no_matter():
    """Consolidation moves frames and numbers their points anew."""
    cipher = ChainKey.new(CHAIN).frame_cipher(b"x" * 16)
    record = record_of()
    stored = cipher.encrypt(record, b"granules")
    record["offset"], record["origin"], record["length"] = 12_345, 17, 99
    assert cipher.decrypt(record, stored) == b"granules"
