"""Side files as ShadowProtect and md5sum write them, and everything else that may lie under their names."""

from __future__ import annotations

import hashlib
import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import FormatError
from storage.md5_side_file import LINES_MAX, Md5Line, expect, parse_md5, side_file_names
from tests.commands import run
from tests.foreign import content_of, side_file_of

HASH = hashlib.md5(b"x").hexdigest()


@pytest.mark.parametrize("line_end", ["\r\n", "\n"])
@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("guid", [False, True])
@pytest.mark.parametrize(
    "name", ["D_VOL-b001.spf", "System Reserved_VOL-b001-i005.spi", "it's D's_VOL-b001.spf"]
)
def test_what_shadowprotect_writes(name: str, line_end: str, upper: bool, guid: bool):
    content = content_of()
    packed = side_file_of((name, content), line_end=line_end, upper=upper, guid=guid)
    assert parse_md5(packed) == (Md5Line(hashlib.md5(content).digest(), name.encode()),)


def test_what_md5sum_writes(tmp_path: Path):
    files = [tmp_path / "D VOL-b001.spf", tmp_path / "Müll-b001.spf"]
    for number, path in enumerate(files):
        path.write_bytes(content_of(seed=number))
    for mode in ("--binary", "--text"):
        lines = parse_md5(run("md5sum", mode, *map(str, files)).encode())
        assert [(line.name.decode(), line.digest) for line in lines] == [
            (path.name, hashlib.md5(path.read_bytes()).digest()) for path in files
        ]


CASES = {
    "a byte order mark": b"\xef\xbb\xbf" + f"{HASH} *a.spf".encode(),
    "UTF-16": f"\ufeff{HASH} *a.spf\r\n".encode("utf-16-le"),
    "UTF-16, big end first": b"\xfe\xff" + f"{HASH} *a.spf\r\n".encode("utf-16-be"),
    "a Windows path": f"{HASH} *E:\\Backups\\srv 1\\a.spf\r\n".encode(),
    "a path": f"{HASH}  ./here/a.spf\n".encode(),
    "comments and empty lines": f"; made by hand\r\n\r\n# too\r\n{HASH} *a.spf \r\n\r\n".encode(),
    "lines of an old Mac": f"{HASH} *a.spf\r;x;y\r".encode(),
    "tabs": f"{HASH}\t*a.spf".encode(),
}


@pytest.mark.parametrize("packed", CASES.values(), ids=CASES)
def test_other_ways_to_say_it(packed: bytes):
    assert parse_md5(packed) == (Md5Line(bytes.fromhex(HASH), b"a.spf"),)


BAD = {
    "empty": b"",
    "a comment alone": b";guid;date\r\n",
    "a diary": b"Dear diary,\r\n",
    "a digest too short": f"{HASH[1:]} *a.spf".encode(),
    "a digest too long": f"{HASH}0 *a.spf".encode(),
    "SHA-256": f"{HASH}{HASH} *a.spf".encode(),
    "another way round": f"MD5 (a.spf) = {HASH}".encode(),
    "zeros": bytes(1000),
    "one bad line": f"{HASH} *a.spf\r\nnonsense\r\n".encode(),
    "too many lines": b"\n" * (LINES_MAX + 1),
}


@pytest.mark.parametrize("packed", BAD.values(), ids=BAD)
def test_what_is_none_is_refused(packed: bytes):
    with pytest.raises(FormatError):
        parse_md5(packed)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(packed: bytes):
    try:
        lines = parse_md5(packed)
    except FormatError:
        return
    assert lines
    assert all(len(line.digest) == 16 for line in lines)


@given(
    st.text(
        alphabet=string.ascii_letters + string.digits + " '_-äöüßÄÖÜéèçñåøæ€", min_size=1, max_size=40
    ).map(lambda text: f"V{text}V-b001.spf"),
    st.sampled_from(["utf-8", "cp1252", "cp850", "cp437"]),
)
def test_a_name_is_known_in_any_code_page(tmp_path_factory, name: str, encoding: str):
    folder = tmp_path_factory.mktemp("names")
    (folder / name).write_bytes(b"SPVB")
    line = f"{HASH} *".encode() + name.encode(encoding, errors="replace") + b"\r\n"
    (folder / f"{name}.md5").write_bytes(line)
    expected = expect([folder / name])
    assert [said.digest.hex() for said in expected.said[0]] == [HASH]
    assert expected.doubt is None


def test_upper_and_lower_case_are_one_and_so_are_both_spellings_of_an_umlaut(tmp_path: Path):
    path = tmp_path / "Mu\u0308ll_VOL-b001.spf"  # as macOS writes it
    path.write_bytes(b"SPVB")
    path.with_suffix(".md5").write_text(f"{HASH} *M\u00dcLL_vol-B001.SPF\r\n")
    assert expect([path]).doubt is None


def test_which_names_side_files_have():
    assert side_file_names("D_VOL-b001.spf") == (
        "D_VOL-b001.md5",
        "D_VOL-b001.MD5",
        "D_VOL-b001.spf.md5",
        "D_VOL-b001.spf.MD5",
    )


def test_a_digest_without_a_name_is_of_the_file_that_the_side_file_is_named_after(tmp_path: Path):
    path = tmp_path / "D_VOL-b001.spf"
    path.write_bytes(b"SPVB")
    path.with_suffix(".md5").write_text(HASH)
    assert expect([path]).doubt is None
    path.with_suffix(".md5").write_text(f"{HASH}\n{HASH}\n")
    assert expect([path]).doubt is not None


def test_what_is_no_regular_file_says_nothing(tmp_path: Path):
    path = tmp_path / "D_VOL-b001.spf"
    path.write_bytes(b"SPVB")
    side_file = path.with_suffix(".md5")
    for make in (side_file.mkdir, lambda: os.mkfifo(side_file), lambda: side_file.symlink_to(path)):
        make()
        expected = expect([path])
        assert expected.side_files == ("D_VOL-b001.md5",)
        assert expected.doubt is not None
        assert "D_VOL-b001.md5 is" in expected.doubt
        side_file.rmdir() if side_file.is_dir() else side_file.unlink()
    assert expect([path]).doubt == "no side file: cannot be verified"
