"""Free space left out of a capture: what comes back is in order, every file is exact, and doubts take all."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from policies.errors import ConfigurationError
from storage.capture import capture
from storage.source_device import DeviceAccess, Stillness
from storage.used_blocks import find_used_blocks
from tests.commands import is_clean_ext4, run, sha256_of, tool
from tests.failing_medium import needs_fuse
from tests.loop import loop_device, needs_root
from tests.ntfs_logs import DISMOUNTED, NOBODY, PAGE_BYTES, restart_page
from tests.unit.tiny import START, TinyVolume, noise

MIB = 1 << 20
GONE = noise(64 << 10, 99)
"""What is in files that are removed before a capture."""


def mounts_xfs() -> bool:
    """Tell whether this kernel mounts XFS; a module of its is loaded for that."""
    listed = Path("/proc/filesystems")
    if b"\txfs\n" not in listed.read_bytes() and (
        modprobe := shutil.which("modprobe", path="/usr/sbin:/sbin")
    ):
        subprocess.run([modprobe, "-q", "xfs"], check=False)
    return b"\txfs\n" in listed.read_bytes()


needs_xfs = pytest.mark.skipif(not mounts_xfs(), reason="this kernel does not mount XFS")


@pytest.fixture
def tiny(tmp_path: Path) -> TinyVolume:
    return TinyVolume(tmp_path)


@contextmanager
def mounted(device: Path, folder: Path, *how: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    run("mount", *how, str(device), str(folder))
    try:
        yield folder
    finally:
        run("umount", str(folder))


def age(tree: Path, seed: int = 0) -> None:
    """Write files of many sizes, and remove some among them, so that free space lies in pieces."""
    for number in range(60):
        content = noise(1000 + 3000 * number, 100 * seed + number) if number % 3 else GONE
        (tree / f"{seed}-{number}").write_bytes(content)
    (tree / f"{seed}-folder").mkdir()
    (tree / f"{seed}-folder" / "large").write_bytes(noise(3 * MIB, seed))
    run("sync", "--file-system", str(tree))
    for number in range(0, 60, 3):
        (tree / f"{seed}-{number}").unlink()


def files(tree: Path) -> dict[str, str]:
    """Digest all files of a tree; what the test's own system adds is left out."""
    return {
        str(path.relative_to(tree)): sha256_of(path) for path in sorted(tree.rglob("*")) if path.is_file()
    }


def captured(tiny: TinyVolume, path: Path | None = None, still: Stillness | None = None) -> list[str]:
    """Capture used blocks only, and return what was noted; what was left out is told by the metadata."""
    access = DeviceAccess(path or tiny.raw, still or Stillness(), tiny.folder, find_used_blocks)
    made = capture(access, tiny.folder, tiny.name, now=START)
    assert ("used_only" in made.header.metadata) == (access.notes == [])
    return access.notes


def restored(tiny: TinyVolume, number: int) -> Path:
    target = tiny.folder.parent / f"restored-{number}.raw"
    tiny.restore(number, target)
    return target


def check_doubted(tiny: TinyVolume, *words: str) -> None:
    """Check that nothing counts as free, with a note that says why."""
    notes: list[str] = []
    assert find_used_blocks(tiny.raw, notes) is None
    (note,) = notes
    assert all(word in note for word in (*words, "all that is not zero was taken")), note


def check_whole(tiny: TinyVolume, *words: str) -> None:
    """Check that a capture takes all, with a note that says why."""
    (note,) = captured(tiny)
    assert all(word in note for word in (*words, "all that is not zero was taken")), note
    target = tiny.folder.parent / "whole.raw"
    tiny.restore(0, target, overwrite=True)
    assert sha256_of(target) == sha256_of(tiny.raw)


# --- ext4


@needs_root
def test_ext4_without_its_free_space(tiny, tmp_path):
    tiny.resize(32 * MIB)
    run("mkfs.ext4", "-q", "-F", str(tiny.raw))
    with loop_device(tiny.raw) as device, mounted(device, tmp_path / "mounted") as tree:
        for number in range(2):
            age(tree, number)
            assert captured(tiny, device, Stillness(tree)) == []
            target = restored(tiny, number)
            assert is_clean_ext4(target)
            assert GONE[:4096] not in target.read_bytes()
            with loop_device(target) as again, mounted(again, tmp_path / "again", "-o", "ro") as other:
                assert files(other) == files(tree)


@pytest.mark.parametrize("field", ["state", "needs_recovery", "free"])
def test_maps_of_ext4_that_cannot_be_trusted(tiny, field):
    tiny.resize(16 * MIB)
    run("mkfs.ext4", "-q", "-F", str(tiny.raw))
    commands = {
        "state": "ssv state 0",
        "needs_recovery": "feature needs_recovery",
        "free": "ssv free_blocks_count 5",
    }
    run("debugfs", "-w", "-R", commands[field], str(tiny.raw))
    check_doubted(tiny, "ext4", "contradicts itself" if field == "free" else "not in order")


# --- XFS


def make_xfs(tiny: TinyVolume, *options: str) -> None:
    tiny.resize(320 * MIB)
    run("mkfs.xfs", "-q", "-f", *options, str(tiny.raw))


def check_xfs(path: Path, folder: Path, expected: dict[str, str], sector_bytes: int = 512) -> None:
    """Mount once, so that the log of a frozen file system is replayed, compare all files, and check all."""
    with loop_device(path, sector_bytes) as device:
        with mounted(device, folder, "-o", "nouuid") as tree:
            assert files(tree) == expected
        run("xfs_repair", "-n", str(device))


@needs_root
@needs_xfs
@pytest.mark.parametrize("sector_bytes", [512, 4096])
def test_xfs_without_its_free_space(tiny, tmp_path, sector_bytes):
    """Unmounted, then frozen; what lies behind the file system is kept."""
    make_xfs(tiny, "-s", f"size={sector_bytes}")
    tiny.put(tiny.raw.stat().st_size, noise(2 * MIB, 7))
    with loop_device(tiny.raw, sector_bytes) as device:
        with mounted(device, tmp_path / "mounted") as tree:
            age(tree)
            expected = files(tree)
        assert captured(tiny, device) == []
        check_xfs(restored(tiny, 0), tmp_path / "again", expected, sector_bytes)
        with mounted(device, tmp_path / "mounted") as tree:
            age(tree, 1)
            expected = files(tree)
            assert captured(tiny, device, Stillness(tree)) == []
    target = restored(tiny, 1)
    content = target.read_bytes()
    assert content.endswith(noise(2 * MIB, 7))
    assert GONE[:4096] not in content
    assert GONE[:4096] in tiny.raw.read_bytes(), "there was nothing to leave out"
    check_xfs(target, tmp_path / "again", expected, sector_bytes)


@needs_root
@needs_xfs
def test_xfs_that_was_not_unmounted_is_taken_whole(tiny, tmp_path):
    make_xfs(tiny)
    with loop_device(tiny.raw) as device, mounted(device, tmp_path / "mounted") as tree:
        age(tree)
        run("xfs_io", "-x", "-c", "shutdown -f", str(tree))
    check_whole(tiny, "xfs", "its log holds changes")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("agf 1", "addr bnoroot", "write recs[1].blockcount 5000"), "two maps of free space differ"),
        (("agf 1", "write -d length 7"), "xfs_db failed"),
        (("sb 0", "write features_incompat 0x1b"), "asks for a repair"),
        (("sb 0", "write inprogress 1"), "is not finished"),
        (("agf 1", "write -c freeblks 5"), "xfs_db failed: Metadata CRC error"),
        (("agf 2", "addr bnoroot", "write recs[1].startblock 4"), "two maps of free space differ"),
    ],
)
def test_maps_of_xfs_that_cannot_be_trusted(tiny, command, words):
    make_xfs(tiny)
    run("xfs_db", "-x", "-f", *(word for step in command for word in ("-c", step)), str(tiny.raw))
    check_doubted(tiny, "xfs", words)


def test_xfs_that_counts_otherwise_than_it_lists_is_taken_whole(tiny):
    make_xfs(tiny)
    told = run("xfs_db", "-r", "-f", "-c", "agf 1", "-c", "p freeblks", str(tiny.raw))
    more = int(told.split()[-1]) + 1
    run("xfs_db", "-x", "-f", "-c", "agf 1", "-c", f"write freeblks {more}", str(tiny.raw))
    check_doubted(tiny, "xfs", "contradicts itself")


def test_xfs_of_old_or_with_its_log_elsewhere_or_damaged_is_taken_whole(tiny, tmp_path):
    with (tmp_path / "log").open("wb") as log:
        log.truncate(64 * MIB)
    make_xfs(tiny, "-m", "crc=0")
    check_doubted(tiny, "xfs", "without checksums")
    make_xfs(tiny, "-l", f"logdev={tmp_path / 'log'},size=64m")
    check_doubted(tiny, "xfs", "external log")
    make_xfs(tiny)
    with tiny.raw.open("rb") as file:
        log_at = file.read().find(b"\xfe\xed\xba\xbe")
    tiny.put(log_at, noise(16 << 10))
    check_doubted(tiny, "xfs", "log")


# --- NTFS


NTFS_CHECKS = (
    ("ntfsfix", "-n"),  # looks for the backup of the boot sector at the very end of the volume
    ("ntfsinfo", "-m"),
    ("ntfsresize", "--info", "--no-progress-bar"),
)


def make_ntfs(tiny: TinyVolume, *options: str) -> None:
    tiny.resize(64 * MIB)
    run("mkntfs", "-q", "-F", *options, str(tiny.raw))


def ntfs_takes_it(path: Path) -> bool:
    """Ask ntfs-3g whether it would mount it for writing."""
    return (
        subprocess.run(
            [tool("ntfs-3g.probe"), "--readwrite", path], capture_output=True, check=False
        ).returncode
        == 0
    )


@needs_root
@needs_fuse
@pytest.mark.parametrize("sector_bytes", [512, 4096])
def test_ntfs_without_its_free_space(tiny, tmp_path, sector_bytes):
    """Each time unmounted; what lies behind the file system is kept, the backup boot sector too."""
    tiny.resize(64 * MIB)
    with loop_device(tiny.raw, sector_bytes) as device:
        run("mkntfs", "-q", "-F", "-Q", "-s", str(sector_bytes), str(device))
    for number, behind in enumerate((b"", noise(2 * MIB, 7))):
        tiny.put(64 * MIB, behind)
        with loop_device(tiny.raw, sector_bytes) as device:
            with mounted(device, tmp_path / "mounted", "-t", "ntfs-3g") as tree:
                age(tree, number)
                expected = files(tree)
            assert captured(tiny, device) == []
        target = restored(tiny, number)
        content = target.read_bytes()
        assert content[64 * MIB - sector_bytes :] == content[:sector_bytes] + behind
        assert GONE[:4096] not in content
        with loop_device(target, sector_bytes) as device:
            for check in NTFS_CHECKS[1 if behind else 0 :]:
                run(*check, str(device))
            with mounted(device, tmp_path / "again", "-t", "ntfs-3g", "-o", "ro") as tree:
                assert files(tree) == expected
    assert GONE[:4096] in tiny.raw.read_bytes(), "there was nothing to leave out"


@pytest.mark.parametrize(
    ("pages", "is_clean"),
    [
        ((restart_page(5, flags=DISMOUNTED), restart_page(4)), True),
        ((restart_page(5), restart_page(6, flags=DISMOUNTED)), True),
        ((restart_page(5, client=NOBODY), restart_page(4)), True),
        ((restart_page(5), restart_page(4)), False),
        ((restart_page(5, flags=DISMOUNTED), restart_page(6)), False),
        ((restart_page(5, flags=DISMOUNTED, version=(2, 0)), restart_page(4)), False),
    ],
    ids=["dismounted", "dismounted-2", "closed", "open", "open-2", "cached"],
)
def test_the_log_of_ntfs_is_judged_as_ntfs_3g_does(tiny, pages, is_clean):
    make_ntfs(tiny)
    log_at = tiny.raw.read_bytes().find(b"\xff" * (16 * PAGE_BYTES))
    tiny.put(log_at, b"".join(pages))
    assert ntfs_takes_it(tiny.raw) == is_clean
    if is_clean:
        assert find_used_blocks(tiny.raw, []) is not None
    else:
        check_doubted(tiny, "ntfs", "its log holds changes")


@pytest.mark.parametrize("damage", ["dirty", "hibernated", "bitmap", "short"])
def test_ntfs_that_cannot_be_trusted_is_taken_whole(tiny, tmp_path, damage):
    make_ntfs(tiny)
    (tmp_path / "asleep").write_bytes(b"hibr" + bytes(8188))
    (tmp_path / "awake").write_bytes(bytes(8192))
    run("ntfscp", "-q", str(tiny.raw), str(tmp_path / "awake"), "hiberfil.sys")
    assert find_used_blocks(tiny.raw, []) is not None
    if damage == "dirty":
        run("ntfsfix", str(tiny.raw))
        check_whole(tiny, "ntfs", "scheduled for check")
    elif damage == "hibernated":
        run("ntfscp", "-q", str(tiny.raw), str(tmp_path / "asleep"), "hiberfil.sys")
        check_doubted(tiny, "ntfs", "Windows hibernates")
    elif damage == "bitmap":
        bitmap = subprocess.run(
            [tool("ntfscat"), "-i", "6", tiny.raw], capture_output=True, check=True
        ).stdout
        at = tiny.raw.read_bytes().find(bitmap)
        tiny.put(at, bytes([bitmap[0] & 0xFE]))  # the boot sector's cluster, as if it were free
        check_doubted(tiny, "ntfs", "does not find it consistent")
    else:
        tiny.resize(40 * MIB)
        check_doubted(tiny, "ntfs", "does not find it consistent")


# --- anything else


def test_what_is_no_known_file_system_is_taken_whole(tiny):
    tiny.raw.write_bytes(noise(3 * MIB))
    check_whole(tiny, "ext4, XFS and NTFS only", "none of these")
    tiny.resize(16 * MIB)
    run("mkfs.ext4", "-q", "-F", str(tiny.raw))
    tiny.put(0, b"XFSB")
    check_doubted(tiny, "more than one of these")


def test_a_missing_tool_is_named(tiny, monkeypatch):
    make_ntfs(tiny)
    monkeypatch.setattr("storage.commands.shutil.which", lambda *_, **__: None)
    with pytest.raises(ConfigurationError, match="ntfsinfo is not installed") as caught:
        captured(tiny)
    assert "ntfs-3g" in (caught.value.hint or "")
