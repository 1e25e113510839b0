"""A plain image that somebody put into an encrypted volume: every command refuses it, or gets by without it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from storage import keys
from storage.folder import find_image, scan_folder
from tests.command import in_this_process
from tests.unit.forge import take_apart
from tests.unit.tiny import BLOCK, Password, TinyVolume, noise

TOLD = "is not encrypted, though its volume is"


@pytest.fixture(autouse=True)
def _cheap_guesses(monkeypatch):
    monkeypatch.setattr(keys, "RECOMMENDED_COST", keys.KdfCost(memory_kib=64, passes=1, lanes=1))


def disguised(plain: Path, genuine: Path) -> bytes:
    """Give a plain image the identities of an encrypted one, all digests right."""
    mine, theirs = take_apart(plain.read_bytes()), take_apart(genuine.read_bytes())
    mine.header["chain_id"] = theirs.header["chain_id"]
    mine.points = theirs.points
    return mine.seal()


def volumes(home: Path) -> tuple[TinyVolume, TinyVolume]:
    """Make an encrypted chain of three points, and a plain one of the same name that somebody else wrote."""
    locked, other = TinyVolume(home / "locked", password=Password()), TinyVolume(home / "other")
    for number in range(3):
        for volume, seed in ((locked, number), (other, 100 + number)):
            volume.raw.write_bytes(noise(2 * BLOCK, seed))
            volume.capture()
    (home / "password").touch(mode=0o600)
    (home / "password").write_bytes(locked.password.password)
    return locked, other


def put_new_base(locked: TinyVolume, other: TinyVolume) -> str:
    shutil.copy(other.image(), locked.folder / "D_VOL-b002.spf")
    return "D_VOL-b002.spf"


def put_new_base_of_the_same_chain(locked: TinyVolume, other: TinyVolume) -> str:
    (locked.folder / "D_VOL-b002.spf").write_bytes(disguised(other.image(), locked.image()))
    return "D_VOL-b002.spf"


def put_base(locked: TinyVolume, other: TinyVolume) -> str:
    locked.image().unlink()
    shutil.copy(other.image(), locked.image())
    (locked.folder / "D_VOL-b001.spk").unlink()
    return locked.image().name


def put_base_of_the_same_chain(locked: TinyVolume, other: TinyVolume) -> str:
    content = disguised(other.image(), locked.image())
    locked.image().unlink()
    locked.image().write_bytes(content)
    (locked.folder / "D_VOL-b001.spk").unlink()
    return locked.image().name


def put_whole_chain(locked: TinyVolume, other: TinyVolume) -> str:
    """Only the key file is left of the encrypted one."""
    for number in range(3):
        locked.image(number).unlink()
        shutil.copy(other.image(number), locked.image(number))
    return locked.image().name


@pytest.mark.parametrize(
    "put",
    [put_new_base, put_new_base_of_the_same_chain, put_base, put_base_of_the_same_chain, put_whole_chain],
)
@pytest.mark.parametrize("with_password", [True, False])
def test_each_command_says_so(quick_path, put, with_password):
    locked, other = volumes(quick_path)
    name = put(locked, other)
    password = ("--password-file", quick_path / "password") if with_password else ()
    place = (locked.folder, "--volume", locked.name)
    target = quick_path / "x.raw"
    before = sorted(locked.folder.iterdir())
    for command in (
        ("restore", *place, "--to", target, *password),
        ("restore", *place, "--to", target, "--point", "0", *password),
        ("export", *place, "--to", quick_path / "x.qcow2", "--format", "qcow2", *password),
        ("ls", *place, *password),
        ("consolidate", *place, "--upto", "0", "--full"),
        ("squash", locked.folder / name, "--to", quick_path, *password),
        ("capture", locked.raw, "--into", locked.folder, "--volume", locked.name, *password),
    ):
        ran = in_this_process(*command)
        assert ran.code in (3, 4), str(ran)
        assert TOLD in ran.errors, str(ran)
        assert name in ran.errors, str(ran)
    assert sorted(locked.folder.iterdir()) == before
    assert not target.exists()
    ran = in_this_process("verify", locked.folder)
    assert ran.code == 1
    assert any(name in line and TOLD in line for line in ran.output.splitlines()), str(ran)


def test_a_slipped_in_full_takes_no_other_images_place(quick_path):
    """It would be the shorter way."""
    locked, other = volumes(quick_path)
    other.merge(0, 2, "-cd")
    daily = locked.image(2, "-cd")
    locked.merge(0, 2, "-cd")
    content = disguised(other.image(2, "-cd"), daily)
    daily.unlink()
    daily.write_bytes(content)
    locked.check()
    assert [image.stands_out for image in scan_folder(locked.folder)].count(True) == 1
    found = find_image(daily)
    assert found is not None
    assert found.stands_out


def test_what_was_plain_before_the_volume_was_encrypted_stays_good(quick_path):
    volume = TinyVolume(quick_path)
    volume.raw.write_bytes(noise(BLOCK))
    volume.capture()
    volume.password = Password()
    volume.capture(new_base=True)
    assert [(image.usable, image.stands_out) for image in scan_folder(volume.folder)] == [(True, False)] * 2
    assert in_this_process("verify", volume.folder).code == 0
    restore = ("restore", volume.folder, "--volume", volume.name, "--to", quick_path / "x.raw", "--base", "1")
    assert in_this_process(*restore).code == 0
