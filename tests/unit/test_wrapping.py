"""A volume in a partition: places, tables, patches, and what is refused."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsr.disks.form import Stamp
from hsr.serving.point import PointReader
from hsr.wrapping import layout_tables as layout
from hsr.wrapping.boot_code import BOOT_CODE
from hsr.wrapping.contents import START_BYTES, Contents, contents_of, has_efi_system, table_of
from hsr.wrapping.traits import Traits, traits_of
from hsr.wrapping.wrapped_point import WrappedPoint
from hsr.wrapping.wrapping import Wrap, Wrapping, wrapping_for
from policies.errors import ConfigurationError
from tests.unit.tiny import TinyVolume, noise

MIB = 1 << 20
TIB = 1 << 40
STAMP = Stamp(b"chain and point", datetime(2026, 3, 29, 1, 30, tzinfo=UTC))
LINUX = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
TRAITS = Traits(0x83, LINUX, starts=True, name="D_VOL")
NTFS = (b"\xeb\x52\x90NTFS    " + bytes(range(256)) * 2)[:510] + b"\x55\xaa"
FAT32 = bytes(range(82)) + b"FAT32   " + bytes(420) + b"\x55\xaa"


@given(st.sampled_from([Wrap.MBR, Wrap.GPT]), st.integers(1, 64 * TIB))
def test_places_are_aligned_and_apart(wrap: Wrap, volume_bytes: int) -> None:
    if wrap is Wrap.MBR and volume_bytes > 2 * TIB - MIB:
        with pytest.raises(ConfigurationError, match="2 TiB") as caught:
            wrapping_for(wrap, volume_bytes)
        assert "gpt" in str(caught.value.hint)
        return
    found = wrapping_for(wrap, volume_bytes)
    assert found.offset % MIB == found.disk_bytes % MIB == 0
    end = found.offset + volume_bytes
    parts = found.tables(TRAITS, STAMP)
    ends = [(offset, offset + len(part)) for offset, part in parts]
    assert ends[0][1] <= found.offset
    assert all(first >= end for first, _ in ends[1:])
    assert ends[-1][1] <= found.disk_bytes
    assert all(stop <= MIB or first >= found.disk_bytes - MIB for first, stop in ends)
    assert found.disk_bytes - end < 2 * MIB


def test_the_largest_in_a_master_boot_record() -> None:
    found = wrapping_for(Wrap.MBR, 2 * TIB - MIB)
    ((_, head),) = found.tables(TRAITS, STAMP)
    entry = np.frombuffer(head[446:462], layout.MBR_ENTRY)[0]
    assert int(entry["first_sector"]) + int(entry["sectors"]) == 1 << 32
    with pytest.raises(ConfigurationError):
        wrapping_for(Wrap.MBR, 2 * TIB - MIB + 1)


def test_a_disk_that_was_made_for_a_larger_volume() -> None:
    roomy = wrapping_for(Wrap.GPT, 50 * MIB).disk_bytes
    found = wrapping_for(Wrap.GPT, 5 * MIB, disk_bytes=roomy)
    assert found.disk_bytes == roomy
    assert found.tables(TRAITS, STAMP)[1][0] == roomy - 33 * 512
    with pytest.raises(ConfigurationError, match="too small"):
        wrapping_for(Wrap.GPT, 51 * MIB, disk_bytes=roomy)


def test_without_a_wrap_nothing_changes() -> None:
    found = wrapping_for(Wrap.NONE, 12345)
    assert (found.offset, found.disk_bytes, found.tables(TRAITS, STAMP)) == (0, 12345, ())
    assert found.parts(lambda at, size: NTFS[at : at + size], {}, STAMP) == ()


@given(st.integers(1, 64 * TIB), st.booleans())
def test_both_tables_of_a_gpt_are_sound(volume_bytes: int, starts: bool) -> None:
    found = wrapping_for(Wrap.GPT, volume_bytes)
    (_, front), (back_at, back) = found.tables(Traits(7, LINUX, starts=starts, name="Ä" * 36), STAMP)
    last = found.disk_bytes // 512 - 1
    headers = (front[512:1024], front[1024:], 1, last, 2), (back[-512:], back[:-512], last, 1, back_at // 512)
    for raw, table, own, other, table_sector in headers:
        header = np.frombuffer(raw[:92], layout.GPT_HEADER)[0]
        assert (header["own_sector"], header["other_sector"], header["table_sector"]) == (
            own,
            other,
            table_sector,
        )
        assert header["table_crc"] == zlib.crc32(table)
        assert header["header_crc"] == zlib.crc32(raw[:16] + bytes(4) + raw[20:92])
        entry = np.frombuffer(table[:128], layout.GPT_ENTRY)[0]
        assert entry["first_sector"] == 2048
        assert entry["last_sector"] <= header["last_usable"]
    protective = np.frombuffer(front[446:462], layout.MBR_ENTRY)[0]
    assert (protective["type"], protective["status"], protective["first_sector"]) == (0xEE, 0, 1)
    assert protective["sectors"] == min(last, 0xFFFF_FFFF)


def test_the_same_stamp_gives_the_same_bytes_and_another_others() -> None:
    found = wrapping_for(Wrap.GPT, 5 * MIB)
    assert found.tables(TRAITS, STAMP) == found.tables(TRAITS, STAMP)
    other = Stamp(b"another", STAMP.made_at)
    assert found.tables(TRAITS, STAMP) != found.tables(TRAITS, other)


def test_active_only_where_there_is_something_to_start() -> None:
    for wrap in (Wrap.MBR, Wrap.GPT):
        found = wrapping_for(wrap, 5 * MIB)
        for starts in (False, True):
            head = found.tables(Traits(0x83, LINUX, starts=starts), STAMP)[0][1][:512]
            assert head[: len(BOOT_CODE)] == BOOT_CODE
            assert (head[446] == 0x80) == (starts and wrap is Wrap.MBR)
            assert (head[424] == 0x80) == (starts and wrap is Wrap.GPT)


CAPTURED_GPT = {
    "scheme": "gpt",
    "type": "21686148-6449-6e6f-744e-656564454649",
    "id": "11111111-2222-3333-4444-555555555555",
    "disk_id": "aaaaaaaa-2222-3333-4444-555555555555",
    "name": "data",
    "attributes": 1 << 63,
}


def test_what_was_captured_is_used_again() -> None:
    traits = traits_of(NTFS, {"volume": "C_VOL", "partition": CAPTURED_GPT})
    assert traits.gpt_type == UUID(str(CAPTURED_GPT["type"]))
    assert traits.partition_uuid(STAMP) == UUID(str(CAPTURED_GPT["id"]))
    assert traits.disk_uuid(STAMP) == UUID(str(CAPTURED_GPT["disk_id"]))
    assert (traits.name, traits.attributes, traits.mbr_type) == ("data", 1 << 63, 7)
    traits = traits_of(NTFS, {"partition": {"scheme": "mbr", "type": "27", "disk_id": "0xdeadbeef"}})
    assert (traits.mbr_type, traits.signature(STAMP)) == (0x27, 0xDEADBEEF)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"partition": 5},
        {"partition": {"scheme": ["gpt"], "type": {}}, "volume": 7},
        {"partition": {"scheme": "gpt", "type": "no", "id": 5, "attributes": "x", "disk_id": "0" * 32}},
        {"partition": {"scheme": "gpt", "attributes": 1 << 64}},
        {"partition": {"scheme": "mbr", "type": "0", "disk_id": "0"}},
        {"partition": {"scheme": "mbr", "type": "5", "disk_id": "-1"}},
        {"partition": {"scheme": "mbr", "type": "100", "disk_id": "1ffffffff"}},
        {"volume": "\ud800" + "x" * 500},
        {"volume": "😀" * 30},
    ],
)
def test_metadata_of_any_kind_give_some_partition(metadata: Mapping[str, object]) -> None:
    traits = traits_of(b"", metadata)
    assert (traits.mbr_type, traits.gpt_type, traits.attributes) == (0x83, LINUX, 0)
    for wrap in (Wrap.MBR, Wrap.GPT):
        assert wrapping_for(wrap, MIB).tables(traits, STAMP)


def patched(sector: bytes) -> bytes:
    return sector[:28] + (2048).to_bytes(4, "little") + sector[32:]


@pytest.mark.parametrize(
    ("sectors", "changed"),
    [
        ({0: NTFS, 2047: NTFS}, {0, 2047}),
        ({0: FAT32, 6: FAT32}, {0, 6}),
        ({0: FAT32, 7: FAT32, 2047: FAT32}, {0}),
        ({1: NTFS, 6: NTFS, 2046: NTFS}, set()),
        ({0: NTFS[:-1] + b"\0"}, set()),
    ],
)
def test_only_what_must_differ_is_patched(sectors: dict[int, bytes], changed: set[int]) -> None:
    volume = bytearray(noise(MIB))
    for number, sector in sectors.items():
        volume[number * 512 : number * 512 + 512] = sector
    wanted = bytearray(volume)
    for number in changed:
        wanted[number * 512 : number * 512 + 512] = patched(sectors[number])
    found = wrapping_for(Wrap.MBR, MIB)
    assert put_round(found, volume)[MIB:] == wanted
    assert put_round(found, wanted) == put_round(found, volume), "patched once more it stays the same"
    assert not any(put_round(found, volume)[512:MIB])


def put_round(wrapping: Wrapping, volume: bytes | bytearray) -> bytearray:
    """Make the disk from a volume in memory."""
    disk = bytearray(wrapping.disk_bytes)
    disk[wrapping.offset : wrapping.offset + len(volume)] = volume
    at = 0
    for offset, part in wrapping.parts(lambda at, size: bytes(volume[at : at + size]), {}, STAMP):
        assert offset >= at
        at = offset + len(part)
        disk[offset:at] = part
    return disk


@pytest.mark.parametrize("wrap", list(Wrap))
def test_a_wrapped_point_is_the_wrapped_disk(wrap: Wrap, tiny: TinyVolume) -> None:
    content = NTFS + noise(3 * MIB) + bytes(MIB) + noise(700) + NTFS
    tiny.put(0, content[: -512 - len(content) % 512] + NTFS)
    volume = tiny.raw.read_bytes()
    tiny.capture()
    with PointReader([tiny.image()]) as reader:
        point = WrappedPoint(reader, wrap, {}, STAMP)
        found = bytearray(point.size_bytes)
        point.read_into(0, memoryview(found))
        assert put_round(point.wrapping, volume) == found
        random = np.random.default_rng(1)
        for _ in range(300):
            start, stop = sorted(random.integers(0, point.size_bytes + 1, 2).tolist())
            stop = min(stop, start + int(random.choice([1, 700, 70_000, MIB])))
            some = bytearray(noise(stop - start))
            point.read_into(start, memoryview(some))
            assert some == found[start:stop]
            at_once = point.read_at_once(start, stop - start) if start < stop else b""
            assert at_once is None or at_once == some
        at = 0
        while at < point.size_bytes:
            for length, is_held in point.extents(at, point.size_bytes - at):
                assert is_held or not any(found[at : at + length])
                at += length


def test_a_disk_needs_no_wrap(tiny: TinyVolume) -> None:
    tiny.put(0, wrapping_for(Wrap.MBR, MIB).tables(TRAITS, STAMP)[0][1] + bytes(MIB))
    assert contents_of(tiny.raw.read_bytes()) is Contents.DISK
    tiny.capture()
    with PointReader([tiny.image()]) as reader:
        with pytest.raises(ConfigurationError, match="a disk with partitions already"):
            WrappedPoint(reader, Wrap.MBR, {}, STAMP)
        WrappedPoint(reader, Wrap.NONE, {}, STAMP)


def fat_without_a_name() -> bytes:
    """Lay out the first sector of a FAT12 as DOS 3 made them; its code happens to look like entries of a table."""
    sector = bytearray(put_round(wrapping_for(Wrap.MBR, MIB), bytes(MIB))[:512])
    sector[:3] = b"\xeb\x34\x90"
    sector[3:11] = b"IBM  3.3"
    sector[11:22] = b"\x00\x02\x02\x01\x00\x02\x70\x00\xa0\x05\xf9"
    return bytes(sector)


@pytest.mark.parametrize(
    ("start", "table"),
    [
        (put_round(wrapping_for(Wrap.MBR, MIB), bytes(MIB)), "a master boot record with 1 partition"),
        (put_round(wrapping_for(Wrap.GPT, MIB), bytes(MIB)), "a GPT with 1 partition"),
        (bytes(512) + put_round(wrapping_for(Wrap.GPT, MIB), bytes(MIB))[512:], "a GPT with 1 partition"),
        (fat_without_a_name(), None),
        (
            fat_without_a_name()[:11] + bytes(11) + fat_without_a_name()[22:],
            "a master boot record with 1 partition",
        ),
        (b"\xeb\x52\x90NTFS    ".ljust(446) + fat_without_a_name()[446:], None),
        (b"\xeb\x58\x90MSDOS5.0".ljust(82) + b"FAT32   ".ljust(364) + fat_without_a_name()[446:], None),
        (bytes(510) + b"\x55\xaa", None),
        (b"", None),
        (bytes(512) + b"EFI PART", None),
        (b"\xff" * 510 + b"\x55\xaa", None),
    ],
)
def test_which_table_a_volume_begins_with(start: bytes, table: str | None) -> None:
    assert table_of(bytes(start[:START_BYTES])) == table


def test_a_disk_with_an_efi_system_partition_is_known() -> None:
    efi = layout.GPT_EFI_SYSTEM
    for gpt_type in (LINUX, efi):
        disk = put_round(wrapping_for(Wrap.GPT, MIB), bytes(MIB))
        disk[1024:1040] = gpt_type.bytes_le
        assert has_efi_system(bytes(disk[:START_BYTES])) == (gpt_type == efi)
    assert not has_efi_system(bytes(START_BYTES))
    assert not has_efi_system(b"")
    assert not has_efi_system(bytes(disk[:600]))
