"""Images that lie to whoever opens them, and exports of chains whose damage the point does not show."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hsr.exchange.formats import DiskFormat, recognise
from tests.command import in_this_process
from tests.commands import run
from tests.failing_medium import needs_fuse
from tests.unit.forge import take_apart
from tests.unit.tiny import BLOCK, TinyVolume, noise

SECRET = b"secret!!" * 512
EXTENTS = (
    'RW 8 FLAT "{secret}" 0',
    'RW +8 FLAT "{secret}" 0',
    'RW 8FLAT "{secret}" 0',
    'RW\t8\nFLAT\t"{secret}" 0',
    'RW 8 "FLAT "{secret}" 0',
)
"""Ways to name a file of the host in a descriptor, not all of them as the specification has it."""


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    return path


def descriptor(extent: str, secret: Path) -> bytes:
    named = extent.format(secret=secret)
    head = '# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
    return f'{head}{named}\nddb.adapterType = "ide"\n'.encode()


@needs_fuse
@pytest.mark.parametrize("extent", EXTENTS)
@pytest.mark.parametrize("is_embedded", [False, True])
def test_a_descriptor_names_no_file_of_the_host(tmp_path, secret, extent, is_embedded):
    image, folder = tmp_path / "stolen.vmdk", tmp_path / "images"
    folder.mkdir()
    content = descriptor(extent, secret)
    if is_embedded:  # a header that says that there is nothing but a descriptor
        head = b"KDMV" + struct.pack("<IIQQQQ", 1, 3, 0, 128, 1, 20)
        content = head.ljust(512, b"\0") + content.ljust(20 * 512, b"\0")
    image.write_bytes(content)
    assert recognise(image).others
    ran = in_this_process("import", image, "--into", folder, "--volume", "V")
    assert (ran.code, "--follow" in ran.errors) == (2, True), str(ran)
    assert not list(folder.glob("*.sp?"))


def test_both_footers_of_a_vhd_count(tmp_path):
    disk = tmp_path / "disk.vhd"
    run("qemu-img", "create", "-q", "-f", "vpc", "-o", "force_size=on", str(disk), "8M")
    content = disk.read_bytes()
    assert recognise(disk).others == ()
    for at in (0, len(content) - 512):
        spoilt = bytearray(content)
        struct.pack_into(">I", spoilt, at + 60, 4)
        disk.write_bytes(spoilt)
        assert recognise(disk, DiskFormat.VHD).others == ("a parent",)


@pytest.mark.parametrize("size", [1, 511, 513, 70_001])
def test_raw_disks_of_any_size(tmp_path, size):
    disk, folder, out = tmp_path / "disk.raw", tmp_path / "images", tmp_path / "out.qcow2"
    folder.mkdir()
    disk.write_bytes(noise(size))
    assert in_this_process("import", disk, "--into", folder, "--volume", "V").code == 0
    ran = in_this_process("export", folder, "--volume", "V", "--to", out, "--format", "qcow2")
    assert (ran.code, f"{-size % 512:,} bytes larger" in ran.output) == (0, size % 512 != 0), str(ran)
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(out), str(tmp_path / "back.raw"))
    assert (tmp_path / "back.raw").read_bytes() == noise(size) + bytes(-size % 512)


@pytest.mark.parametrize("harm", ["hidden", "segment table"])
def test_an_export_reads_what_the_point_does_not_show(tmp_path, harm):
    """As a restore does: damage in what newer frames hide would stay unknown until it is needed."""
    volume = TinyVolume(tmp_path / "home")
    volume.capture_states([noise(20 * BLOCK), noise(20 * BLOCK, 1)])
    base = volume.image()
    forged = take_apart(base.read_bytes())
    content = bytearray(base.read_bytes())
    at = int(forged.records[7]["offset"]) + 100 if harm == "hidden" else len(content) - 400
    content[at] ^= 1
    base.write_bytes(content)
    out = tmp_path / "out.qcow2"
    ran = in_this_process("export", volume.folder, "--volume", volume.name, "--to", out, "--format", "qcow2")
    assert (ran.code, base.name in ran.errors, out.exists()) == (3, True, False), str(ran)
    assert "Traceback" not in ran.errors


def test_progress_of_an_export_goes_forward(tmp_path):
    from hsr.exchange.export import export

    volume = TinyVolume(tmp_path / "home")
    volume.capture_states([noise(40 * BLOCK), noise(40 * BLOCK, 1)])
    told: list[tuple[int, int]] = []
    export(
        [volume.image(), volume.image(1)],
        tmp_path / "out.qcow2",
        DiskFormat.QCOW2,
        tethered=lambda *words: list(words),
        progress=lambda *step: told.append(step),
    )
    assert told == sorted(told)
    assert len({total for _, total in told}) == 1
    assert all(done <= total for done, total in told)
    assert (tmp_path / "out.qcow2").exists()


@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_an_export_never_replaces_an_image(tmp_path, name):
    volume = TinyVolume(tmp_path / "home")
    volume.capture_states([noise(5 * BLOCK), noise(5 * BLOCK, 1)])
    hard = tmp_path / "hard.qcow2"
    hard.hardlink_to(volume.image())
    for target in (volume.image(), volume.image(1), hard):
        content = target.read_bytes()
        ran = in_this_process(
            "export", volume.folder, "--volume", volume.name, "--to", target, "--format", name, "--overwrite"
        )
        assert (ran.code, "is one of the images" in ran.errors) == (2, True), str(ran)
        assert target.read_bytes() == content
    volume.check()
