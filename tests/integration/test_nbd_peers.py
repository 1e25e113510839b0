"""Captures from the NBD servers that people have: qemu-nbd, with and without bitmaps, nbdkit, and our own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import in_this_process as rollforward
from tests.commands import run, tool
from tests.serving import serving
from tests.unit.tiny import TinyVolume, noise

MIB = 1 << 20


@pytest.fixture
def tiny(tmp_path: Path) -> TinyVolume:
    return TinyVolume(tmp_path)


@contextlib.contextmanager
def served(socket: Path, *command: str) -> Iterator[str]:
    with subprocess.Popen([tool(command[0]), *command[1:]]) as server:
        try:
            while not socket.exists():
                assert server.poll() is None, f"{command[0]} did not start"
            yield f"nbd+unix:///?socket={socket}"
        finally:
            server.terminate()
    socket.unlink(missing_ok=True)


def captured(tiny: TinyVolume, uri: str, *options: str) -> dict[str, object]:
    done = rollforward("capture", uri, "--into", tiny.folder, "--volume", tiny.name, "--json", *options)
    assert done.code == 0, done.errors + done.output
    told: dict[str, object] = done.objects[0]
    return told


def test_a_qcow2_with_a_bitmap_through_qemu_nbd(tiny, tmp_path):
    disk, socket = tmp_path / "disk.qcow2", tmp_path / "s"
    command = ("qemu-nbd", "--read-only", "--persistent", "--socket", str(socket), "--format", "qcow2")
    tiny.raw.write_bytes(noise(3 * MIB) + bytes(29 * MIB))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(tiny.raw), str(disk))
    with served(socket, *command, str(disk)) as uri:
        base = captured(tiny, uri)
    bitmap = f"rf-{base['point'][:16]}"
    run("qemu-img", "bitmap", "--add", str(disk), bitmap)
    for step in ("write -P 7 1M 9000", "write -z 2M 64k", "write -P 9 20M 512", "discard 0 64k"):
        run("qemu-io", "-f", "qcow2", "-c", step, str(disk))
    with served(socket, *command, "--bitmap", bitmap, str(disk)) as uri:
        made = captured(tiny, uri, "--bitmap", bitmap)
        refused = rollforward(
            "capture", uri, "--bitmap", bitmap, "--into", tiny.folder, "--volume", tiny.name
        )
    assert (made["read"], refused.code) == ("marked", 5)
    assert "--or-whole" in refused.errors
    tiny.restore(1, tmp_path / "restored.raw")
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(disk), str(tmp_path / "restored.raw"))


def test_points_that_we_serve_ourselves(tiny):
    tiny.capture_states([noise(2 * MIB) + bytes(9 * MIB), noise(MIB, 1) + bytes(3 * MIB) + noise(700, 2)])
    other = TinyVolume(tiny.folder.parent / "other")
    socket = tiny.folder.parent / "s"
    for point in (0, 1):
        with serving(tiny.folder, tiny.name, "--point", str(point), "--socket", socket) as uri:
            captured(other, uri)
        other.states[point] = tiny.states[point]
    other.check()


def test_nbdkit(tiny, tmp_path):
    tiny.raw.write_bytes(noise(2 * MIB) + bytes(9 * MIB) + noise(512))
    socket = tmp_path / "s"
    with served(
        socket, "nbdkit", "--readonly", "--foreground", "--unix", str(socket), "file", str(tiny.raw)
    ) as uri:
        captured(tiny, uri)
        assert captured(tiny, uri)["changed_bytes"] == 0
    tiny.states[0] = tiny.raw.read_bytes()
    tiny.check()
