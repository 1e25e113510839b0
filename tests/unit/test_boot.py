"""`rollforward boot`: a guest runs on a point, writes to an overlay, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from storage.qmp import QmpClient
from storage.scratch import scratch_folder
from tests.checks.serving import BOOT_SECTOR
from tests.command import PROGRAM, in_own_process, in_this_process
from tests.commands import run
from tests.loop import needs_root
from tests.unit.tiny import Password, TinyVolume, noise
from tests.waiting import wait_for

SECTOR = BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa"
WORDS = "booted from a backup"


@pytest.fixture
def startable(tiny: TinyVolume) -> TinyVolume:
    tiny.put(0, SECTOR + bytes(4 << 20))
    tiny.capture()
    return tiny


class Booted:
    """A running `rollforward boot`."""

    def __init__(self, process: subprocess.Popen[str], told: dict[str, Any], serial: Path) -> None:
        self.process, self.told, self.serial = process, told, serial

    def hears(self, words: str = WORDS) -> None:
        wait_for(lambda: words in self.serial.read_text(), f"{words!r} on the console")

    def end(self, number: signal.Signals = signal.SIGINT) -> str:
        self.process.send_signal(number)
        return self.process.communicate()[0]

    @property
    def machine(self) -> int:
        """Process id of the qemu that it runs."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (found,) = children
        return int(found)


@contextlib.contextmanager
def booted(volume: TinyVolume, *options: str | Path, errors: Path | None = None) -> Iterator[Booted]:
    serial = volume.folder.parent / "console"
    serial.unlink(missing_ok=True)
    room = room_of(volume)
    room.mkdir(exist_ok=True)
    rooms = {"XDG_RUNTIME_DIR": str(room), "TMPDIR": os.environ.get("TMPDIR", str(room))}
    command = [PROGRAM, "boot", str(volume.folder), "--volume", volume.name, "--serial", str(serial), "--json",
               "--accelerator", "tcg", "--memory", "64", *map(str, options)]  # fmt: skip
    with (
        (errors or Path(os.devnull)).open("w") as complaints,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=complaints, text=True, env=os.environ | rooms
        ) as process,
    ):
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, "nothing was started"
            yield Booted(process, json.loads(line), serial)
        finally:
            process.kill()


def room_of(volume: TinyVolume) -> Path:
    """Say where scratch folders of guests of a volume are."""
    return volume.folder.parent / "room"


@pytest.mark.parametrize("bus", ["sata", "virtio", "scsi", "ide"])
def test_a_point_is_started(startable: TinyVolume, bus: str) -> None:
    startable.put(0, bytes(1 << 20))
    startable.capture()
    with booted(startable, "--point", "0", "--bus", bus) as guest:
        guest.hears()
        assert guest.told["status"] == "running"
        assert guest.told["number"] == 0
        assert guest.told["ready_s"] < 60
        guest.end()
        assert guest.process.returncode == 130
    assert list(room_of(startable).iterdir()) == []
    startable.check()


@pytest.mark.parametrize("wrap", ["mbr", "gpt"])
def test_a_wrapped_volume_is_started(startable: TinyVolume, wrap: str) -> None:
    with booted(startable, "--wrap", wrap) as guest:
        guest.hears()


def test_killed_with_no_time_to_tidy_up(startable: TinyVolume) -> None:
    with booted(startable) as guest:
        guest.hears()
        machine = guest.machine
        fds = [str(entry.readlink()) for entry in Path(f"/proc/{machine}/fd").iterdir()]
        (overlay,) = {name for name in fds if "overlay.qcow2" in name}
        assert overlay.endswith(" (deleted)")
        arguments = Path(f"/proc/{machine}/cmdline").read_bytes()
        assert b"sandbox\0on" in arguments
        guest.end(signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{machine}/fd").exists() or not any_open(machine), "qemu to end")
    room = room_of(startable)
    assert {entry.name.split(".")[1] for entry in room.iterdir()} == {"guest", "serve"}
    with scratch_folder("boot", room) as folder:
        assert list(room.iterdir()) == [folder], "the next command sweeps away what was left"


def any_open(pid: int) -> bool:
    try:
        return any(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def test_an_overlay_is_kept_and_gone_on_with(startable: TinyVolume, tmp_path: Path) -> None:
    kept = tmp_path / "kept, it is.qcow2"
    with booted(startable, "--keep-overlay", kept) as guest:
        guest.hears()
        guest.end()
    alone = {"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": str(kept)}}
    run("qemu-img", "check", "-q", f"json:{json.dumps(alone)}")
    assert kept.read_bytes().count(SECTOR) == 2, "the guest writes its sector over the next one"
    with booted(startable, "--keep-overlay", kept) as guest:
        guest.hears()
        guest.end()
    startable.put(2 << 20, b"another point")
    startable.capture()
    ran = in_this_process("boot", startable.folder, "--volume", startable.name, "--keep-overlay", kept)
    assert ran.code == 2
    assert "no overlay of this point" in ran.errors
    startable.check()


def test_others_control_it_and_it_ends_by_itself(startable: TinyVolume, tmp_path: Path) -> None:
    control = tmp_path / "q,mp"
    with booted(startable, "--qmp", control) as guest:
        guest.hears()
        with QmpClient(control) as qmp:
            nodes = qmp.execute("query-named-block-nodes", flat=True)
            assert isinstance(nodes, list)
            assert "disk0" in {node["node-name"] for node in nodes}
            assert qmp.execute("query-rx-filter") == [], "it has no network"
            qmp.execute("quit")
        assert '"status": "ended"' in guest.process.communicate()[0]
        assert guest.process.returncode == 0


OFF = bytes.fromhex("31c0 8ed8 baf803 be1a7c ac 84c0 7403 ee ebf8 ba0406 b80020 ef f4") + b"switching off\n\0"


def test_a_guest_that_switches_itself_off_ends_it(tiny: TinyVolume) -> None:
    tiny.put(0, OFF.ljust(510, b"\0") + b"\x55\xaa" + bytes(4 << 20))
    tiny.capture()
    with booted(tiny) as guest:
        guest.hears("switching off")
        assert '"status": "ended"' in guest.process.communicate()[0]
        assert guest.process.returncode == 0


def test_or_leaves_its_disk_to_be_captured(tiny: TinyVolume, tmp_path: Path) -> None:
    tiny.put(0, OFF.ljust(510, b"\0") + b"\x55\xaa" + bytes(4 << 20))
    tiny.capture()
    control = tmp_path / "qmp"
    with booted(tiny, "--stay", "--qmp", control) as guest:
        with QmpClient(control) as qmp:
            wait_for(lambda: "shutdown" in str(qmp.execute("query-status")), "it to be switched off")
        ran = in_own_process("capture", "--qmp", control, "--node", "disk0", "--scratch", tiny.folder.parent,
                             "--into", tiny.folder, "--volume", tiny.name)  # fmt: skip
        assert ran.code == 0, str(ran)
        guest.end()
    tiny.states[1] = tiny.states[0]
    tiny.check(1)


WRITES = (
    bytes.fromhex(
        "31c08ed88ec08ed0bc007cbe557ce8380031ff83c740505050576a0068007c6a406a1089e6b280b80043cd"
        "13b800008d6410720b81ffc03f72d9be667ceb03be737ce80400faf4ebfcbaf803ac84c07403eeebf8c3"
    )
    + b"begins to write\n\0has written\n\0was refused\n\0"
)
"""Writes 8 MiB, 32 KiB at once."""


@needs_root
def test_a_full_disk_lets_it_stand_still_until_there_is_room(tiny: TinyVolume, tmp_path: Path) -> None:
    tiny.put(0, WRITES.ljust(510, b"\0") + b"\x55\xaa" + bytes(10 << 20))
    tiny.capture()
    room = tmp_path / "room"
    room.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=3M", "tmpfs", str(room))
    told = tmp_path / "errors"
    try:
        with patch.dict(os.environ, {"TMPDIR": str(room)}), booted(tiny, errors=told) as guest:
            guest.hears("begins to write")
            wait_for(lambda: "no room" in told.read_text(), "the command to say so")
            assert "was refused" not in guest.serial.read_text()
            run("mount", "-o", "remount,size=64M", str(room))
            guest.hears("has written")
            guest.end()
        assert told.read_text().count("no room") == 1
        run("mount", "-o", "remount,size=3M", str(room))
        with patch.dict(os.environ, {"TMPDIR": str(room)}):
            options = ("--boot", "--marker", "has written", "--accelerator", "tcg", "--memory", "64")
            ran = in_own_process("test-restore", tiny.folder, "--volume", tiny.name, *options)
        assert ran.code == 6
        assert "no room" in ran.errors
    finally:
        run("umount", str(room))
    tiny.check()


def test_an_encrypted_point_is_started_and_its_password_is_nobodys(quick_path: Path) -> None:
    volume = TinyVolume(quick_path / "locked", password=Password(b"open sesame"))
    volume.put(0, SECTOR + bytes(4 << 20))
    volume.capture()
    password = quick_path / "password"
    password.write_bytes(b"open sesame")
    password.chmod(0o600)
    with booted(volume, "--password-file", password) as guest:
        guest.hears()
        for pid in (guest.process.pid, guest.machine):
            for entry in ("cmdline", "environ"):
                assert b"sesame" not in Path(f"/proc/{pid}/{entry}").read_bytes()


def test_damage_is_told_of(tiny: TinyVolume, tmp_path: Path) -> None:
    tiny.put(0, WRITES.ljust(510, b"\0") + b"\x55\xaa" + bytes(10 << 20))
    tiny.put(4 << 20, noise(4 << 20))
    tiny.capture()
    with tiny.image().open("r+b") as image:
        image.seek(3 << 20)
        image.write(b"damage")
    told = tmp_path / "errors"
    with booted(tiny, errors=told) as guest:
        guest.hears("was refused")
        guest.end()
    assert f"met damage: {tiny.image()}" in told.read_text()
    options = ("--boot", "--marker", "was refused", "--accelerator", "tcg", "--memory", "64", "--json")
    ran = in_this_process("test-restore", tiny.folder, "--volume", tiny.name, *options)
    assert ran.code == 3
    (line,) = ran.objects
    assert line["status"] == "error"
    assert str(tiny.image()) in line["reason"]


@pytest.mark.parametrize("option", ["--serial", "--qmp", "--keep-overlay"])
def test_nothing_that_is_there_is_overwritten(startable: TinyVolume, tmp_path: Path, option: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    ran = in_this_process("boot", startable.folder, "--volume", startable.name, option, precious)
    assert ran.code == 2
    assert precious.read_text() == "mine"
    ran = in_this_process(
        "test-restore", startable.folder, "--volume", startable.name, "--boot", "--screenshot", precious
    )
    assert ran.code == 2
    assert precious.read_text() == "mine"


@pytest.mark.parametrize(
    "wrong",
    [
        ("--vnc", "0.0.0.0:5901"),
        ("--vnc", "127.0.0.1:80"),
        ("--network", "bridge:"),
        ("--network", "else"),
        ("--point", "9"),
        ("--keep-overlay", "/dev/null"),
    ],
)
def test_what_cannot_be_is_said(startable: TinyVolume, wrong: tuple[str, str]) -> None:
    ran = in_this_process("boot", startable.folder, "--volume", startable.name, *wrong)
    assert ran.code in (2, 4), str(ran)
    assert "Traceback" not in ran.errors
