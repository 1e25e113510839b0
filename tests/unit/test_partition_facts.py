"""What is captured of a partition, from real partitions of a loop device, and said again round its volume."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hsr.serving.point import PointReader
from hsr.wrapping.wrapped_point import disk_at
from hsr.wrapping.wrapping import Wrap
from storage.capture import capture
from storage.partition_facts import partition_facts
from tests.commands import run
from tests.loop import loop_device, needs_root
from tests.unit.tiny import START, Password, TinyVolume

MIB = 1 << 20
GPT = """label: gpt
label-id: AAAAAAAA-2222-4333-8444-555555555555
start=2048, size=4096
start=8192, size=8192, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=11111111-2222-4333-8444-555555555555, \
name="Wurzel ä", attrs="LegacyBIOSBootable GUID:60,63"
"""
MBR = "label: dos\nlabel-id: 0xdeadbeef\nstart=2048, size=4096, type=83\nstart=8192, size=8192, type=27\n"
WANTED = {
    "gpt": {
        "scheme": "gpt",
        "type": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
        "id": "11111111-2222-4333-8444-555555555555",
        "disk_id": "aaaaaaaa-2222-4333-8444-555555555555",
        "name": "Wurzel ä",
        "attributes": 1 << 2 | 1 << 60 | 1 << 63,
    },
    "mbr": {"scheme": "mbr", "type": "27", "disk_id": "0xdeadbeef"},
}


@contextlib.contextmanager
def partition_of(disk: Path, number: int, folder: Path) -> Iterator[Path]:
    """Give the node of a partition of a disk in a file."""
    with loop_device(disk) as device:
        run("partx", "--add", str(device))
        try:
            told = Path(f"/sys/block/{device.name}/{device.name}p{number}/dev").read_text()
            major, minor = map(int, told.split(":"))
            node = folder / f"partition-{number}"
            os.mknod(node, 0o600 | stat.S_IFBLK, os.makedev(major, minor))
            yield node
            node.unlink()
        finally:
            run("partx", "--delete", str(device))


def make_disk(path: Path, table: str) -> Path:
    with path.open("wb") as file:
        file.truncate(10 * MIB)
    subprocess.run(["sfdisk", "-q", str(path)], input=table, text=True, check=True, capture_output=True)
    return path


@needs_root
@pytest.mark.parametrize(("scheme", "table"), [("gpt", GPT), ("mbr", MBR)])
@pytest.mark.parametrize("password", [None, Password()])
def test_a_partition_comes_back_as_it_was(
    scheme: str, table: str, password: Password | None, tiny: TinyVolume, tmp_path: Path
) -> None:
    disk = make_disk(tmp_path / "disk", table)
    tiny.password = password
    with partition_of(disk, 2, tmp_path) as node:
        assert partition_facts(node) == WANTED[scheme]
        capture(node, tiny.folder, tiny.name, now=START, encrypt=password is not None, passwords=password)
    with PointReader([tiny.image()], key=tiny.key()) as reader:
        assert reader.header.metadata["partition"] == WANTED[scheme]
        made = disk_at(reader, Wrap(scheme))
        whole = bytearray(made.size_bytes)
        made.read_into(0, memoryview(whole))
    (tmp_path / "made").write_bytes(whole)
    told = run("sfdisk", "--dump", str(tmp_path / "made"))
    before = run("sfdisk", "--dump", str(disk))
    assert line_of(told, "label-id:") == line_of(before, "label-id:")
    was, now = fields_of(before.splitlines()[-1]), fields_of(told.splitlines()[-1])
    assert {**now, "start": ""} == {**was, "start": ""}


def line_of(text: str, begin: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(begin)]
    return line


def fields_of(line: str) -> Mapping[str, str]:
    words = (word.strip().partition("=") for word in line.partition(":")[2].split(", "))
    return {name: value.strip() for name, _, value in words}


@needs_root
def test_other_devices_have_none(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk", GPT)
    with loop_device(disk) as device:
        assert partition_facts(device) == {}
    assert partition_facts(Path("/dev/null")) == {}
    assert partition_facts(disk) == {}


@needs_root
def test_without_sfdisk_a_partition_is_captured_all_the_same(
    tiny: TinyVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = make_disk(tmp_path / "disk", MBR)
    with partition_of(disk, 2, tmp_path) as node:
        monkeypatch.setattr("storage.partition_facts.run_tool", _missing)
        capture(node, tiny.folder, tiny.name, now=START)
    with PointReader([tiny.image()]) as reader:
        assert "partition" not in reader.header.metadata


def _missing(*_: object, **__: object) -> str:
    from policies.errors import ConfigurationError

    raise ConfigurationError("sfdisk is not installed")
