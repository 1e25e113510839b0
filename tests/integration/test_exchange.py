"""Importing and exporting disk images, held against qemu's own tools and e2fsck."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsr.exchange.formats import DiskFormat, recognise
from policies.errors import ConfigurationError, SourceError
from storage.chain import load_chain
from storage.scratch import runtime_folder
from tests.command import PROGRAM, Ran, in_this_process
from tests.commands import is_clean_ext4, run
from tests.failing_medium import needs_fuse

FORMATS = ("qcow2", "vhd", "vhdx", "vmdk")
SIZE = 24 << 20
DRIVERS = {"vhd": "vpc"}


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same ext4 disk in every format."""
    home = tmp_path_factory.mktemp("disks")
    raw = home / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(SIZE)
    tree = home / "tree"
    tree.mkdir()
    for number in range(20):
        (tree / f"f{number}").write_bytes(random.Random(number).randbytes(100_000 * (number % 3)))
    run("mkfs.ext4", "-q", "-F", "-d", str(tree), str(raw))
    made = {"raw": raw}
    for name in FORMATS:
        made[name] = home / f"disk.{name}"
        options = ["-o", "force_size=on"] if name == "vhd" else []
        run(
            "qemu-img",
            "convert",
            "-f",
            "raw",
            "-O",
            DRIVERS.get(name, name),
            *options,
            str(raw),
            str(made[name]),
        )
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir()
    return made


def bring_in(image: Path, folder: Path, *more: str | Path) -> Ran:
    return in_this_process("import", image, "--into", folder, "--volume", "V", *more)


def take_out(folder: Path, target: Path, name: str, *more: str | Path) -> Ran:
    return in_this_process("export", folder, "--volume", "V", "--to", target, "--format", name, *more)


def restored(folder: Path, target: Path) -> bytes:
    assert in_this_process("restore", folder, "--volume", "V", "--to", target, "--overwrite").code == 0
    return target.read_bytes()


@pytest.fixture(autouse=True)
def _own_runtime_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What other tests have there at the same time is none of ours."""
    with tempfile.TemporaryDirectory(prefix="rf-run-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield


def leftovers() -> list[str]:
    return [entry.name for entry in runtime_folder().glob("rollforward.[ie][mx]port.*")]


@needs_fuse
@pytest.mark.parametrize("name", ["raw", *FORMATS])
def test_in_and_out_again(name: str, disks: dict[str, Path], folder: Path, tmp_path: Path):
    ran = bring_in(disks[name], folder, "--json")
    assert ran.code == 0, str(ran)
    (told,) = ran.objects
    assert (told["kind"], told["format"], told["volume_bytes"]) == ("base", name, SIZE)
    (found,) = load_chain(folder).images
    assert found.header is not None
    assert found.header.metadata["source"] == str(disks[name])
    again = restored(folder, tmp_path / "x.raw")
    assert again == disks["raw"].read_bytes()
    assert is_clean_ext4(tmp_path / "x.raw")
    ran = take_out(folder, tmp_path / f"out.{name}", name, "--json")
    assert ran.code == 0, str(ran)
    (told,) = ran.objects
    assert (told["status"], told["volume_bytes"], told["disk_bytes"]) == ("exported", SIZE, SIZE)
    driver = DRIVERS.get(name, name)
    run("qemu-img", "compare", "-f", "raw", "-F", driver, str(disks["raw"]), str(tmp_path / f"out.{name}"))
    if name not in ("raw", "vhd"):  # qemu-img has no check for these two
        run("qemu-img", "check", "-f", driver, str(tmp_path / f"out.{name}"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["images", f"out.{name}", "x.raw"]
    assert b"rf-partial" not in (tmp_path / f"out.{name}").read_bytes()


@needs_fuse
def test_a_second_import_is_an_incremental(disks: dict[str, Path], folder: Path, tmp_path: Path):
    bring_in(disks["qcow2"], folder)
    changed = tmp_path / "changed.raw"
    content = bytearray(disks["raw"].read_bytes())
    content[5_000_000:5_000_512] = b"n" * 512
    changed.write_bytes(content)
    image = tmp_path / "changed.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(changed), str(image))
    ran = bring_in(image, folder, "--json")
    assert ran.objects[0]["kind"] == "incremental"
    assert ran.objects[0]["changed_bytes"] <= 1024
    assert restored(folder, tmp_path / "x.raw") == bytes(content)
    ran = bring_in(image, folder, "--differential", "--json")
    assert (ran.objects[0]["kind"], ran.objects[0]["changed_bytes"] <= 1024) == ("differential", True)
    ran = bring_in(image, folder, "--differential", "--of", "1", "--json")
    assert (ran.objects[0]["kind"], ran.objects[0]["changed_bytes"]) == ("differential", 0)
    assert restored(folder, tmp_path / "x.raw") == bytes(content)
    assert bring_in(image, folder, "--of", "1").code == 2
    assert not leftovers()


@needs_fuse
def test_encrypted_and_in_parts(disks: dict[str, Path], folder: Path, tmp_path: Path):
    secret = tmp_path / "password"
    secret.write_text("a password")
    secret.chmod(0o600)
    ran = bring_in(disks["vhdx"], folder, "--password-file", secret, "--part-size", "1M", "--json")
    assert ran.code == 0, str(ran)
    assert ran.objects[0]["parts"] > 1
    ran = take_out(folder, tmp_path / "x.qcow2", "qcow2")
    assert (ran.code, "password" in ran.errors) == (10, True), str(ran)
    assert not (tmp_path / "x.qcow2").exists()
    assert take_out(folder, tmp_path / "x.qcow2", "qcow2", "--password-file", secret).code == 0
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(disks["raw"]), str(tmp_path / "x.qcow2"))


@pytest.mark.parametrize("name", FORMATS)
def test_sizes_that_a_format_cannot_say(name: str, folder: Path, tmp_path: Path):
    raw = tmp_path / "odd.raw"
    raw.write_bytes(random.Random(1).randbytes(1_234_567))
    assert in_this_process("capture", raw, "--into", folder, "--volume", "V").code == 0
    ran = take_out(folder, tmp_path / "odd", name, "--json")
    assert ran.code == 0, str(ran)
    (told,) = ran.objects
    assert 0 < told["disk_bytes"] - told["volume_bytes"] < 1 << 20
    out = tmp_path / "out.raw"
    run("qemu-img", "convert", "-f", DRIVERS.get(name, name), "-O", "raw", str(tmp_path / "odd"), str(out))
    assert out.stat().st_size == told["disk_bytes"]
    assert out.read_bytes() == raw.read_bytes().ljust(told["disk_bytes"], b"\0")
    assert "larger than the volume" in take_out(folder, tmp_path / "odd", name, "--overwrite").output


def test_a_volume_too_large_for_vhd(folder: Path, tmp_path: Path):
    raw = tmp_path / "large.raw"
    raw.touch()
    os.truncate(raw, (2040 << 30) + 512)
    assert in_this_process("capture", raw, "--into", folder, "--volume", "V").code == 0
    ran = take_out(folder, tmp_path / "large.vhd", "vhd")
    assert (ran.code, "too large for VHD" in ran.errors, "VHDX" in ran.errors) == (2, True, True), str(ran)
    assert not (tmp_path / "large.vhd").exists()


def test_a_damaged_chain_is_named(disks: dict[str, Path], folder: Path, tmp_path: Path):
    assert in_this_process("capture", disks["raw"], "--into", folder, "--volume", "V").code == 0
    (base,) = folder.glob("*.spf")
    content = bytearray(base.read_bytes())
    content[len(content) // 2] ^= 1
    base.write_bytes(content)
    ran = take_out(folder, tmp_path / "x.qcow2", "qcow2")
    assert (ran.code, base.name in ran.errors) == (3, True), str(ran)
    assert "Traceback" not in ran.errors
    assert [entry.name for entry in tmp_path.iterdir()] == ["images"]
    assert not leftovers()


def test_targets_are_not_replaced_unless_told(disks: dict[str, Path], folder: Path, tmp_path: Path):
    in_this_process("capture", disks["raw"], "--into", folder, "--volume", "V")
    (tmp_path / "x.qcow2").write_text("mine")
    assert take_out(folder, tmp_path / "x.qcow2", "qcow2").code == 2
    assert (tmp_path / "x.qcow2").read_text() == "mine"
    assert take_out(folder, tmp_path / "x.qcow2", "qcow2", "--overwrite").code == 0
    run("qemu-img", "check", "-f", "qcow2", str(tmp_path / "x.qcow2"))


# --- images that lie, or lead elsewhere


def test_a_raw_disk_that_plays_qcow2(disks: dict[str, Path], folder: Path, tmp_path: Path):
    """A guest wrote a qcow2 header into its raw disk, with a secret of the host as its backing file."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 1000)
    masked = tmp_path / "guest.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(secret), str(masked))
    disk = tmp_path / "guest.raw"
    disk.write_bytes(masked.read_bytes())
    ran = bring_in(disk, folder)
    assert (ran.code, "--format" in ran.errors) == (2, True), str(ran)
    ran = bring_in(disk, folder, "--format", "raw")  # then it is what the guest saw
    assert ran.code == 0, str(ran)
    assert restored(folder, tmp_path / "x.raw") == disk.read_bytes()
    for image, more in ((disk, ("--format", "qcow2")), (masked, ())):
        ran = bring_in(image, folder, *more)
        assert (ran.code, "names a backing file" in ran.errors) == (2, True), str(ran)
    assert len(load_chain(folder).images) == 1


@needs_fuse
def test_backing_files_are_followed_when_told(disks: dict[str, Path], folder: Path, tmp_path: Path):
    overlay = tmp_path / "overlay.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(disks["qcow2"]), str(overlay))
    assert bring_in(overlay, folder, "--follow").code == 0
    assert restored(folder, tmp_path / "x.raw") == disks["raw"].read_bytes()


def test_external_data_files_extents_and_parents(disks: dict[str, Path], folder: Path, tmp_path: Path):
    raw = str(disks["raw"])
    outside = tmp_path / "outside.qcow2"
    run(
        "qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path / 'd.raw'}", str(outside), "1M"
    )
    flat = tmp_path / "flat.vmdk"
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat", raw, str(flat))
    stolen = tmp_path / "stolen.vmdk"
    stolen.write_text('# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\nRW 8 FLAT "/etc/shadow" 0\n')
    child = tmp_path / "child.vmdk"
    run("qemu-img", "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", str(disks["vmdk"]), str(child))
    differencing = tmp_path / "differencing.vhd"
    content = bytearray(disks["vhd"].read_bytes())
    for at in (0, len(content) - 512):
        struct.pack_into(">I", content, at + 60, 4)
    differencing.write_bytes(content)
    for image, word in (
        (outside, "external data file"),
        (flat, "flat-flat.vmdk"),
        (stolen, "/etc/shadow"),
        (child, "a parent"),
        (differencing, "a parent"),
    ):
        ran = bring_in(image, folder)
        assert (ran.code, word in ran.errors, "--follow" in ran.errors) == (2, True, True), str(ran)
    assert not list(folder.glob("*.sp?"))
    if Path("/dev/fuse").exists():
        assert bring_in(flat, folder, "--follow").code == 0


def test_formats_told_by_name_and_content(disks: dict[str, Path], tmp_path: Path):
    for name, path in disks.items():
        assert recognise(path).format == name
        assert recognise(path, DiskFormat(name)).others == ()
        other = tmp_path / f"x{path.suffix}.img"
        other.write_bytes(path.read_bytes())
        if name != "raw":
            with pytest.raises(ConfigurationError, match="looks like"):
                recognise(other)
            assert recognise(other, DiskFormat(name)).format == name
            with pytest.raises(SourceError, match="is no"):
                recognise(disks["raw"], DiskFormat(name))
    empty = tmp_path / "empty.raw"
    empty.touch()
    assert recognise(empty).format is DiskFormat.RAW
    for size in (4, 20, 70):
        (tmp_path / "short.qcow2").write_bytes(disks["qcow2"].read_bytes()[:size])
        with pytest.raises(SourceError):
            recognise(tmp_path / "short.qcow2")


@needs_fuse
def test_an_image_that_qemu_cannot_open(disks: dict[str, Path], folder: Path, tmp_path: Path):
    broken = tmp_path / "broken.qcow2"
    content = bytearray(disks["qcow2"].read_bytes())
    content[20:24] = b"\xff\xff\xff\xff"  # bits of a cluster
    broken.write_bytes(content)
    ran = bring_in(broken, folder)
    assert (ran.code, "cannot be opened by qemu" in ran.errors, str(broken) in ran.errors) == (
        5,
        True,
        True,
    ), str(ran)
    assert not leftovers()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_export_that_is_stopped(number: signal.Signals, folder: Path, tmp_path: Path):
    """Nothing under the target's name, and qemu-img ends, too."""
    raw = tmp_path / "v.raw"
    piece = random.Random(2).randbytes(8 << 20)
    raw.write_bytes(b"".join(piece[turn:] + piece[:turn] for turn in range(20)))
    in_this_process("capture", raw, "--into", folder, "--volume", "V")
    target = tmp_path / "x.qcow2"
    words = ("export", str(folder), "--volume", "V", "--to", str(target), "--format", "qcow2")
    running = subprocess.Popen([PROGRAM, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: any("rf-partial" in entry.name for entry in tmp_path.iterdir()))
    running.send_signal(number)
    running.wait()
    wait_until(lambda: not qemu_processes(tmp_path))
    assert not target.exists()
    assert in_this_process(*words).code == 0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["images", "v.raw", "x.qcow2"]
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(raw), str(target))


def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def qemu_processes(home: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes()
        except OSError:
            continue
        if b"qemu" in line and os.fsencode(home) in line and b"pytest" not in line:
            found.append(line.decode())
    return found


def test_without_qemu(disks: dict[str, Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    in_this_process("capture", disks["raw"], "--into", folder, "--volume", "V")
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = take_out(folder, tmp_path / "x.qcow2", "qcow2", "--json")
    assert ran.code == 2
    assert json.loads(ran.output)["reason"] == "qemu-img is not installed"
    assert "qemu-utils" in json.loads(ran.output)["hint"]
