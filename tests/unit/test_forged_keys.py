"""Key slots that somebody without the chain's key put into a header or the key file: they never count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from policies.errors import DigestMismatchError, FormatError, PasswordError
from storage import keys
from storage.capture import capture
from storage.chain import load_chain
from storage.key_area import KeyArea, decode_key_area, encode_key_area, key_file_path
from storage.key_files import (
    load_key_file,
    save_key_file,
    unlock,
    with_changed_password,
    with_password,
)
from storage.keys import ChainKey, KdfCost
from storage.verify import verify_image
from tests.command import in_this_process
from tests.unit.forge import take_apart
from tests.unit.tiny import BLOCK, START, Password, TinyVolume, noise

CHEAP = KdfCost(memory_kib=64, passes=1, lanes=1)
MINE = b"known to the attacker"
HIGH = 1 << 63


@pytest.fixture(autouse=True)
def _cheap_guesses(monkeypatch):
    monkeypatch.setattr(keys, "RECOMMENDED_COST", CHEAP)


@pytest.fixture
def locked(quick_path) -> TinyVolume:
    volume = TinyVolume(quick_path / "locked", password=Password())
    volume.capture_states([noise(2 * BLOCK, number) for number in range(3)])
    return volume


def key_path(volume: TinyVolume) -> Path:
    return key_file_path(volume.folder, volume.name, 1)


def headers(volume: TinyVolume):
    return [image.header for image in load_chain(volume.folder, volume.name).images if image.header]


def genuine(volume: TinyVolume) -> KeyArea:
    return decode_key_area(headers(volume)[0].key_area, "x")


def put_into(image: Path, area: KeyArea) -> None:
    """Overwrite the key slots in a header; nothing of it changes the root."""
    content = image.read_bytes()
    old = take_apart(content).key_area
    new = encode_key_area(area)
    assert len(new) == len(old)
    image.unlink()
    image.write_bytes(content.replace(old, new, 1))
    assert verify_image(image, from_medium=False).status == "good", "the attacker makes all digests fit"


def own_key(volume: TinyVolume) -> KeyArea:
    """A data key of the attacker's, under a password of theirs, sealed as it should be."""
    key = ChainKey.new(genuine(volume).chain_id)
    return key.sealed(KeyArea(key.chain_id, HIGH, (key.wrap(MINE, CHEAP),)))


def raised(volume: TinyVolume) -> KeyArea:
    """The genuine slot, with another generation."""
    return replace(genuine(volume), generation=HIGH)


def garbage(volume: TinyVolume) -> KeyArea:
    area = genuine(volume)
    return KeyArea(area.chain_id, HIGH, (replace(area.slots[0], wrapped=bytes(48)),), bytes(24))


FORGERIES = [own_key, raised, garbage]


@pytest.mark.parametrize("forge", FORGERIES)
def test_a_forged_copy_of_a_high_generation_is_not_carried_on(locked, forge):
    slots = key_path(locked).read_bytes()
    put_into(locked.image(1), forge(locked))
    key_path(locked).unlink()
    locked.check()
    locked.raw.write_bytes(noise(BLOCK, 9))
    made = locked.capture()
    assert made.header.key_area == slots
    assert key_path(locked).read_bytes() == slots, "the lost key file is made from a genuine copy"
    locked.check()


@pytest.mark.parametrize("forge", FORGERIES)
def test_a_forged_key_file_is_as_good_as_none(locked, forge):
    slots = key_path(locked).read_bytes()
    save_key_file(key_path(locked), forge(locked))
    locked.check()
    locked.raw.write_bytes(noise(BLOCK, 9))
    assert locked.capture().header.key_area == slots
    assert key_path(locked).read_bytes() == slots
    with pytest.raises(PasswordError, match="is wrong"):
        unlock(key_path(locked), headers(locked), MINE)


def test_a_forged_key_files_error_claims_nothing(locked):
    save_key_file(key_path(locked), garbage(locked))
    with pytest.raises(PasswordError, match="is wrong") as caught:
        unlock(key_path(locked), headers(locked), b"neither")
    assert "undamaged" not in (caught.value.hint or "")
    assert "exchanged" in (caught.value.hint or "")


@pytest.mark.parametrize("keeps_key_file", [True, False])
def test_the_attackers_password_opens_nothing(locked, keeps_key_file):
    """Somebody is made to use it: nothing is encrypted under the attacker's key, and no password is given to it."""
    put_into(locked.image(1), own_key(locked))
    put_into(locked.image(2), own_key(locked))
    save_key_file(key_path(locked), own_key(locked))
    if not keeps_key_file:
        key_path(locked).unlink()
    before = {path: path.read_bytes() for path in locked.folder.iterdir() if path.is_file()}
    with pytest.raises(DigestMismatchError, match="that of no image here"):
        unlock(key_path(locked), headers(locked), MINE)
    with pytest.raises(DigestMismatchError, match="that of no image here"):
        capture(locked.raw, locked.folder, locked.name, now=START, passwords=Password(MINE))
    files = [locked.folder.parent / name for name in ("mine", "new")]
    for file in files:
        file.touch(mode=0o600)
        file.write_bytes(MINE if file.name == "mine" else b"new")
    ran = in_this_process(
        *("password", "change", locked.folder, "--volume", locked.name),
        *("--password-file", files[0], "--new-password-file", files[1]),
    )
    assert (ran.code, "that of no image here" in ran.errors) == (3, True), str(ran)
    assert {path: path.read_bytes() for path in locked.folder.iterdir() if path.is_file()} == before
    locked.check()


def test_an_image_under_another_key_keeps_the_password_from_being_changed(locked):
    key = ChainKey.new(genuine(locked).chain_id)
    forged = take_apart(locked.image(2).read_bytes())
    sealed = key.encrypt_once("x", b"y", b"{}", b"")
    forged.put_metadata(b'{"encrypted":"%s","volume":"D_VOL"}' % sealed.hex().encode())
    locked.image(2).unlink()
    locked.image(2).write_bytes(forged.seal())
    password = locked.folder.parent / "password"
    password.touch(mode=0o600)
    password.write_bytes(locked.password.password)
    before = key_path(locked).read_bytes()
    ran = in_this_process(
        *("password", "add", locked.folder, "--volume", locked.name),
        *("--password-file", password, "--new-password-file", password),
    )
    assert (ran.code, "i002.spi: was altered" in ran.errors) == (3, True), str(ran)
    assert key_path(locked).read_bytes() == before
    with pytest.raises(FormatError, match="was altered"):
        locked.capture()


def test_genuine_copies_are_found_among_many_forged_ones(locked, quick_path):
    """As long as most headers have it."""
    for number in range(3, 24):
        locked.raw.write_bytes(noise(BLOCK, number))
        locked.capture()
    for number in range(9):
        put_into(locked.image(number), replace(own_key(locked), generation=HIGH + number))
    key_path(locked).unlink()
    locked.check(0, 23)


def test_without_any_genuine_slots_reading_goes_on_and_nothing_else(locked):
    for number in range(3):
        put_into(locked.image(number), replace(genuine(locked), seal=bytes(24)))
    key_path(locked).unlink()
    locked.check()
    for work in (
        locked.capture,
        lambda: unlock(key_path(locked), headers(locked), locked.password.password),
    ):
        with pytest.raises(DigestMismatchError, match="there are no genuine ones"):
            work()


def test_a_password_that_was_changed_is_told_from_a_wrong_one(locked):
    old = locked.password.password
    opened = unlock(key_path(locked), headers(locked), old)
    save_key_file(key_path(locked), with_changed_password(opened, b"new"))
    with pytest.raises(PasswordError, match="valid before it was changed"):
        unlock(key_path(locked), headers(locked), old)
    with pytest.raises(PasswordError, match=r"is wrong$"):
        unlock(key_path(locked), headers(locked), b"neither")


def test_an_older_key_file_that_was_put_back_takes_nothing_from_the_new_password(locked):
    old_slots = load_key_file(key_path(locked))
    opened = unlock(key_path(locked), headers(locked), locked.password.password)
    save_key_file(key_path(locked), with_changed_password(opened, b"new"))
    new_slots = load_key_file(key_path(locked))
    locked.password = Password(b"new")
    locked.raw.write_bytes(noise(BLOCK, 9))
    locked.capture()
    save_key_file(key_path(locked), old_slots)
    locked.check()
    assert decode_key_area(locked.capture().header.key_area, "x") == new_slots
    again = unlock(key_path(locked), headers(locked), b"new")
    assert with_password(again, b"third").generation == 3


def test_every_change_is_sealed(locked):
    key = locked.key()
    assert key is not None
    opened = unlock(key_path(locked), headers(locked), locked.password.password)
    for area in (opened.area, with_password(opened, b"two"), with_changed_password(opened, b"three")):
        assert key.vouches_for(area)
        for other in (
            replace(area, generation=area.generation + 1),
            replace(area, slots=(*area.slots, area.slots[0])),
            replace(area, slots=(replace(area.slots[0], salt=bytes(16)), *area.slots[1:])),
            replace(area, chain_id=bytes(16)),
            replace(area, seal=bytes(24)),
        ):
            assert not key.vouches_for(other)
    assert not ChainKey.new(key.chain_id).vouches_for(opened.area)
