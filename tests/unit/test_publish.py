"""Files come under their final names whole, never over another, and whatever fails leaves nothing behind."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.errors import BusyError, StorageError
from storage import output, publish, spool
from storage.consolidate import consolidate
from storage.header import ImageHeader
from storage.publish import (
    PARTIAL_SUFFIX,
    PartialFile,
    folder_lock,
    rename_without_replacing,
    sweep_partials,
)
from storage.verify import verify_image
from storage.writer import ImageWriter
from tests.loop import needs_root, small_file_system
from tests.unit.tiny import BLOCK, TinyVolume, fill, names, noise, open_files

ROOT = Path(__file__).parents[2]


def write(partial: PartialFile, content: bytes) -> None:
    os.write(partial.fd, content)


def test_a_published_file_is_there_and_nothing_else(tmp_path):
    with PartialFile(tmp_path / "image.spi") as partial:
        write(partial, b"whole")
        assert [name for name in names(tmp_path) if not name.endswith(PARTIAL_SUFFIX)] == []
        partial.publish()
    assert names(tmp_path) == ["image.spi"]
    assert (tmp_path / "image.spi").read_bytes() == b"whole"


def test_leaving_without_publishing_leaves_nothing(tmp_path):
    with PartialFile(tmp_path / "image.spi") as partial:
        write(partial, b"half")
    assert names(tmp_path) == []
    with pytest.raises(ValueError, match="on the way"), PartialFile(tmp_path / "image.spi") as partial:
        raise ValueError("on the way")
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
def test_a_name_is_never_replaced(tmp_path, kind):
    target = tmp_path / "image.spi"

    def take_name() -> None:
        if kind == "file":
            target.write_text("mine")
        elif kind == "folder":
            target.mkdir()
        else:
            target.symlink_to("elsewhere" if kind == "dangling link" else tmp_path)

    with PartialFile(target) as partial:
        take_name()
        with pytest.raises(BusyError) as caught:
            partial.publish()
        assert caught.value.path == str(target)
    assert names(tmp_path) == ["image.spi"]
    if kind == "file":
        assert target.read_text() == "mine"
    with pytest.raises(BusyError):
        PartialFile(target)


def test_replacing_is_another_word(tmp_path):
    target = tmp_path / "state"
    target.write_text("old")
    with PartialFile(target, replacing=True) as partial:
        write(partial, b"new")
        assert target.read_text() == "old"
        partial.replace()
    assert target.read_text() == "new"
    assert names(tmp_path) == ["state"]


def test_two_writers_of_one_name_one_wins(tmp_path):
    target = tmp_path / "image.spi"
    with PartialFile(target) as one, PartialFile(target) as other:
        write(one, b"one")
        write(other, b"other")
        one.publish()
        with pytest.raises(BusyError):
            other.publish()
    assert target.read_bytes() == b"one"
    assert names(tmp_path) == ["image.spi"]


@pytest.mark.parametrize("code", sorted(publish._UNSUPPORTED))
def test_a_file_system_without_an_exclusive_rename(tmp_path, monkeypatch, code):
    class Libc:
        def renameat2(self, *_: object) -> int:
            return -1

    monkeypatch.setattr(publish.ctypes, "CDLL", lambda *_, **__: Libc())
    monkeypatch.setattr(publish.ctypes, "get_errno", lambda: code)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("whole")
    rename_without_replacing(source, target)
    assert (names(tmp_path), target.read_text()) == (["target"], "whole")
    source.write_text("another")
    with pytest.raises(FileExistsError):
        rename_without_replacing(source, target)
    assert target.read_text() == "whole"

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(publish.os, "link", refuse)
    with pytest.raises(FileExistsError):
        rename_without_replacing(source, target)
    target.unlink()
    rename_without_replacing(source, target)
    assert (names(tmp_path), target.read_text()) == (["target"], "another")


# --- partial files of others


def partials(folder: Path) -> list[str]:
    return [name for name in names(folder) if name.endswith(PARTIAL_SUFFIX)]


def test_what_a_dead_writer_left_is_swept_by_the_next(tmp_path):
    (tmp_path / f".image.spi.0123456789ab{PARTIAL_SUFFIX}").write_text("half")
    (tmp_path / f"my{PARTIAL_SUFFIX}").write_text("of a person")
    (tmp_path / f"other{PARTIAL_SUFFIX}.spi").write_text("not one")
    (tmp_path / f"folder{PARTIAL_SUFFIX}").mkdir()
    (tmp_path / f"link{PARTIAL_SUFFIX}").symlink_to(tmp_path / f"other{PARTIAL_SUFFIX}.spi")
    with PartialFile(tmp_path / "image.spi"):
        pass
    assert names(tmp_path) == [
        f"folder{PARTIAL_SUFFIX}",
        f"link{PARTIAL_SUFFIX}",
        f"my{PARTIAL_SUFFIX}",
        f"other{PARTIAL_SUFFIX}.spi",
    ]
    assert (tmp_path / f"other{PARTIAL_SUFFIX}.spi").read_text() == "not one"


def test_a_living_writers_file_is_not_swept(tmp_path):
    with PartialFile(tmp_path / "one.spi") as one:
        write(one, b"one")
        with PartialFile(tmp_path / "two.spi") as two:
            assert len(partials(tmp_path)) == 2
            two.publish()
        sweep_partials(tmp_path)
        assert len(partials(tmp_path)) == 1
        one.publish()
    assert names(tmp_path) == ["one.spi", "two.spi"]


def test_a_writer_whose_file_was_swept_before_it_was_locked_begins_again(tmp_path, monkeypatch):
    """The sweep of another writer may come between making the file and locking it."""
    lock, swept = fcntl.flock, []

    def sweep_first(fd: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not swept:
            swept.append(fd)
            sweep_partials(tmp_path)
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    with PartialFile(tmp_path / "image.spi") as partial:
        assert swept
        write(partial, b"whole")
        partial.publish()
    assert (tmp_path / "image.spi").read_bytes() == b"whole"


def test_many_writers_at_once_do_not_disturb_each_other(quick_path):
    failed: list[BaseException] = []

    def go(name: str) -> None:
        try:
            for number in range(20):
                with PartialFile(quick_path / f"{name}{number}") as partial:
                    write(partial, name.encode())
                    partial.publish()
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=go, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(names(quick_path)) == 80
    assert not partials(quick_path)


@pytest.mark.parametrize("name", ["x" * 250, "é" * 120, "語" * 84])
def test_a_long_name_leaves_room_for_the_partial_one(tmp_path, name):
    with PartialFile(tmp_path / name) as partial:
        partial.publish()
    assert names(tmp_path) == [name]


# --- locks


def test_a_lock_is_held_once(tmp_path):
    with folder_lock(tmp_path, "D.capture", "a capture of 'D'"):
        with pytest.raises(BusyError, match="a capture of 'D' is already running"):
            folder_lock(tmp_path, "D.capture", "a capture of 'D'").__enter__()
        with folder_lock(tmp_path, "E.capture", "a capture of 'E'"):
            pass
    with folder_lock(tmp_path, "D.capture", "a capture of 'D'"):
        pass


def test_a_lock_ends_with_its_process(tmp_path):
    script = (
        "import sys; from pathlib import Path; from storage.publish import folder_lock\n"
        "with folder_lock(Path(sys.argv[1]), 'D', 'it'):\n  print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BusyError):
            folder_lock(tmp_path, "D", "it").__enter__()
        other.kill()
        other.wait()
    with folder_lock(tmp_path, "D", "it"):
        pass


def test_a_lock_is_no_way_out_of_the_folder(tmp_path):
    """Whoever may write to a share could put a link there, and have us make a file anywhere."""
    hidden = tmp_path / "images" / ".rollforward"
    hidden.mkdir(parents=True)
    (hidden / "D.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError):
        folder_lock(tmp_path / "images", "D", "it").__enter__()
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_refuses_is_named(tmp_path):
    (tmp_path / ".rollforward").write_text("in the way")
    with pytest.raises(StorageError) as caught:
        folder_lock(tmp_path, "D", "it").__enter__()
    assert str(tmp_path) in str(caught.value)


# --- writing images


@pytest.fixture
def header(tiny: TinyVolume) -> ImageHeader:
    tiny.capture_states([noise(8 * BLOCK), noise(8 * BLOCK, 1)])
    from storage.image import ImageReader

    with ImageReader(tiny.image(1)) as image:
        return image.header


def test_an_image_that_is_not_finished_leaves_nothing(header, quick_path):
    out = quick_path / "out"
    out.mkdir()
    before = open_files()
    with pytest.raises(ValueError, match="stop"), ImageWriter(out / "image.spi", header):
        raise ValueError("stop")
    assert names(out) == []
    assert open_files() == before


def test_an_error_before_the_first_byte_leaves_nothing(header, quick_path, monkeypatch):
    """The header itself finds no room: nobody has a writer to close, so it must have closed itself."""
    out = quick_path / "out"
    out.mkdir()
    before = open_files()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(output.os, "pwrite", full)
    with pytest.raises(StorageError, match="the disk is full"):
        ImageWriter(out / "image.spi", header)
    assert names(out) == []
    assert open_files() == before


@pytest.mark.parametrize("call", ["fsync", "rename", "sync of the folder"])
def test_a_medium_that_fails_at_the_end(header, quick_path, monkeypatch, call):
    out = quick_path / "out"
    out.mkdir()
    before = open_files()
    real = os.fsync

    def failing_sync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").is_dir() == (call == "sync of the folder"):
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    def failing_rename(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with ImageWriter(out / "image.spi", header) as image:
        if call == "rename":
            monkeypatch.setattr(publish, "rename_without_replacing", failing_rename)
        else:
            monkeypatch.setattr(publish.os, "fsync", failing_sync)
        with pytest.raises(StorageError, match="Input/output error"):
            image.finish()
    assert names(out) == (["image.spi"] if call == "sync of the folder" else [])
    assert open_files() == before


def test_a_write_that_was_lost_behind_our_back_is_not_published(header, quick_path, monkeypatch):
    """The kernel tells of a lost write once: here to the background flush, which must hand it on."""
    out = quick_path / "out"
    out.mkdir()
    monkeypatch.setattr(output, "_FLUSH_BYTES", 1)
    told = threading.Event()

    def lost(fd: int) -> None:
        told.set()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(output.os, "fdatasync", lost)
    with ImageWriter(out / "image.spi", header) as image:
        assert told.wait(30)
        with pytest.raises(StorageError, match="Input/output error"):
            image.finish()
    assert names(out) == []


# --- disk full


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A mounted file system of 2 MiB."""
    with small_file_system(tmp_path_factory.mktemp("disk"), 2 << 20) as mounted:
        yield mounted


def empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_file():
            entry.unlink()


@needs_root
@pytest.mark.parametrize("spooled", [False, True])
def test_a_full_disk_is_an_error_that_says_so_and_loses_nothing(tiny, small_disk, monkeypatch, spooled):
    """Wherever it strikes: in the header, the frames, the spool of the index, the index, or the end."""
    states = [noise(4 * BLOCK)]
    for number in range(1, 5):
        states.append(states[-1][: number * BLOCK // 2] + noise(90_000, number) + bytes(BLOCK))
    tiny.capture_states(states)
    if spooled:
        monkeypatch.setattr(spool, "_HELD_BYTES", 1)
    sources = [tiny.image(number) for number in range(1, 5)]
    target = small_disk / "D_VOL-b001-i004-cd.spi"
    before = open_files()
    size = tiny.merge(0, 4, "-cd").stored_bytes
    failed = 0
    for left_kib in (0, 4, 12, 40, *range(size // 1024 - 40, size // 1024 + 60, 4)):
        fill(small_disk, left_kib * 1024)
        try:
            consolidate(sources, target)
        except StorageError as error:
            failed += 1
            assert (error.message, error.path) == ("the disk is full", str(target))  # noqa: PT017
            assert names(small_disk) == ["filler", "lost+found"], f"with {left_kib} KiB left"
        assert open_files() == before
        empty(small_disk)
    assert 5 < failed < 29, "it was tried with too little room, and with enough"
    assert consolidate(sources, target).stored_bytes == size
    empty(small_disk)
    assert all(verify_image(source).status == "good" for source in sources)


# --- killed


def test_a_killed_writer_leaves_no_final_name_and_the_next_one_sweeps(tiny, quick_path):
    tiny.capture_states([noise(64 * BLOCK, 1), noise(64 * BLOCK, 2), noise(64 * BLOCK, 3)])
    sources = [tiny.image(1), tiny.image(2)]
    out = quick_path / "out"
    out.mkdir()
    target = out / "D_VOL-b001-i002-cd.spi"
    script = (
        "import sys; from pathlib import Path; from storage.consolidate import consolidate\n"
        "paths = [Path(word) for word in sys.argv[1:]]\n"
        "def wait(*_): print('at it', flush=True), sys.stdin.read()\n"
        "consolidate(paths[:-1], paths[-1], progress=wait)"
    )
    command = [sys.executable, "-c", script, *map(str, sources), str(target)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == b"at it\n"
        sweep_partials(out)
        assert len(partials(out)) == 1, "its writer lives"
        started.send_signal(signal.SIGKILL)
        started.wait()
    assert not target.exists()
    assert len(partials(out)) == 1
    made = consolidate(sources, target)
    assert names(out) == [target.name]
    assert verify_image(made.path).status == "good"
