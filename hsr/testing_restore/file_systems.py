"""Checking the file systems of a point with their own programs."""

from __future__ import annotations

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
from hsr.testing_restore.record import FileSystemCheck, Verdict
from hsr.testing_restore.scratch_disk import writable_part
from hsr.wrapping.contents import START_BYTES, Contents, contents_of
from policies.errors import ConfigurationError
from storage.scratch import scratch_folder

_WORDS_MAX: Final = 2000
_EXT4_STATE: Final = slice(1024 + 0x60, 1024 + 0x64)
_EXT4_NEEDS_RECOVERY: Final = 0x4
_XFS_LOG_IGNORED: Final = "changes in a log"
_TOO_OLD: Final = b"Get a newer version"
_FAT_IN_USE: Final = b"Dirty bit is set"
_FAT_SECTORS: Final = slice(22, 24)
"""Sectors of one table, in the boot sector; 0 for FAT32, which has them elsewhere."""
_FAT_STATE: Final = 0x25
_FAT32_STATE: Final = 0x41
"""Where the mark is that it is in use, in the boot sector: bit 0 of that byte."""
_NTFS_UNCLEAN: Final = ("unclean", "scheduled for check", "hibernated", "dirty")


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
        if replayed.returncode not in (0, 1):
            return _verdict(replayed), _words(replayed, scratch)
        verdict, words = _e2fsck(scratch, means)
        return verdict, f"its journal was replayed; {words}"


def _e2fsck(file: Path, means: _Means) -> tuple[Verdict, str]:
    told = means.run("e2fsck", "-f", "-n", "--", str(file))
    return _verdict(told), _words(told, file)


def _verdict(told: subprocess.CompletedProcess[bytes]) -> Verdict:
    """Judge by what a program says; one that was killed, or is older than the file system, has not checked it."""
    if told.returncode < 0 or _TOO_OLD in told.stderr + told.stdout:
        return Verdict.UNCLEAR
    return Verdict.BAD if told.returncode else Verdict.GOOD


def _check_xfs(stretch: _Stretch, file: Path, means: _Means) -> tuple[Verdict, str]:
    del stretch
    told = means.run("xfs_repair", "-n", "-f", str(file))
    if told.returncode and _XFS_LOG_IGNORED in told.stderr.decode(errors="replace"):
        return Verdict.UNCLEAR, "it was in use, and only a kernel replays its log"
    return _verdict(told), _words(told, file)


def _check_ntfs(stretch: _Stretch, file: Path, means: _Means) -> tuple[Verdict, str]:
    del stretch
    for command in (("ntfsfix", "-n"), ("ntfsresize", "--info", "--force", "--no-progress-bar")):
        told = means.run(*command, str(file))  # they take no `--`
        words = _words(told, file)
        if told.returncode:
            is_unclean = any(word in words.lower() for word in _NTFS_UNCLEAN)
            return Verdict.UNCLEAR if is_unclean else _verdict(told), words
    return Verdict.GOOD, words


def _check_fat(stretch: _Stretch, file: Path, means: _Means) -> tuple[Verdict, str]:
    """Check it; one that was in use bears a mark that says so, and is checked once more without that."""
    told = means.run("fsck.fat", "-n", "--", str(file))
    if told.returncode != 1 or _FAT_IN_USE not in told.stderr + told.stdout:
        return _verdict(told), _words(told, file)
    with means.writable() as scratch:
        with scratch.open("r+b", buffering=0) as opened:
            at = _FAT_STATE if any(stretch.start[_FAT_SECTORS]) else _FAT32_STATE
            opened.seek(at)
            opened.write(bytes([stretch.start[at] & ~1]))
        told = means.run("fsck.fat", "-n", "--", str(scratch))
        return _verdict(told), f"it was in use; {_words(told, scratch)}"


_CHECKERS: Final = {
    Contents.EXT4: _check_ext4,
    Contents.XFS: _check_xfs,
    Contents.NTFS: _check_ntfs,
    Contents.FAT: _check_fat,
}


def _words(told: subprocess.CompletedProcess[bytes], file: Path) -> str:
    """Gather what a program said; the end of it, since that is where it sums up."""
    streams = (stream.decode(errors="replace").strip() for stream in (told.stderr, told.stdout))
    return "\n".join(filter(None, streams)).replace(str(file), file.name)[-_WORDS_MAX:]
