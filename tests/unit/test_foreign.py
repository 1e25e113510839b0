"""Files in ShadowProtect's own container: known by name, proven by side file, never read."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from policies.errors import ForeignContainerError, StorageError
from storage.capture import capture
from storage.chain import load_chain
from storage.folder import find_image, scan_folder
from storage.image import ImageReader
from storage.md5_check import doubt_at_first_sight, is_still_said, rests_on_side_file
from storage.parts import part_path
from storage.verify import verify_image
from tests.command import in_this_process
from tests.foreign import content_of, put_foreign, side_file_of
from tests.loop import needs_root, small_file_system
from tests.unit.tiny import START, TinyVolume, noise

BASE = "D's Müll_VOL-b001.spf"
CANNOT = "ShadowProtect's own container"


def md5sum_agrees(side_file: Path) -> bool:
    done = subprocess.run(
        ["md5sum", "-c", side_file.name], cwd=side_file.parent, capture_output=True, check=False
    )
    return done.returncode == 0


@pytest.mark.parametrize("magic", [b"SPVB", b"SPFI"])
def test_a_file_is_good_if_its_side_file_says_so(tmp_path, magic):
    path = put_foreign(tmp_path, BASE, content_of(9_000_000, magic=magic))
    verified = verify_image(path)
    assert (verified.status, verified.reason, verified.is_foreign) == ("good", None, True)
    assert verified.stored_bytes == 9_000_000
    assert verified.side_files == ("D's Müll_VOL-b001.md5",)
    assert (verified.header, verified.root) == (None, None)


def test_any_damaged_byte_is_noticed_as_md5sum_notices_it(tmp_path):
    content = content_of(5_000_000)
    path = put_foreign(tmp_path, "D_VOL-b001.spf", content, side_file=False)
    side_file = tmp_path / "D_VOL-b001.spf.md5"
    side_file.write_bytes(side_file_of((path.name, content), line_end="\n", guid=False))
    chance = random.Random(1)
    for at in (4, len(content) - 1, *(chance.randrange(4, len(content)) for _ in range(4))):
        damaged = bytearray(content)
        damaged[at] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        assert not md5sum_agrees(side_file)
        verified = verify_image(path)
        assert verified.status == "bad"
        assert "D_VOL-b001.spf.md5 says" in (verified.reason or "")
    path.write_bytes(content[:-1])
    assert verify_image(path).status == "bad"
    path.write_bytes(content)
    assert md5sum_agrees(side_file)
    assert verify_image(path).status == "good"


def test_a_wrong_side_file_is_blamed_until_it_says_something_else(spanned, tmp_path):
    path = put_foreign(tmp_path, BASE)
    right, side_file = path.with_suffix(".md5").read_bytes(), path.with_suffix(".md5")
    for wrong in (side_file_of((BASE, b"another")), side_file_of((BASE, b"another"), guid=False)):
        side_file.write_bytes(wrong)
        reason = verify_image(path).reason or ""
        assert rests_on_side_file(reason)
        assert is_still_said(path, reason)
    side_file.write_bytes(side_file_of((BASE, b"a third")))
    assert not is_still_said(path, reason)
    side_file.write_bytes(right)
    assert not is_still_said(path, reason)
    side_file.unlink()
    assert not is_still_said(path, reason)
    side_file = spanned[0].with_suffix(".md5")
    side_file.write_bytes(side_file_of(*((part.name, part.read_bytes()) for part in spanned)))
    spanned[-1].unlink()
    reason = verify_image(spanned[0]).reason or ""
    assert rests_on_side_file(reason)
    assert is_still_said(spanned[0], reason)
    side_file.write_bytes(side_file_of(*((part.name, part.read_bytes()) for part in spanned[:-1])))
    assert not is_still_said(spanned[0], reason)
    assert not rests_on_side_file("stored data is damaged")
    side_file.unlink()
    part_path(spanned[0], 2).with_suffix(".sp2.md5").write_bytes(b"nothing of use")
    verified = verify_image(spanned[0])
    assert (verified.status, verified.reason) == ("unproven", doubt_at_first_sight(spanned[0]))


def test_without_a_side_file_nothing_is_called_good_or_bad(tmp_path):
    path = put_foreign(tmp_path, BASE, side_file=False)
    verified = verify_image(path)
    assert (verified.status, verified.reason) == ("unproven", "no side file: cannot be verified")
    assert doubt_at_first_sight(path) == verified.reason
    side_file = path.with_suffix(".md5")
    cases = {
        side_file_of(("E_VOL-b001.spf", path.read_bytes())): "speaks of E_VOL-b001.spf",
        b"": "holds no line",
        b"Dear diary": "line 1 is not of the form",
    }
    for packed, words in cases.items():
        side_file.write_bytes(packed)
        verified = verify_image(path)
        assert verified.status == "unproven"
        assert words in (verified.reason or "")
        assert doubt_at_first_sight(path) == verified.reason, "so that it is not read again in vain"
    side_file.write_bytes(side_file_of((BASE, path.read_bytes()), encoding="cp1252"))
    assert doubt_at_first_sight(path) is None
    assert verify_image(path).status == "good"


def test_side_files_that_contradict_each_other_prove_nothing(tmp_path):
    path = put_foreign(tmp_path, "D_VOL-b001.spf")
    (tmp_path / "D_VOL-b001.spf.md5").write_bytes(side_file_of((path.name, b"something else")))
    assert verify_image(path).status == "bad"


@needs_root
def test_a_byte_that_changes_on_the_medium_is_noticed_though_the_good_one_is_cached(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    content = content_of(300_000, seed=3)
    with small_file_system(disk, 4 << 20) as folder:
        path = put_foreign(folder, "D_VOL-b001.spf", content)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        behind = disk / "small.ext4"
        start = behind.read_bytes().index(content[:512])
        with behind.open("r+b") as file:
            file.seek(start + 1000)
            file.write(bytes([content[1000] ^ 1]))
            file.flush()
            os.fsync(file.fileno())
        assert path.read_bytes() == content, "the good bytes are cached"
        assert verify_image(path, from_medium=False).status == "good"
        assert verify_image(path).status == "bad"


@pytest.fixture
def spanned(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"D_VOL-b001.sp{ending}" for ending in "f12"]
    for number, path in enumerate(paths):
        path.write_bytes(content_of(3000 + number, seed=number, magic=b"SPVB" if number == 0 else b"more"))
    return paths


def lines(*paths: Path) -> bytes:
    return side_file_of(*((path.name, path.read_bytes()) for path in paths))


def test_a_spanned_set_needs_a_word_on_each_part(spanned):
    side_file = spanned[0].with_suffix(".md5")
    assert verify_image(spanned[0]).status == "unproven"
    side_file.write_bytes(lines(*spanned))
    verified = verify_image(spanned[0])
    assert (verified.status, verified.stored_bytes) == ("good", 9003)
    side_file.write_bytes(lines(*spanned[:2]))
    verified = verify_image(spanned[0])
    assert verified.status == "unproven"
    assert "D_VOL-b001.sp2" in (verified.reason or "")
    assert doubt_at_first_sight(spanned[0]) == verified.reason
    (spanned[2].parent / "D_VOL-b001.sp2.md5").write_bytes(lines(spanned[2]))
    assert verify_image(spanned[0]).status == "good"


def test_a_digest_of_the_whole_set_is_understood_and_one_of_its_first_part_proves_no_more(spanned):
    side_file = spanned[0].with_suffix(".md5")
    side_file.write_bytes(side_file_of((spanned[0].name, b"".join(path.read_bytes() for path in spanned))))
    assert verify_image(spanned[0]).status == "good"
    spanned[1].write_bytes(b"damaged")
    assert verify_image(spanned[0]).status == "bad"
    side_file.write_bytes(lines(spanned[0]))
    verified = verify_image(spanned[0])
    assert verified.status == "unproven"
    assert "D_VOL-b001.sp1 and 1 more" in (verified.reason or "")


def test_a_part_that_is_missing_is_named(spanned):
    side_file = spanned[0].with_suffix(".md5")
    side_file.write_bytes(lines(*spanned))
    content = spanned[2].read_bytes()
    for path in (spanned[1], spanned[2]):
        kept = path.read_bytes()
        path.unlink()
        verified = verify_image(spanned[0])
        assert verified.status == "bad"
        assert (verified.reason or "").startswith(f"{path.name}: this part of the set is missing")
        path.write_bytes(kept)
    spanned[1].write_bytes(content)
    assert verify_image(spanned[0]).status == "bad", "swapped"
    spanned[0].unlink()
    assert verify_image(spanned[0]).status == "bad", "the first part"


def test_an_image_of_ours_has_to_fit_its_side_file_too(tiny: TinyVolume):
    path = tiny.capture_states([noise(200_000)])[0].path
    side_file = path.with_suffix(".md5")
    assert verify_image(path).side_files == ()
    side_file.write_bytes(side_file_of((path.name, path.read_bytes())))
    assert (verify_image(path).status, verify_image(path).side_files) == ("good", (side_file.name,))
    side_file.write_bytes(side_file_of((path.name, b"another image")))
    verified = verify_image(path)
    assert (verified.status, verified.root is not None) == ("bad", True)
    side_file.write_bytes(b"Dear diary")
    verified = verify_image(path)
    assert verified.status == "good", "it is proven by its own digests; the side file is merely odd"
    assert "not of the form" in (verified.note or "")


@pytest.fixture
def tiny(tmp_path: Path) -> TinyVolume:
    return TinyVolume(tmp_path / "tiny")


def test_a_medium_that_fails_says_nothing_of_the_file(tmp_path, monkeypatch):
    path = put_foreign(tmp_path, "D_VOL-b001.spf")
    before = os.preadv

    def failing(fd, pieces, offset):
        if offset == 0 and len(pieces[0]) > 100:
            raise OSError(5, "Input/output error")
        return before(fd, pieces, offset)

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(StorageError):
        verify_image(path)


def test_a_folder_shows_them_by_name_and_nothing_rests_on_them(tmp_path):
    for name in ("D_VOL-b001.spf", "D_VOL-b001-i001.spi", "D_VOL-b001-i003.spi"):
        put_foreign(tmp_path, name)
    (tmp_path / "D_VOL-b001.spk").write_bytes(b"ShadowProtect's own key file")
    found = scan_folder(tmp_path)
    assert [image.kind for image in found] == ["base", "incremental", "incremental"]
    assert all(image.is_foreign and not image.usable and CANNOT in (image.problem or "") for image in found)
    chain = load_chain(tmp_path)
    assert chain.spans == ()
    assert [span.assumed for span in chain.assumed_spans] == [True] * 3
    with pytest.raises(ForeignContainerError, match=CANNOT):
        chain.newest()
    with pytest.raises(ForeignContainerError, match=CANNOT):
        ImageReader(tmp_path / "D_VOL-b001.spf")
    one = find_image(tmp_path / "D_VOL-b001-i003.spi")
    assert one is not None
    assert one.side_files == ("D_VOL-b001-i003.md5",)


def test_a_new_chain_begins_beside_them_and_their_key_file_does_not_count(tmp_path, tiny):
    tiny.raw.write_bytes(noise(70_000))
    put_foreign(tiny.folder, f"{tiny.name}-b001.spf")
    (tiny.folder / f"{tiny.name}-b001.spk").write_bytes(b"ShadowProtect's own key file")
    with pytest.raises(Exception, match=CANNOT):
        capture(tiny.raw, tiny.folder, tiny.name, now=START)
    made = capture(tiny.raw, tiny.folder, tiny.name, now=START, new_base=True)
    assert made.path.name == f"{tiny.name}-b002.spf"
    assert not made.header.encrypted
    assert [image.usable for image in scan_folder(tiny.folder)] == [False, True]


COMMANDS = (
    ("restore", "{folder}", "--volume", "D_VOL", "--to", "{folder}/x.raw"),
    ("restore", "{folder}", "--volume", "D_VOL", "--point", "1", "--to", "{folder}/x.raw"),
    ("consolidate", "{folder}", "--volume", "D_VOL", "--after", "0", "--upto", "1", "--tier", "daily"),
    (
        "export",
        "{folder}",
        "--volume",
        "D_VOL",
        "--point",
        "1",
        "--format",
        "qcow2",
        "--to",
        "{folder}/x.qcow2",
    ),
    ("serve", "{folder}", "--volume", "D_VOL", "--point", "1", "--socket", "{folder}/x.sock"),
    ("ls", "{folder}", "--volume", "D_VOL", "--point", "1"),
    ("squash", "{folder}/D_VOL-b001-i001.spi", "--to", "{folder}/sub"),
    ("import", "{folder}/D_VOL-b001.spf", "--into", "{folder}/sub", "--volume", "X"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_command_says_plainly_that_it_cannot_be_read(tmp_path, command):
    for name in ("D_VOL-b001.spf", "D_VOL-b001-i001.spi"):
        put_foreign(tmp_path, name)
    (tmp_path / "sub").mkdir()
    before = sorted(tmp_path.rglob("*"))
    ran = in_this_process(*(word.format(folder=tmp_path) for word in command))
    assert ran.code == ForeignContainerError.exit_code, str(ran)
    assert CANNOT in ran.errors
    assert "only ShadowProtect can restore it" in ran.errors
    assert sorted(tmp_path.rglob("*")) == before


def test_the_commands_verify_and_chain(tmp_path):
    put_foreign(tmp_path, BASE)
    put_foreign(tmp_path, BASE.replace(".spf", "-i001.spi"), side_file=False)
    put_foreign(tmp_path, BASE.replace(".spf", "-i004-cd.spi"))
    put_foreign(tmp_path, BASE.replace(".spf", "-i007.spi")).write_bytes(content_of(50))
    ran = in_this_process("verify", tmp_path, "--deep", "--json")
    assert [line["status"] for line in ran.objects] == ["good", "unproven", "good", "bad"]
    assert [line["side_files"] for line in ran.objects][:2] == [["D's Müll_VOL-b001.md5"], []]
    assert all(line["foreign"] for line in ran.objects)
    assert ran.code == 1
    words = in_this_process("verify", tmp_path)
    assert "no side file: cannot be verified" in words.output
    assert "1 of 4 images are bad. 1 of 4 images cannot be verified." in words.output
    drawn = in_this_process("chain", tmp_path)
    assert drawn.code == 0
    for text in ("0 → 4", "6 → 7", "gap by name", "none", CANNOT):
        assert text in drawn.output
    ran = in_this_process("chain", tmp_path, "--json")
    assert [line["status"] for line in ran.objects] == ["foreign"] * 4 + ["gap"]
    assert [line.get("assumed_way") for line in ran.objects][:4] == [[None, 0], [0, 1], [0, 4], [6, 7]]
    good = in_this_process("verify", tmp_path / BASE)
    assert (good.code, "by D's Müll_VOL-b001.md5" in good.output) == (0, True)
