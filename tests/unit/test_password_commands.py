"""Passwords on the command line: files, the environment, prompts; changing, adding and removing them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ops.passwords import VARIABLE, PasswordSource, normal_password, read_password
from policies.errors import StorageError
from storage import key_files, keys
from tests.command import PROGRAM, in_this_process
from tests.unit.tiny import BLOCK, noise


@pytest.fixture(autouse=True)
def _cheap_guesses(monkeypatch):
    monkeypatch.setattr(keys, "RECOMMENDED_COST", keys.KdfCost(memory_kib=64, passes=1, lanes=1))
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def place(quick_path, monkeypatch) -> Path:
    """A folder with a raw file, a folder for images, and three password files; it is the current one."""
    monkeypatch.chdir(quick_path)
    Path("images").mkdir()
    Path("disk.raw").write_bytes(noise(2 * BLOCK))
    for name, content in {"old": b"old one\n", "new": b"new one\r\n", "third": b"third"}.items():
        Path(name).touch(mode=0o600)
        Path(name).write_bytes(content)
    return quick_path


def capture(*arguments):
    return in_this_process("capture", "disk.raw", "--into", "images", "--volume", "D", *arguments)


def restore(*arguments):
    return in_this_process("restore", "images", "--volume", "D", "--to", "x.raw", "--overwrite", *arguments)


def password(what, *arguments):
    return in_this_process("password", what, "images", "--volume", "D", *arguments)


def opens(name) -> bool:
    ran = restore("--password-file", name)
    assert ran.code in (0, 10), str(ran)
    if ran.code == 0:
        assert Path("x.raw").read_bytes() == Path("disk.raw").read_bytes()
    return ran.code == 0


def test_a_password_file_encrypts_and_opens(place):
    assert capture("--password-file", "old").code == 0
    assert sorted(path.name for path in Path("images").iterdir()) == [
        ".rollforward",
        "D-b001.spf",
        "D-b001.spk",
    ]
    assert opens("old")
    assert not opens("new")
    ran = restore()
    assert (ran.code, "no terminal to ask at" in ran.errors) == (10, True)


def test_the_environment_names_a_password_file(place, monkeypatch):
    monkeypatch.setenv(VARIABLE, "old")
    assert capture().code == 0
    assert capture().code == 0
    assert restore().code == 0
    assert in_this_process("verify", "images", "--deep").code == 0
    assert restore("--password-file", "new").code == 10, "what the command line says counts first"


def test_what_needs_no_password_does_not_ask(place):
    for number in range(3):
        Path("disk.raw").write_bytes(noise(2 * BLOCK, number))
        assert capture("--password-file", "old").code == 0
    assert in_this_process("verify", "images").code == 0
    told = in_this_process("chain", "images")
    assert (told.code, told.output.splitlines()[0].endswith(", encrypted")) == (0, True)
    assert all(line["encrypted"] for line in in_this_process("chain", "images", "--json").objects)
    merge = ("consolidate", "images", "--volume", "D", "--upto", "2")
    assert in_this_process(*merge, "--after", "0", "--tier", "daily").code == 0
    assert in_this_process(*merge, "--full").code == 0
    assert opens("old")
    assert in_this_process("verify", "images", "--deep").code == 10


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o666])
def test_a_password_file_that_everybody_may_read_is_refused(place, mode):
    Path("old").chmod(mode)
    ran = capture("--password-file", "old")
    assert (ran.code, "chmod 600 old" in ran.errors) == (2, True), str(ran)
    assert "old one" not in ran.errors
    assert not list(Path("images").glob("*.sp*"))


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n", b"x" * 1025])
def test_a_file_that_holds_no_password_is_refused(place, content):
    Path("old").write_bytes(content)
    assert capture("--password-file", "old").code == 2
    assert capture("--password-file", "gone").code == 2
    assert capture("--password-file", "images").code == 2


def test_what_counts_of_a_password_file(place):
    for content, wanted in [
        (b"a b ", b"a b "),
        (b"a\n\n", b"a\n"),
        (b"\xff\n", b"\xff"),
        ("Gru\u0308n".encode(), "Gr\u00fcn".encode()),
        (b"x" * 1024 + b"\r\n", b"x" * 1024),
        (b"\xef\xbb\xbfa\r\n", b"a"),
        (b"\xef\xbb\xbf" + b"x" * 1024 + b"\r\n", b"x" * 1024),
    ]:
        Path("old").write_bytes(content)
        assert read_password(Path("old")) == wanted
    assert normal_password(b"\xff") == b"\xff"


def test_a_pipe_serves_as_a_password_file(place):
    reader, writer = os.pipe()
    os.write(writer, b"old one\n")
    os.close(writer)
    source = PasswordSource(Path(f"/dev/fd/{reader}"))
    assert [source.known("D"), source.known("E"), source.new("F")] == [b"old one"] * 3
    os.close(reader)


def test_a_password_that_a_plain_chain_has_no_use_for(place):
    assert capture().code == 0
    for ran in (restore("--password-file", "old"), capture("--password-file", "old"), capture("--encrypt")):
        assert (ran.code, "not encrypted" in ran.errors) == (2, True), str(ran)
    assert restore().code == 0
    assert in_this_process("verify", "images", "--deep", "--password-file", "old").code == 0
    assert password("change", "--password-file", "old", "--new-password-file", "new").code == 2


def test_a_medium_that_fails_under_the_key_file_keeps_nobody_from_reading(place, monkeypatch):
    assert capture("--password-file", "old").code == 0

    def fail(path):
        raise StorageError("cannot be read: Input/output error", path=str(path))

    monkeypatch.setattr(key_files, "load_key_file", fail)
    assert opens("old")
    ran = restore("--password-file", "third")
    assert (ran.code, "the key file cannot be read" in ran.errors) == (10, True), str(ran)
    slots = Path("images/D-b001.spk").read_bytes()
    for ran in (
        capture("--password-file", "old"),
        password("change", "--password-file", "old", "--new-password-file", "new"),
    ):
        assert ran.code != 0
        assert "Input/output error" in ran.errors
    assert Path("images/D-b001.spk").read_bytes() == slots


def test_change(place):
    assert capture("--password-file", "old").code == 0
    image = Path("images/D-b001.spf").read_bytes()
    ran = password("change", "--password-file", "old", "--new-password-file", "new", "--json")
    assert ran.code == 0, str(ran)
    (line,) = ran.objects
    assert (line["kind"], line["base"], line["status"]) == ("keys", 1, "written")
    assert [opens(name) for name in ("old", "new")] == [False, True]
    assert Path("images/D-b001.spf").read_bytes() == image
    assert password("change", "--password-file", "third", "--new-password-file", "old").code == 10
    assert opens("new")


def test_add_and_remove(place):
    assert capture("--password-file", "old").code == 0
    assert password("add", "--password-file", "old", "--new-password-file", "new").code == 0
    assert [opens(name) for name in ("old", "new", "third")] == [True, True, False]
    assert password("remove", "--password-file", "old").code == 0
    assert [opens(name) for name in ("old", "new")] == [False, True]
    ran = password("remove", "--password-file", "new")
    assert (ran.code, "only password" in ran.errors) == (2, True)
    assert opens("new")


def test_all_chains_of_a_volume_are_changed_and_an_interruption_is_made_up_for(place):
    for more in ([], ["--new-base"], ["--new-base"]):
        assert capture("--password-file", "old", *more).code == 0
    change = ("--password-file", "old", "--new-password-file", "new")
    assert password("change", *change, "--base", "2").code == 0  # as if it had been stopped there
    ran = password("change", *change)
    assert ran.code == 0, str(ran)
    for base in ("1", "2", "3"):
        assert restore("--base", base, "--password-file", "new").code == 0
        assert restore("--base", base, "--password-file", "old").code == 10
    assert password("change", *change).code == 10


def test_no_password_is_an_argument(place):
    assert restore("--password", "secret").code == 2


def test_nobody_is_asked_where_there_is_no_standard_input(place, monkeypatch):
    assert capture("--password-file", "old").code == 0
    monkeypatch.setattr("sys.stdin", None)
    ran = restore()
    assert (ran.code, "no terminal to ask at" in ran.errors) == (10, True), str(ran)


def test_prompts(place):
    """At a terminal: twice for a new one, again where the two differ, never shown; once to open it."""
    take = [PROGRAM, "capture", "disk.raw", "--into", "images", "--volume", "D", "--encrypt"]
    shown = at_a_terminal(take, ["Hase", "Igel", "Hase", "Hase"])
    assert "do not match" in shown
    assert "Hase" not in shown
    assert Path("images/D-b001.spk").exists()
    shown = at_a_terminal([PROGRAM, "restore", "images", "--volume", "D", "--to", "y.raw"], ["Hase"])
    assert Path("y.raw").read_bytes() == Path("disk.raw").read_bytes()
    shown = at_a_terminal([PROGRAM, "restore", "images", "--volume", "D", "--to", "z.raw"], ["Igel"])
    assert "the password is wrong" in shown
    assert not Path("z.raw").exists()


def at_a_terminal(command, answers) -> str:
    """Run a command at a terminal of its own, answer each question as it comes, return all that it shows."""
    ours, theirs = os.openpty()
    ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen(["setsid", "--ctty", "--wait", *command], **ends)
    os.close(theirs)
    waiting, shown = list(answers), ""
    while True:
        try:
            shown += os.read(ours, 4096).decode()
        except OSError:  # nobody is at the other end: the command is over
            break
        if waiting and shown.rstrip(" ").endswith(":"):
            os.write(ours, waiting.pop(0).encode() + b"\n")
    process.wait()
    os.close(ours)
    return shown
