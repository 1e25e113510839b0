"""Checking the file systems of a point with their own programs."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hsr.exchange.qemu import Tether
from hsr.serving.background import served_in_background
from hsr.serving.fused import FusedPoint, Part
from hsr.serving.partitions import partitions_of
from hsr.serving.point import PointReader
from hsr.serving.tools import run_tool
from hsr.testing_restore.fat import settle
from hsr.testing_restore.record import FileSystemCheck, Verdict
from hsr.testing_restore.scratch_disk import writable_part
from hsr.wrapping.contents import START_BYTES, Contents, contents_of
from policies.errors import ConfigurationError
from storage.scratch import scratch_folder

_WORDS_MAX: Final = 2000
_EXT4_STATE: Final = slice(1024 + 0x60, 1024 + 0x64)
_EXT4_NEEDS_RECOVERY: Final = 0x4

# What the programs say, in small letters. They use a status of 1 for damage and for much else, all but e2fsck.

_E2FSCK_MENDED: Final = 1
_E2FSCK_ERRORS_LEFT: Final = 4
_E2FSCK_FAILED: Final = 8
"""It did not check, being too old, say; or it gave up, and has found errors if it says that some are left."""
_E2FSCK_ASKED_WRONGLY: Final = 16
"""From here on it was told something wrong, or was broken off."""
_EXT4_TOO_LARGE: Final = ("is likely to be corrupt",)
_EXT4_REPLAYS: Final = ("recovering journal",)
_EXT4_JOURNAL_DAMAGED: Final = ("? yes", "journal checksum error", "replay was aborted")
"""A kernel refuses to mount it; e2fsck throws away what the journal held, and calls the rest clean."""
_EXT4_NO_SUPERBLOCK: Final = (
    "superblock is corrupt while",
    "does not match superblock while",
    "corruption found in superblock",
)
_XFS_LOG_IGNORED: Final = ("changes in a log",)
_XFS_DAMAGED: Final = (
    "no modify flag set, skipping filesystem flush",  # it came to the end
    "bad primary superblock",
    "superblock read failed",
    "bad crc",
    "crc error",
    "bad magic",
)
_UNSUPPORTED: Final = ("unsupported",)
_NTFS_DAMAGED: Final = (
    "corrupt",
    "inconsistent",
    "mismatch",
    "check failed",
    "input/output error",
    "bigger than the device",
    "overflow... failed",
)
_NTFS_NOT_CHECKED: Final = (
    "unclean",
    "scheduled for check",
    "hibernated",
    "dirty",
    "allocate",
    "no such file",
    "permission denied",
    "not permitted",
    "not supported",
    "too many open files",
    "is missing",
)
_FAT_IN_USE: Final = ("dirty bit is set", "free cluster summary wrong")
_FAT_SUMMED_UP: Final = re.compile(rb": \d+ files, \d+/\d+ clusters")
_FAT_DAMAGED: Final = (
    "is zero",
    "zero size",
    "multiple of the physical sector size",
    "failed to read sector",
    "no space for any data clusters",
    "only space for",
    "required minimum",
    "too many clusters",
    "span an integral number",
    "appear to be corrupt",
)


@dataclass(frozen=True, slots=True)
class _Means:
    """What a check is done with.

    Attributes:
        writable: gives the file system as a file that may be written to; what is written is gone afterwards.
        tethered: makes programs end with this process.
    """

    writable: Callable[[], AbstractContextManager[Path]]
    tethered: Tether

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return run_tool(name, *arguments, tethered=self.tethered)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A part of the volume that may be a file system."""

    partition: int | None
    part: Part
    start: bytes

    @property
    def contents(self) -> Contents:
        return contents_of(self.start)


def check_file_systems(reader: PointReader, tethered: Tether) -> tuple[FileSystemCheck, ...]:
    """Check every file system of a point that a program here can check.

    A journal that was in use is replayed on an overlay first, as a machine would do it that mounts the volume. What is
    found in logical partitions, LVM and encrypted volumes is not looked into.

    Args:
        reader: the volume; no thread may be using it.
        tethered: makes programs end with this process.

    Returns:
        What was found of each partition, or of the volume if it has none.

    Raises:
        ConfigurationError: FUSE cannot be used.
        FormatError: an image is damaged.
        StorageError: one cannot be read.

    Crash: nothing is left mounted; a scratch folder, which the next command sweeps away.
    """
    stretches = _stretches(reader)
    parts = {_name(stretch): stretch.part for stretch in stretches}
    if not parts:
        return ()
    with scratch_folder("check") as folder:
        shown = folder / "shown"
        shown.mkdir()
        with FusedPoint(reader, shown, parts, 0.0) as fused, served_in_background(reader, "check") as served:

            def check(stretch: _Stretch) -> FileSystemCheck:
                @contextmanager
                def writable() -> Iterator[Path]:
                    with writable_part(served.socket, stretch.part, tethered) as path:
                        yield path

                return _checked(stretch, shown / _name(stretch), _Means(writable, tethered))

            found = tuple(check(stretch) for stretch in stretches)
            failure = served.failure or fused.failure
        if failure is not None:
            raise failure
        return found


def _name(stretch: _Stretch) -> str:
    return f"part-{stretch.partition or 0}"


def _stretches(reader: PointReader) -> list[_Stretch]:
    def stretch(partition: int | None, offset: int, size: int) -> _Stretch:
        start = bytearray(min(START_BYTES, size))
        reader.read_into(offset, memoryview(start))
        return _Stretch(partition, Part(offset, size), bytes(start))

    whole = stretch(None, 0, reader.size_bytes)
    if whole.contents is not Contents.DISK:
        return [whole]
    return [stretch(part.number, part.offset, part.size_bytes) for part in partitions_of(reader)]


def _checked(stretch: _Stretch, file: Path, means: _Means) -> FileSystemCheck:
    begin = time.monotonic()
    is_lacking = False
    checker = _CHECKERS.get(stretch.contents)
    if checker is None:
        verdict, words = Verdict.UNCLEAR, "nothing here can check it"
    else:
        try:
            verdict, words = checker(stretch, file, means)
        except ConfigurationError as error:
            verdict, words, is_lacking = Verdict.UNCLEAR, f"{error}. {error.hint or ''}".strip(), True
    seconds = time.monotonic() - begin
    return FileSystemCheck(stretch.partition, stretch.contents.value, verdict, words, seconds, is_lacking)


def _check_ext4(stretch: _Stretch, file: Path, means: _Means) -> tuple[Verdict, str]:
    flags = int.from_bytes(stretch.start[_EXT4_STATE], "little")
    if not flags & _EXT4_NEEDS_RECOVERY:
        return _e2fsck(file, means)
    with means.writable() as scratch:
        replayed = means.run("e2fsck", "-y", "-E", "journal_only", "--", str(scratch))
        verdict = _verdict_of_e2fsck(replayed, _EXT4_JOURNAL_DAMAGED)
        if verdict is not Verdict.GOOD:
            return verdict, _told("e2fsck", verdict, replayed, scratch)
        verdict, words = _e2fsck(scratch, means)
        return verdict, f"its journal was replayed; {words}"


def _e2fsck(file: Path, means: _Means) -> tuple[Verdict, str]:
    told = means.run("e2fsck", "-f", "-n", "--", str(file))
    verdict = _verdict_of_e2fsck(told, _EXT4_TOO_LARGE)
    return verdict, _told("e2fsck", verdict, told, file)


def _verdict_of_e2fsck(told: subprocess.CompletedProcess[bytes], damaged: tuple[str, ...]) -> Verdict:
    """Judge by its status, and by words for damage that it passes over, or mends where it was told to."""
    status = told.returncode
    if status in range(_E2FSCK_ASKED_WRONGLY) and status & _E2FSCK_ERRORS_LEFT:
        return Verdict.BAD
    if status not in range(_E2FSCK_FAILED):
        return _verdict(told, _EXT4_NO_SUPERBLOCK)
    if _says(told, damaged):
        return Verdict.BAD
    replays = status == _E2FSCK_MENDED and _says(told, _EXT4_REPLAYS)
    return Verdict.GOOD if status == 0 or replays else Verdict.UNCLEAR


def _check_xfs(stretch: _Stretch, file: Path, means: _Means) -> tuple[Verdict, str]:
    del stretch
    told = means.run("xfs_repair", "-n", "-f", str(file))
    if told.returncode > 0 and _says(told, _XFS_LOG_IGNORED):
        return Verdict.UNCLEAR, "it was in use, and only a kernel replays its log"
    verdict = _verdict(told, _XFS_DAMAGED, _UNSUPPORTED)
    return verdict, _told("xfs_repair", verdict, told, file)


def _check_ntfs(stretch: _Stretch, file: Path, means: _Means) -> tuple[Verdict, str]:
    del stretch
    words = ""
    for name, *options in (("ntfsfix", "-n"), ("ntfsresize", "--info", "--force", "--no-progress-bar")):
        told = means.run(name, *options, str(file))  # they take no `--`
        verdict = _verdict(told, _NTFS_DAMAGED, _NTFS_NOT_CHECKED)
        words = _told(name, verdict, told, file)
        if verdict is not Verdict.GOOD:
            return verdict, words
    return Verdict.GOOD, words


def _check_fat(stretch: _Stretch, file: Path, means: _Means) -> tuple[Verdict, str]:
    del stretch
    told = means.run("fsck.fat", "-n", "--", str(file))
    if told.returncode <= 0 or not _says(told, _FAT_IN_USE):
        return _fsck_fat(told, file)
    with means.writable() as scratch:
        settle(scratch)
        verdict, words = _fsck_fat(means.run("fsck.fat", "-n", "--", str(scratch)), scratch)
        return (
            verdict,
            f"it was in use: its dirty bit and its count of free clusters were passed over; {words}",
        )


def _fsck_fat(told: subprocess.CompletedProcess[bytes], file: Path) -> tuple[Verdict, str]:
    verdict = _verdict(told, _FAT_DAMAGED)
    if told.returncode == 1 and _FAT_SUMMED_UP.search(told.stdout):
        verdict = Verdict.BAD  # it came to the end
    return verdict, _told("fsck.fat", verdict, told, file)


_CHECKERS: Final = {
    Contents.EXT4: _check_ext4,
    Contents.XFS: _check_xfs,
    Contents.NTFS: _check_ntfs,
    Contents.FAT: _check_fat,
}


def _verdict(
    told: subprocess.CompletedProcess[bytes], damaged: tuple[str, ...], not_checked: tuple[str, ...] = ()
) -> Verdict:
    """Judge what a program gave back: bad only where it says that there is damage, good only where it found none.

    One that was killed, cannot be run, is too old or lacks memory says nothing of the file system.
    """
    if told.returncode == 0:
        return Verdict.GOOD
    is_known = told.returncode > 0 and _says(told, damaged) and not _says(told, not_checked)
    return Verdict.BAD if is_known else Verdict.UNCLEAR


def _says(told: subprocess.CompletedProcess[bytes], words: tuple[str, ...]) -> bool:
    said = (told.stderr + b"\n" + told.stdout).decode(errors="replace").lower()
    return any(word in said for word in words)


def _told(name: str, verdict: Verdict, told: subprocess.CompletedProcess[bytes], file: Path) -> str:
    """Gather what a program said; and how it ended, if that is why nothing is clear."""
    words = _words(told, file)
    if verdict is not Verdict.UNCLEAR:
        return words
    status = told.returncode
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return f"{name} {how}, which says nothing of the file system\n{words}".strip()


def _words(told: subprocess.CompletedProcess[bytes], file: Path) -> str:
    """Gather what a program said; the end of it, since that is where it sums up."""
    streams = (stream.decode(errors="replace").strip() for stream in (told.stderr, told.stdout))
    return "\n".join(filter(None, streams)).replace(str(file), file.name)[-_WORDS_MAX:]
