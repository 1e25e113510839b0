"""Wrapped volumes, as other programs see them: sfdisk, blkid, the file systems' own tools, a BIOS."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from hsr.disks.disk import create_disk
from hsr.disks.flat import content_path
from hsr.disks.form import DiskKind, Stamp
from hsr.disks.pieces import Pieces
from hsr.wrapping.contents import START_BYTES, Contents, contents_of
from hsr.wrapping.contents import table_of as words_of
from hsr.wrapping.wrapping import Wrap, wrapping_for
from tests.checks.serving import BOOT_SECTOR
from tests.commands import is_clean_ext4, run, tool
from tests.disk_readers import blkid_says, qemu_driver
from tests.loop import loop_device, needs_root

MIB = 1 << 20
STAMP = Stamp(b"chain and point", datetime(2026, 3, 29, 1, 30, tzinfo=UTC))
WRAPS = (Wrap.MBR, Wrap.GPT)
WHOLE_KINDS = (DiskKind.VHD, DiskKind.VMDK, DiskKind.VHDX, DiskKind.QCOW2)


def wrapped(
    volume: Path, wrap: Wrap, target: Path, kind: DiskKind = DiskKind.RAW, **metadata: object
) -> Path:
    """Write a volume to a wrapped disk, in pieces as spans hold them."""
    content = volume.read_bytes()
    wrapping = wrapping_for(wrap, len(content))
    told = {"volume": "DATA", **metadata}
    with create_disk(target, kind, wrapping.disk_bytes) as disk:
        for at in range(0, len(content), MIB):
            disk.write(Pieces.single(wrapping.offset + at, content[at : at + MIB]))
        for offset, part in wrapping.parts(lambda at, size: content[at : at + size], told, STAMP):
            disk.write(Pieces.single(offset, part))
        disk.sync()
        assert blkid_says(content_path(target, kind)) == "", "nobody is to see a disk before it is finalized"
        disk.finalize(STAMP)
    return target


def table_of(disk: Path) -> dict[str, object]:
    verified = subprocess.run(
        [tool("sfdisk"), "--verify", str(disk)], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified
    assert "error" not in (verified.stdout + verified.stderr).lower().replace("no errors detected", ""), (
        verified
    )
    table: dict[str, object] = json.loads(run("sfdisk", "--json", str(disk)))["partitiontable"]
    return table


def made(kind: str, path: Path, size: int) -> Path:
    """Make a file system in a raw file, with something in it where its tool can do that."""
    with path.open("wb") as file:
        file.truncate(size)
    if kind == "ext4":
        run("mkfs.ext4", "-q", "-F", "-d", "/usr/share/doc/e2fsprogs", str(path))
    elif kind == "ntfs":
        run("mkntfs", "-q", "-F", "-p", "0", str(path))
    elif kind == "xfs":
        run("mkfs.xfs", "-q", str(path))
    elif kind == "swap":
        run("mkswap", str(path))
    return path


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize(
    ("kind", "size"),
    [("ext4", 24 * MIB), ("ext4", 24 * MIB + 512 * 3), ("ntfs", 24 * MIB + 512), ("swap", MIB)],
)
def test_table_and_volume_are_seen(wrap: Wrap, kind: str, size: int, tmp_path: Path) -> None:
    volume = made(kind, tmp_path / "volume", size)
    assert contents_of(volume.read_bytes()) is Contents(kind)
    disk = wrapped(volume, wrap, tmp_path / "disk")
    table = table_of(disk)
    (part,) = table["partitions"]  # type: ignore[misc]
    assert (part["start"], part["size"]) == (2048, -(-size // 512))  # type: ignore[index]
    types = {"ext4": ("83", "0FC63DAF"), "ntfs": ("7", "EBD0A0A2"), "swap": ("82", "0657FD6D")}[kind]
    assert part["type"].startswith(types[wrap is Wrap.GPT])  # type: ignore[index]
    assert table["label"] == ("gpt" if wrap is Wrap.GPT else "dos")
    told = run("blkid", "-p", "-O", str(MIB), "-S", str(size), "-o", "export", str(disk))
    assert f"TYPE={kind}" in told
    whole = run("blkid", "-p", "-o", "export", str(disk))
    assert f"PTTYPE={'gpt' if wrap is Wrap.GPT else 'dos'}" in whole
    if wrap is Wrap.GPT:
        assert part["name"] == "DATA"  # type: ignore[index]
        assert UUID(str(table["id"])) == STAMP.identity("partition table")
    if kind == "ext4":
        assert is_clean_ext4(Path(f"{disk}?offset={MIB}"))


def test_captured_identifiers_are_those_of_the_disk(tmp_path: Path) -> None:
    volume = made("ext4", tmp_path / "volume", 16 * MIB)
    captured = {
        "scheme": "gpt",
        "type": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
        "id": "11111111-2222-4333-8444-555555555555",
        "disk_id": "aaaaaaaa-2222-4333-8444-555555555555",
        "name": "Wurzel ä",
    }
    table = table_of(wrapped(volume, Wrap.GPT, tmp_path / "disk", partition=captured))
    (part,) = table["partitions"]  # type: ignore[misc]
    assert str(table["id"]).lower() == captured["disk_id"]
    assert part["type"].lower() == captured["type"]  # type: ignore[index]
    assert part["uuid"].lower() == captured["id"]  # type: ignore[index]
    assert part["name"] == captured["name"]  # type: ignore[index]
    captured = {"scheme": "mbr", "type": "27", "disk_id": "0xdeadbeef"}
    table = table_of(wrapped(volume, Wrap.MBR, tmp_path / "disk2", partition=captured))
    assert table["id"] == "0xdeadbeef"
    assert table["partitions"][0]["type"] == "27"  # type: ignore[index]


@needs_root
@pytest.mark.parametrize("wrap", WRAPS)
def test_ntfs_says_where_it_lies(wrap: Wrap, tmp_path: Path) -> None:
    volume = made("ntfs", tmp_path / "volume", 24 * MIB)
    before = volume.read_bytes()
    disk = wrapped(volume, wrap, tmp_path / "disk")
    after = disk.read_bytes()[MIB : MIB + len(before)]
    differ = [at for at in range(0, len(before), 512) if before[at : at + 512] != after[at : at + 512]]
    assert differ == [0, len(before) - 512]
    for at in differ:
        assert int.from_bytes(after[at + 28 : at + 32], "little") == 2048
        assert (
            before[at : at + 28] + before[at + 32 : at + 512]
            == after[at : at + 28] + after[at + 32 : at + 512]
        )
    part = tmp_path / "part"
    part.write_bytes(after)
    with loop_device(part) as device:
        run("ntfsfix", "-n", str(device))
        assert "Hidden sectors" not in run("ntfsinfo", "-m", "-f", str(device))
        run("ntfsresize", "--info", "--force", "--no-progress-bar", str(device))


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize(("bits", "size"), [("32", 40 * MIB), ("16", 20 * MIB), ("12", 4 * MIB)])
def test_fat_says_where_it_lies(wrap: Wrap, bits: str, size: int, tmp_path: Path) -> None:
    volume = made("none", tmp_path / "volume", size)
    run("mkfs.fat", "-F", bits, str(volume))
    before = volume.read_bytes()
    after = wrapped(volume, wrap, tmp_path / "disk").read_bytes()[MIB : MIB + size]
    differ = [at // 512 for at in range(0, size, 512) if before[at : at + 512] != after[at : at + 512]]
    assert differ == ([0, 6] if bits == "32" else [0])
    assert int.from_bytes(after[28:32], "little") == 2048
    part = tmp_path / "part"
    part.write_bytes(after)
    run("fsck.fat", "-n", str(part))


@pytest.mark.parametrize("kind", WHOLE_KINDS)
def test_every_kind_of_disk_holds_the_same(kind: DiskKind, tmp_path: Path) -> None:
    volume = made("ext4", tmp_path / "volume", 16 * MIB)
    raw = wrapped(volume, Wrap.GPT, tmp_path / "disk.raw")
    disk = wrapped(volume, Wrap.GPT, tmp_path / "disk", kind)
    run("qemu-img", "compare", "-f", "raw", "-F", qemu_driver(kind), str(raw), str(disk))


@pytest.mark.parametrize("size", [2 << 40, 5 << 40])
def test_a_large_volume_takes_a_gpt(size: int, tmp_path: Path) -> None:
    wrapping = wrapping_for(Wrap.GPT, size)
    path = tmp_path / "disk"
    start = (b"\xeb" + bytes(509) + b"\x55\xaa").ljust(START_BYTES, b"\0")
    with create_disk(path, DiskKind.RAW, wrapping.disk_bytes) as disk:
        for offset, part in wrapping.parts(
            lambda at, size: start[at : at + size].ljust(size, b"\0"), {}, STAMP
        ):
            disk.write(Pieces.single(offset, part))
        disk.finalize(STAMP)
    table = table_of(path)
    assert table["partitions"][0]["size"] == size // 512  # type: ignore[index]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("starts", [True, False])
def test_a_bios_starts_it(wrap: Wrap, starts: bool, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    sector = BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa"
    volume.write_bytes((sector if starts else b"") + bytes(4 * MIB))
    disk = wrapped(volume, wrap, tmp_path / "disk")
    log = tmp_path / "bios.log"
    machine = ("-machine", "accel=tcg", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot")
    heard = ("-chardev", f"file,id=bios,path={log}", "-device", "isa-debugcon,iobase=0x402,chardev=bios")
    guest = subprocess.Popen(
        [tool("qemu-system-x86_64"), *machine, *heard, "-drive", f"file={disk},format=raw,if=ide,snapshot=on",
         "-device", "isa-debug-exit,iobase=0xf4,iosize=4"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    try:
        if starts:
            assert "booted from a backup" in guest.communicate(timeout=60)[0]
            assert guest.returncode == 33
        else:
            while "No bootable device" not in (log.read_text() if log.exists() else ""):
                assert guest.poll() is None
    finally:
        guest.kill()
        guest.communicate()


@pytest.mark.parametrize(
    ("script", "table"),
    [
        ("label: dos\n,4M\n,4M\n", "a master boot record with 2 partitions"),
        ("label: dos\n,4M\n,,E\n,4M\n", "a master boot record with 2 partitions"),
        ("label: gpt\n,4M\n,4M\n,4M\n", "a GPT with 3 partitions"),
        ("label: gpt\n", "a GPT with 0 partitions"),
    ],
)
def test_disks_of_other_programs_are_known(script: str, table: str | None, tmp_path: Path) -> None:
    disk = made("none", tmp_path / "disk", 32 * MIB)
    subprocess.run(["sfdisk", "-q", str(disk)], input=script, text=True, check=True)
    assert words_of(disk.read_bytes()[:START_BYTES]) == table


@pytest.mark.parametrize(
    "command",
    [
        *(["mkfs.vfat", "-F", bits] for bits in ("12", "16", "32")),
        ["mkfs.vfat", "-F", "16", "-M", "0xf0", "-R", "4", "-f", "1"],
        ["mkntfs", "-q", "-F", "-p", "2048"],
        ["mkfs.ext4", "-q", "-F"],
    ],
)
def test_file_systems_of_other_programs_are_no_disks(command: list[str], tmp_path: Path) -> None:
    volume = made("none", tmp_path / "volume", 64 * MIB)
    run(*command, str(volume))
    assert words_of(volume.read_bytes()[:START_BYTES]) is None
