"""Encrypted chains on a tiny volume: keys found, lost and changed; what is sealed; what consolidation leaves."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from policies.errors import (
    ConfigurationError,
    DigestMismatchError,
    FormatError,
    PasswordError,
)
from storage import fingerprints, keys, layout, seals
from storage.capture import capture
from storage.chain import load_chain
from storage.consolidate import consolidate
from storage.image import ImageReader
from storage.key_area import key_file_path
from storage.key_files import (
    load_key_file,
    save_key_file,
    unlock,
    with_changed_password,
    with_password,
    without_password,
)
from storage.overlay import Overlay, is_trace
from storage.replay import BlockReader
from storage.seals import open_metadata
from storage.verify import verify_image
from tests.unit.forge import take_apart
from tests.unit.tiny import BLOCK, START, Password, TinyVolume, names, noise


@pytest.fixture(autouse=True)
def _cheap_guesses(monkeypatch):
    monkeypatch.setattr(keys, "RECOMMENDED_COST", keys.KdfCost(memory_kib=64, passes=1, lanes=1))


@pytest.fixture
def locked(quick_path) -> TinyVolume:
    return TinyVolume(quick_path / "locked", password=Password())


def states(count: int) -> list[bytes]:
    """Contents of six blocks: the first is written each time, the second alternates, one becomes zero."""
    found = []
    for number in range(count):
        fixed = noise(3 * BLOCK, 99) if number < 2 else noise(2 * BLOCK, 99) + bytes(BLOCK)
        found.append(noise(BLOCK, number) + bytes([number % 2]) * BLOCK + fixed + b"end")
    return found


def key_path(volume, base=1):
    return key_file_path(volume.folder, volume.name, base)


def headers(volume):
    return [image.header for image in load_chain(volume.folder, volume.name).images]


def replace_file(path, content):
    path.unlink()
    path.write_bytes(content)


# --- captured, merged, restored


def test_every_state_comes_back(locked):
    locked.capture_states(states(4))
    locked.check()
    assert names(locked.folder) == [".rollforward", *(f"D_VOL-b001-i00{n}.spi" for n in (1, 2, 3)), *ENDS]
    for image in load_chain(locked.folder, locked.name).images:
        assert verify_image(image.path).status == "good"
        assert verify_image(image.path, deep=True, key=locked.key()).status == "good"


ENDS = ["D_VOL-b001.spf", "D_VOL-b001.spk"]


def test_merged_without_the_key_and_restored_with_it(locked):
    locked.capture_states(states(5))
    locked.merge(0, 2, "-cd")
    locked.merge(2, 4, "-cd")
    locked.merge(0, 4, "-cw")
    weekly = locked.image(4, "-cw")
    direct = consolidate([locked.image(number) for number in range(1, 5)], locked.folder / "direct.spi").path
    assert direct.read_bytes() == weekly.read_bytes(), "the order of merging is seen"
    full = consolidate([locked.image(), weekly], locked.folder / "D_VOL-b001-i004.spf").path
    for number in range(1, 5):
        locked.image(number).unlink()
    locked.check(0, 4)
    for path in (weekly, full):
        assert verify_image(path, deep=True, key=locked.key()).status == "good"


def test_what_a_consolidation_leaves_out_stays_as_a_trace(locked):
    locked.capture_states(states(4))
    locked.merge(0, 3, "-cd")
    with ImageReader(locked.image(3, "-cd")) as image:
        records = image.read_pages(0, 1)
        sources = []
        for number in (1, 2, 3):
            with ImageReader(locked.image(number)) as source:
                sources += [(int(record["block"]), number - 1) for record in source.read_pages(0, 1)]
        assert [(int(record["block"]), int(record["origin"])) for record in records] == sorted(
            sources, key=lambda row: (row[0], -row[1])
        )
        traces = records[is_trace(records)]
        assert len(traces) >= 2
        assert not traces["length"].any()
        assert len(image.read_seals()) == 3


def test_a_plain_consolidation_leaves_no_trace(tiny):
    tiny.capture_states(states(4))
    tiny.merge(0, 3, "-cd")
    with ImageReader(tiny.image(3, "-cd")) as image:
        assert not is_trace(image.read_pages(0, 1)).any()
        assert image.read_seals() == []


def test_a_trace_that_nothing_hides_is_refused_everywhere(locked, quick_path):
    """Only a hostile or broken writer makes one; neither a reader nor a machine without the key falls for it."""
    locked.capture_states(states(3))
    path = locked.image(2)
    forged = take_apart(path.read_bytes())
    genuine = forged.records[0]["digest"]
    forged.replace_frame(0, b"", flags=int(forged.records[0]["flags"]) | layout.FRAME_TRACE)
    forged.records[0]["digest"] = genuine
    replace_file(path, forged.seal())
    found = verify_image(path)
    assert (found.status, found.reason) == ("bad", "a frame of block 0 is missing: nothing hides it")
    with pytest.raises(FormatError, match="nothing hides it"):
        consolidate([locked.image(1), path], quick_path / "x.spi")
    with pytest.raises(FormatError, match="nothing hides it"):
        locked.restore(2, quick_path / "x.raw")
    assert names(quick_path) == ["locked"]


def test_traces_in_plain_images_are_an_unknown_coding(tiny):
    tiny.capture_states(states(1))
    forged = take_apart(tiny.image().read_bytes())
    forged.replace_frame(0, b"", flags=layout.FRAME_ZSTD | layout.FRAME_TRACE)
    replace_file(tiny.image(), forged.seal())
    assert "unknown to this version" in (verify_image(tiny.image()).reason or "")


def test_many_points_are_checked_in_several_passes(locked, monkeypatch):
    monkeypatch.setattr(seals, "_ORIGINS_AT_ONCE", 2)
    locked.capture_states(states(6))
    locked.merge(0, 5, "-cd")
    locked.check(5)
    with ImageReader(locked.image(5, "-cd")) as image:
        seals.check_seals(image, locked.key())


# --- passwords


def test_a_password_is_needed(locked, quick_path):
    locked.capture_states(states(2))
    before = names(locked.folder)
    with pytest.raises(PasswordError, match="a password is needed"):
        capture(locked.raw, locked.folder, locked.name, now=START)
    with pytest.raises(PasswordError, match="is wrong"):
        capture(locked.raw, locked.folder, locked.name, now=START, passwords=Password(b"no"))
    path = load_chain(locked.folder, locked.name).path_to(load_chain(locked.folder, locked.name).point(1))
    with Overlay(path) as overlay, pytest.raises(PasswordError, match="is encrypted"):
        BlockReader(overlay)
    with pytest.raises(PasswordError):
        verify_image(locked.image(), deep=True)
    assert names(locked.folder) == before
    assert verify_image(locked.image()).status == "good"


def test_a_lost_key_file_is_written_again_by_the_next_capture(locked):
    locked.capture_states(states(2))
    slots = key_path(locked).read_bytes()
    key_path(locked).unlink()
    locked.check()
    assert not key_path(locked).exists()
    locked.capture_states(states(1))
    assert key_path(locked).read_bytes() == slots


@pytest.mark.parametrize(
    "content", [b"", b"x" * 5000, b"RFKEYS1\x1a" + bytes(300)], ids=["empty", "long", "wrong"]
)
def test_a_damaged_key_file_is_passed_over_and_kept(locked, content):
    locked.capture_states(states(2))
    replace_file(key_path(locked), content)
    locked.check()
    locked.capture_states(states(1))
    assert key_path(locked).read_bytes() == content
    with pytest.raises(PasswordError, match=r"none of the copies .* the key file is no good"):
        unlock(key_path(locked), headers(locked), b"wrong")


def test_a_key_file_of_another_chain_is_told_from_a_wrong_password(locked, quick_path):
    locked.capture_states(states(1))
    other = TinyVolume(quick_path / "other", password=Password(b"other"))
    other.capture_states(states(1))
    replace_file(key_path(locked), key_path(other).read_bytes())
    locked.check()
    with pytest.raises(PasswordError, match="belongs to another chain"):
        unlock(key_path(locked), headers(locked), b"other")


def test_a_changed_password_changes_no_image(locked):
    made = locked.capture_states(states(2))
    before = [image.path.read_bytes() for image in made]
    opened = unlock(key_path(locked), headers(locked), locked.password.password)
    save_key_file(key_path(locked), with_changed_password(opened, b"new"))
    assert [image.path.read_bytes() for image in made] == before
    assert load_key_file(key_path(locked)).generation == 2
    with pytest.raises(PasswordError, match="is wrong"):
        locked.check()
    old, locked.password = locked.password, Password(b"new")
    locked.check()
    locked.capture_states(states(1))

    key_path(locked).unlink()
    locked.check()
    locked.password = old
    locked.check()  # what older images carry cannot be taken back, and the page says so


def test_an_old_password_does_not_take_the_place_of_the_new_one(locked):
    """The key file is lost, and somebody goes on with the password of before."""
    locked.capture_states(states(1))
    old = locked.password
    opened = unlock(key_path(locked), headers(locked), old.password)
    save_key_file(key_path(locked), with_changed_password(opened, b"new"))
    locked.password = Password(b"new")
    locked.capture_states(states(2))
    slots = key_path(locked).read_bytes()
    key_path(locked).unlink()
    locked.password = old
    locked.capture_states(states(1))
    assert key_path(locked).read_bytes() == slots
    with pytest.raises(PasswordError, match="is wrong"):
        locked.capture()
    locked.password = Password(b"new")
    locked.check(3)


@pytest.mark.parametrize("change", ["add", "change", "remove"])
def test_an_old_password_takes_nothing_from_the_new_ones(locked, change):
    """The key file is lost, and somebody changes passwords with the one of before: nobody else is locked out."""
    locked.capture_states(states(1))
    old = locked.password.password
    opened = unlock(key_path(locked), headers(locked), old)
    save_key_file(key_path(locked), with_changed_password(opened, b"new"))
    locked.password = Password(b"new")
    locked.capture_states(states(2))
    key_path(locked).unlink()
    opened = unlock(key_path(locked), headers(locked), old)
    made = {
        "add": lambda: with_password(opened, b"more"),
        "change": lambda: with_changed_password(opened, b"more"),
        "remove": lambda: without_password(opened),
    }[change]()
    save_key_file(key_path(locked), made)
    locked.check()
    with pytest.raises(PasswordError, match="is wrong"):
        unlock(key_path(locked), headers(locked), old)
    assert made.generation == 3
    assert len(made.slots) == (1 if change == "remove" else 2)


def test_a_password_has_one_slot(locked):
    """Else it would still open after it was removed."""
    locked.capture_states(states(1))
    opened = unlock(key_path(locked), headers(locked), locked.password.password)
    save_key_file(key_path(locked), with_password(opened, b"two"))
    opened = unlock(key_path(locked), headers(locked), locked.password.password)
    save_key_file(key_path(locked), with_changed_password(opened, b"two"))
    assert len(load_key_file(key_path(locked)).slots) == 1
    again = with_changed_password(unlock(key_path(locked), headers(locked), b"two"), b"two")
    assert len(again.slots) == 1


def test_the_largest_generation_is_gone_on_from(locked):
    """Nobody but somebody with the key, and much time, can say so."""
    locked.capture_states(states(1))
    area = replace(load_key_file(key_path(locked)), generation=(1 << 64) - 1)
    save_key_file(key_path(locked), locked.key().sealed(area))
    opened = unlock(key_path(locked), headers(locked), locked.password.password)
    save_key_file(key_path(locked), with_changed_password(opened, b"new"))
    assert load_key_file(key_path(locked)).generation == (1 << 64) - 1
    unlock(key_path(locked), headers(locked), b"new")


def test_several_passwords(locked):
    locked.capture_states(states(2))
    opened = unlock(key_path(locked), headers(locked), locked.password.password)
    assert with_password(opened, locked.password.password) == opened.area
    for number in range(1, layout.MAX_KEY_SLOTS):
        save_key_file(key_path(locked), with_password(opened, b"%d" % number))
        opened = unlock(key_path(locked), headers(locked), b"%d" % number)
        assert opened.slot == number
    with pytest.raises(ConfigurationError, match="at most 8"):
        with_password(opened, b"one more")
    locked.check()


def test_a_new_base_has_a_key_of_its_own_and_stays_encrypted(locked):
    locked.capture_states(states(1))
    made = capture(
        locked.raw, locked.folder, locked.name, now=START, new_base=True, passwords=locked.password
    )
    assert made.header.encrypted
    first, second = locked.key(1), locked.key(2)
    assert first.derive(layout.SEAL_KEY_CONTEXT) != second.derive(layout.SEAL_KEY_CONTEXT)
    with pytest.raises(PasswordError, match="a password is needed"):
        capture(locked.raw, locked.folder, locked.name, now=START, new_base=True)


def test_a_key_file_whose_images_are_elsewhere_is_not_written_over(locked, quick_path):
    """They may come back, and may know only passwords that were changed since."""
    locked.capture_states(states(1))
    opened = unlock(key_path(locked), headers(locked), locked.password.password)
    save_key_file(key_path(locked), with_changed_password(opened, b"changed"))
    shutil.move(locked.image(), quick_path / "archive")
    with pytest.raises(PasswordError, match="a password is needed"):
        capture(locked.raw, locked.folder, locked.name, now=START)
    assert locked.capture().path.name == "D_VOL-b002.spf"
    shutil.move(quick_path / "archive", locked.image())
    unlock(key_path(locked), [opened_header(locked.image())], b"changed")


def opened_header(path):
    with ImageReader(path) as image:
        return image.header


@pytest.mark.parametrize("keeps_key_file", [True, False])
def test_a_new_base_stays_encrypted_though_the_chain_is_damaged(locked, keeps_key_file):
    locked.capture_states(states(2))
    spoilt = [locked.image(), locked.image(1)] if keeps_key_file else [locked.image()]
    for path in spoilt:
        content = bytearray(path.read_bytes())
        content[60] ^= 1
        replace_file(path, content)
    if not keeps_key_file:
        key_path(locked).unlink()
    before = names(locked.folder)
    with pytest.raises(PasswordError, match="a password is needed"):
        capture(locked.raw, locked.folder, locked.name, now=START, new_base=True)
    assert names(locked.folder) == before


@pytest.mark.parametrize("name", ["D_VOL-b001.spf", "D_VOL-b002.spf"], ids=["replaced", "added"])
def test_nothing_goes_on_from_a_plain_base_that_was_slipped_in(locked, tiny, name):
    """Whoever can write the folder would have the next changes in the clear."""
    locked.capture_states(states(2))
    tiny.capture_states(states(1))
    (locked.folder / name).unlink(missing_ok=True)
    shutil.copy(tiny.image(), locked.folder / name)
    if name == "D_VOL-b001.spf":
        key_path(locked).unlink()
    before = names(locked.folder)
    with pytest.raises(FormatError, match="is not encrypted, though its volume is") as caught:
        capture(locked.raw, locked.folder, locked.name, now=START, passwords=locked.password)
    assert caught.value.path == str(locked.folder / name)
    assert names(locked.folder) == before


# --- plain where it should be encrypted


def test_a_plain_chain_is_not_taken_for_an_encrypted_one(tiny):
    tiny.capture_states(states(1))
    with pytest.raises(ConfigurationError, match="is not encrypted"):
        capture(tiny.raw, tiny.folder, tiny.name, now=START, encrypt=True, passwords=Password())
    with Overlay([tiny.image()]) as overlay, pytest.raises(FormatError, match="is not encrypted, though"):
        BlockReader(overlay, keys.ChainKey.new(headers(tiny)[0].chain_id))


def test_plain_images_beside_a_key_file_are_not_gone_on_from(tiny, locked):
    tiny.capture_states(states(1))
    locked.capture_states(states(1))
    shutil.copy(key_path(locked), key_path(tiny))
    with pytest.raises(FormatError, match=r"is not encrypted, though its volume is, as D_VOL-b001.spk tells"):
        capture(tiny.raw, tiny.folder, tiny.name, now=START)


def test_a_plain_image_among_encrypted_ones_is_refused(locked, tiny, quick_path):
    """Whoever can write the folder puts in contents of their own, as a plain image with all identities right."""
    locked.capture_states(states(2))
    tiny.capture_states(states(2))
    genuine, mine = take_apart(locked.image(1).read_bytes()), take_apart(tiny.image(1).read_bytes())
    mine.header["chain_id"] = genuine.header["chain_id"]
    mine.points = genuine.points
    replace_file(locked.image(1), mine.seal())
    assert verify_image(locked.image(1)).status == "good"
    for refused in (
        lambda: locked.restore(1, quick_path / "x.raw"),
        lambda: consolidate([locked.image(), locked.image(1)], quick_path / "x.spf"),
        locked.capture,
    ):
        with pytest.raises(FormatError, match=r"is not encrypted, though its (chain|volume) is"):
            refused()


# --- what is kept secret beside frames


def test_metadata_is_sealed(locked):
    made = locked.capture_states(states(1))[0]
    assert set(made.header.metadata) == {"volume", "encrypted"}
    metadata = open_metadata(made.header, locked.key(), "x")
    assert metadata["volume"] == locked.name
    assert metadata["source"] == str(locked.raw)
    assert "computer" in metadata


@pytest.mark.parametrize(
    "metadata",
    [
        b"{}",
        b'{"encrypted":7,"volume":"D_VOL"}',
        b'{"encrypted":"\xc3\xa4","volume":"D_VOL"}',
        b'{"encrypted":"AAAA"}',
    ],
)
def test_hostile_metadata_is_refused(locked, quick_path, metadata):
    locked.capture_states(states(1))
    forged = take_apart(locked.image().read_bytes())
    forged.put_metadata(metadata)
    replace_file(locked.image(), forged.seal())
    with pytest.raises(DigestMismatchError, match="altered"):
        locked.restore(0, quick_path / "x.raw")


def test_fingerprints_are_encrypted_and_bound(locked, monkeypatch):
    monkeypatch.setattr(fingerprints, "PIECE_BLOCKS", 2)
    made = locked.capture_states(states(2))[-1]
    path = fingerprints.fingerprints_path(locked.folder, locked.name, 1)
    header = made.header
    state = fingerprints.StateKey(header.chain_id, header.end.id, 512, header.end.volume_bytes)
    key = locked.key()
    found = pieces_of_prints(path, state, key)
    assert all(piece is not None for piece in found)
    stored = path.read_bytes()
    assert not any(row.tobytes() in stored for piece in found for row in np.unique(piece, axis=0))
    assert pieces_of_prints(path, state) is None
    other = pieces_of_prints(path, state, keys.ChainKey.new(header.chain_id))
    assert all(piece is None for piece in other)
    for at in range(0, len(stored), 7):
        replace_file(path, stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :])
        spoilt = pieces_of_prints(path, state, key)
        assert spoilt is None or sum(piece is None for piece in spoilt) == (len(found) if at < 88 else 1), at
    pieces = [stored[:88], *(stored[at : at + 64] for at in range(88, len(stored), 64))]
    replace_file(path, b"".join([pieces[0], pieces[2], pieces[1], *pieces[3:]]))
    assert pieces_of_prints(path, state, key)[:2] == [None, None]
    locked.raw.write_bytes(states(3)[2])
    assert locked.capture().changed_bytes
    locked.check(2)


def pieces_of_prints(path, state, key=None):
    known = fingerprints.open_fingerprints(path, state, key)
    if known is None:
        return None
    with known:
        return [known.piece(number) for number in range(-(-state.blocks // fingerprints.PIECE_BLOCKS))]


def test_plain_fingerprints_are_not_believed_for_an_encrypted_chain(locked, tmp_path):
    made = locked.capture_states(states(1))[0]
    path = fingerprints.fingerprints_path(locked.folder, locked.name, 1)
    header = made.header
    state = fingerprints.StateKey(header.chain_id, header.end.id, 512, header.end.volume_bytes)
    with fingerprints.NewFingerprints(path, state) as plain:
        plain.save()
    assert fingerprints.open_fingerprints(path, state) is not None
    assert fingerprints.open_fingerprints(path, state, locked.key()) is None
