"""Raw files that somebody writes to, and commands around a capture that cannot be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.errors import ConfigurationError, SourceError
from storage.capture import capture
from tests.command import in_this_process
from tests.guest import new_disk, running_guest
from tests.unit.tiny import BLOCK, START, TinyVolume, names, noise


@pytest.fixture
def tiny(tmp_path: Path) -> TinyVolume:
    return TinyVolume(tmp_path)


def test_the_disk_of_a_running_guest_is_in_use(tiny, tmp_path):
    disk = tmp_path / "disk.raw"
    new_disk(disk, noise(8 * BLOCK), "raw")
    with running_guest(tmp_path, disk):
        for command in ("capture", "import"):
            ran = in_this_process(command, disk, "--into", tiny.folder, "--volume", "V")
            assert (ran.code, "running virtual machine" in ran.errors) == (5, True), str(ran)
            assert "--qmp" in ran.errors
        vouched = ("--before", "true", "--after", "true")
        assert in_this_process("capture", disk, "--into", tiny.folder, "--volume", "V", *vouched).code == 0
    assert in_this_process("capture", disk, "--into", tiny.folder, "--volume", "V").code == 0


@pytest.mark.parametrize("is_first", [True, False])
def test_a_file_that_is_written_to_meanwhile_is_no_one_state(tiny, is_first):
    if not is_first:
        tiny.capture_states([noise(100 * BLOCK, 1)])
    tiny.raw.write_bytes(noise(100 * BLOCK))
    before = names(tiny.folder)

    def write(_done: int, _total: int) -> None:
        tiny.put(50 * BLOCK, b"meanwhile")

    with pytest.raises(SourceError, match="written to while it was read"):
        capture(tiny.raw, tiny.folder, tiny.name, now=START, progress=write)
    assert set(names(tiny.folder)) <= {*before, ".rollforward"}
    tiny.capture()
    tiny.check()


@pytest.mark.parametrize("option", ["--before", "--after"])
@pytest.mark.parametrize(
    ("command", "words"), [("echo 'no end", "no closing quotation"), ("", "is empty"), (" ", "is empty")]
)
def test_commands_that_cannot_be_read_stop_all_before_it_begins(tiny, tmp_path, option, command, words):
    tiny.raw.write_bytes(noise(1000))
    other = {"--before": "--after", "--after": "--before"}[option]
    ran = in_this_process(
        "capture", tiny.raw, "--into", tiny.folder, "--volume", "V",
        option, command, other, f"touch {tmp_path / 'ran'}",
    )  # fmt: skip
    assert (ran.code, words in ran.errors) == (2, True), str(ran)
    assert not (tmp_path / "ran").exists()
    assert names(tiny.folder) == []


def test_such_commands_are_errors_of_configuration():
    from ops.hooks import Hooks

    with pytest.raises(ConfigurationError), Hooks(None, 'a "', 1.0).around():
        raise AssertionError("nothing should have begun")
