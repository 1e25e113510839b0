"""`rollforward serve` as people call it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.command import PROGRAM, in_this_process
from tests.commands import run
from tests.serving import serving
from tests.unit.tiny import TinyVolume, noise

MIB = 1 << 20


@pytest.fixture
def captured(tiny: TinyVolume) -> TinyVolume:
    tiny.put(0, noise(MIB, 1) + bytes(MIB) + noise(MIB, 2))
    tiny.capture()
    return tiny


def assert_is_volume(uri: str, volume: TinyVolume) -> None:
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(volume.raw), uri)


def test_a_socket_of_its_own_is_gone_afterwards(captured: TinyVolume) -> None:
    with serving(captured.folder, captured.name) as uri:
        socket = Path(uri.partition("socket=")[2])
        assert socket.is_socket()
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        assert_is_volume(uri, captured)
    assert not socket.parent.exists()


def test_a_killed_server_leaves_nothing_for_long(captured: TinyVolume) -> None:
    command = [PROGRAM, "serve", str(captured.folder), "--volume", captured.name, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = Path(json.loads(process.stdout.readline())["uri"].partition("socket=")[2]).parent
        process.kill()
    assert left.is_dir()
    with serving(captured.folder, captured.name):
        assert not left.exists()


def test_a_port_on_loopback(captured: TinyVolume) -> None:
    with serving(captured.folder, captured.name, "--listen", "127.0.0.1:0") as uri:
        assert_is_volume(uri, captured)


@pytest.mark.parametrize("wrap", ["mbr", "gpt"])
def test_a_wrapped_volume_is_a_disk(captured: TinyVolume, wrap: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with serving(captured.folder, captured.name, "--wrap", wrap) as uri:
        run("nbdcopy", uri, str(copy))
    table = json.loads(run("sfdisk", "--json", str(copy)))["partitiontable"]
    assert table["label"] == {"mbr": "dos", "gpt": "gpt"}[wrap]
    (part,) = table["partitions"]
    assert copy.read_bytes()[part["start"] * 512 :][: 3 * MIB] == captured.raw.read_bytes()


def test_encrypted_and_in_parts(tiny: TinyVolume, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("a password")
    password.chmod(0o600)
    options = ("--volume", tiny.name, "--password-file", str(password))
    for number in range(2):
        tiny.put(number * MIB, noise(2 * MIB, number))
        ran = in_this_process("capture", tiny.raw, "--into", tiny.folder, *options, "--part-size", "1M")
        assert ran.code == 0, str(ran)
    assert list(tiny.folder.glob("*.sp1"))
    with serving(tiny.folder, tiny.name, "--password-file", password) as uri:
        assert_is_volume(uri, tiny)
    password.write_text("another")
    ran = in_this_process("serve", tiny.folder, *options)
    assert ran.code not in (0, 1), str(ran)
    assert "password" in ran.errors


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:10809"])
def test_the_network_takes_tls(captured: TinyVolume, address: str) -> None:
    ran = in_this_process("serve", captured.folder, "--volume", captured.name, "--listen", address)
    assert ran.code == 2
    assert "not a loopback address" in ran.errors


@pytest.mark.parametrize(
    "wrong", [("--listen", "localhost"), ("--listen", "127.0.0.1:99999"), ("--point", "7")]
)
def test_what_cannot_be_is_said(captured: TinyVolume, wrong: tuple[str, str]) -> None:
    ran = in_this_process("serve", captured.folder, "--volume", captured.name, *wrong)
    assert ran.code in (2, 4), str(ran)
    assert "Traceback" not in ran.errors
