"""Sets are published whole or not at all; what a crash leaves at any step is swept, and nothing else is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from actors.consolidate import _is_taken
from actors.listing import list_images
from policies.errors import BusyError, ConfigurationError, StorageError
from storage import output, partial_set, publish
from storage.consolidate import consolidate
from storage.folder import scan_folder
from storage.partial_set import PartialSet
from storage.publish import PARTIAL_SUFFIX, sweep_partials
from storage.verify import verify_image
from tests.loop import needs_root, small_file_system
from tests.unit.tiny import BLOCK, TinyVolume, fill, names, noise, open_files

ROOT = Path(__file__).parents[2]
NAME = "D_VOL-b001-i002-cd.spi"
WHOLE = ["D_VOL-b001-i002-cd.sp1", "D_VOL-b001-i002-cd.sp2", "D_VOL-b001-i002-cd.sp3", NAME]


def write_set(folder: Path, parts: int = 4) -> PartialSet:
    """Begin a set of parts that hold their own numbers."""
    written = PartialSet(folder / NAME, 10)
    for number in range(parts):
        if number:
            written.begin_part()
        os.write(written.fd, b"part %d" % number)
    return written


def test_a_set_is_published_and_nothing_else_is_left(tmp_path):
    before = open_files()
    with write_set(tmp_path) as written:
        assert all(name.endswith(PARTIAL_SUFFIX) for name in names(tmp_path))
        assert len(names(tmp_path)) == written.part_count == 4
        written.publish()
    assert names(tmp_path) == WHOLE
    assert [(tmp_path / name).read_bytes() for name in (NAME, *WHOLE[:3])] == [
        b"part %d" % number for number in range(4)
    ]
    assert {(tmp_path / name).stat().st_nlink for name in WHOLE} == {1}
    assert open_files() == before


def test_leaving_without_publishing_leaves_nothing(tmp_path):
    before = open_files()
    with pytest.raises(ValueError, match="on the way"), write_set(tmp_path):
        raise ValueError("on the way")
    assert (names(tmp_path), open_files()) == ([], before)


@pytest.mark.parametrize("taken", [NAME, *WHOLE[:3], "D_VOL-b001-i002-cd.sp9"])
def test_no_name_of_a_set_is_ever_taken_from_another(tmp_path, taken):
    """Neither before nor while it is written; also no name that would be read as one more part."""
    (tmp_path / taken).write_bytes(b"mine")
    with pytest.raises(BusyError):
        PartialSet(tmp_path / NAME, 10)
    assert names(tmp_path) == [taken]
    (tmp_path / taken).unlink()
    if taken == "D_VOL-b001-i002-cd.sp9":  # one that comes later, and leaves a gap, is found by whoever reads
        return
    with write_set(tmp_path) as written:
        (tmp_path / taken).write_bytes(b"mine")
        with pytest.raises(BusyError):
            written.publish()
    assert names(tmp_path) == [taken]
    assert (tmp_path / taken).read_bytes() == b"mine"


def test_a_name_that_is_taken_at_the_last_moment(tmp_path, monkeypatch):
    """Between the look and the link: what was placed before is taken back."""
    real = os.link

    def meddling(source: Path, target: Path) -> None:
        if target.name == WHOLE[1]:
            target.write_bytes(b"mine")
        real(source, target)

    monkeypatch.setattr(partial_set.os, "link", meddling)
    with write_set(tmp_path) as written, pytest.raises(BusyError) as caught:
        written.publish()
    assert caught.value.path == str(tmp_path / WHOLE[1])
    assert names(tmp_path) == [WHOLE[1]]
    assert (tmp_path / WHOLE[1]).read_bytes() == b"mine"


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(partial_set.os, "link", refuse)
    with write_set(tmp_path) as written:
        written.publish()
    assert names(tmp_path) == WHOLE
    for name in WHOLE:
        (tmp_path / name).unlink()
    with write_set(tmp_path) as written:
        (tmp_path / NAME).write_bytes(b"mine")
        with pytest.raises(BusyError):
            written.publish()
    assert names(tmp_path) == [NAME], "what was renamed already is taken back"


@pytest.mark.parametrize("call", ["fsync", "link", "rename", "sync of the folder"])
def test_a_medium_that_fails_while_publishing(tmp_path, monkeypatch, call):
    before = open_files()
    real = os.fsync

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    def failing_sync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").is_dir() == (call == "sync of the folder"):
            fail()
        real(fd)

    with write_set(tmp_path) as written:
        if call == "link":
            monkeypatch.setattr(partial_set.os, "link", fail)
        elif call == "rename":
            monkeypatch.setattr("storage.publish.rename_without_replacing", fail)
        else:
            monkeypatch.setattr(partial_set.os, "fsync", failing_sync)
        with pytest.raises(StorageError, match="Input/output error"):
            written.publish()
    assert (names(tmp_path), open_files()) == ([], before)


@pytest.mark.parametrize("call", ["sync", "unlink", "late rename"])
def test_an_error_after_the_deed_is_no_failure_of_it(tmp_path, monkeypatch, call):
    """All names are there: nothing is taken back, and whoever asks is told so."""
    before = open_files()
    real = publish.rename_without_replacing

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    def renamed(source: Path, target: Path) -> None:
        real(source, target)
        if call == "sync":
            monkeypatch.setattr(publish.os, "fsync", fail)
        elif call == "unlink":
            monkeypatch.setattr(Path, "unlink", fail)
        else:
            fail()  # as over a network: done, but the answer was lost

    with monkeypatch.context() as failing:
        failing.setattr(publish, "rename_without_replacing", renamed)
        with write_set(tmp_path) as written:
            if call == "sync":
                with pytest.raises(StorageError, match="is written, whole, and has its name"):
                    written.publish()
            else:
                written.publish()
    monkeypatch.undo()
    assert open_files() == before
    sweep_partials(tmp_path)
    assert names(tmp_path) == WHOLE


def test_where_nothing_can_be_told_nothing_is_taken_back(tmp_path, monkeypatch):
    """The network is gone amid the renaming: the set may be there, so its parts stay until that can be seen."""
    real = Path.lstat

    def gone(path: Path):
        if path.name == NAME:
            raise OSError(5, "Input/output error")
        return real(path)

    def lost(source: Path, target: Path) -> None:
        source.rename(target)
        monkeypatch.setattr(Path, "lstat", gone)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(publish, "rename_without_replacing", lost)
    with pytest.raises(StorageError), write_set(tmp_path) as written:
        written.publish()
    monkeypatch.undo()
    sweep_partials(tmp_path)
    assert names(tmp_path) == WHOLE


def test_a_medium_that_fails_even_at_tidying_up(tmp_path, monkeypatch):
    """What cannot be removed is left to a sweep: nobody holds it any more."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    before = open_files()
    written = write_set(tmp_path)
    with monkeypatch.context() as failing:
        failing.setattr(Path, "unlink", refuse)
        with pytest.raises(StorageError):
            written.discard()
    assert len(names(tmp_path)) == 4
    assert open_files() == before
    sweep_partials(tmp_path)
    assert names(tmp_path) == []


def test_there_is_a_largest_number_of_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(partial_set, "PART_NUMBER_MAX", 2)
    with pytest.raises(ConfigurationError, match="needs more than 2 further parts") as caught:
        write_set(tmp_path)
    assert "--part-size" in (caught.value.hint or "")
    sweep_partials(tmp_path)


# --- killed at every step

KILLER = """
import os, signal, sys
from pathlib import Path
from storage import publish
from storage.partial_set import PartialSet
steps, at = int(sys.argv[2]), 0
def dying(real):
    def call(*arguments, **more):
        global at
        at += 1
        if at > steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **more)
    return call
folder = Path(sys.argv[1])
os.fsync, os.link, os.unlink = dying(os.fsync), dying(os.link), dying(os.unlink)
publish.rename_without_replacing = dying(publish.rename_without_replacing)
with PartialSet(folder / sys.argv[3], 10) as written:
    for number in range(4):
        if number:
            written.begin_part()
        os.write(written.fd, b"part %d" % number)
    written.publish()
print(at)
"""
"""Does as `write_set` does, without the second that numba takes."""


def killed_after(folder: Path, steps: int) -> str:
    """Write a set in a process that kills itself before one of its steps; return what it said at its end."""
    command = [sys.executable, "-c", KILLER, str(folder), str(steps), NAME]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode in (0, -signal.SIGKILL), ran.stderr
    return ran.stdout.strip()


def test_a_crash_at_any_step_leaves_all_or_nothing(tmp_path):
    (tmp_path / "counted").mkdir()
    steps = int(killed_after(tmp_path / "counted", 10_000))
    assert steps > 12
    published = 0
    for step in range(steps):
        folder = tmp_path / f"{step}"
        folder.mkdir()
        (folder / "E_VOL-b001.sp1").write_bytes(b"a rest of something else")
        killed_after(folder, step)
        left = names(folder)
        listed = {image.path.name for image in scan_folder(folder)}
        assert listed - {"E_VOL-b001.spf"} == ({NAME} if NAME in left else set()), "half a set is shown"
        if NAME in left:
            published += 1
            assert set(WHOLE) <= set(left), f"killed before step {step}: {left}"
        sweep_partials(folder)
        rest = [name for name in names(folder) if name != "E_VOL-b001.sp1"]
        assert rest == (WHOLE if NAME in left else []), f"killed before step {step}, swept: {rest}"
        assert (folder / "E_VOL-b001.sp1").read_bytes() == b"a rest of something else"
        if not rest:
            with write_set(folder) as written:
                written.publish()
        assert [name for name in names(folder) if name != "E_VOL-b001.sp1"] == WHOLE
    assert 0 < published < steps


def test_the_agent_takes_no_notice_of_what_a_crash_left(tmp_path):
    killed_after(tmp_path, 8)
    assert any(name in WHOLE for name in names(tmp_path))
    assert list_images(tmp_path) == {}
    assert not _is_taken(tmp_path / NAME), "it is swept away"
    assert names(tmp_path) == []
    (tmp_path / WHOLE[1]).write_bytes(b"a rest that may be dear to somebody")
    assert list(list_images(tmp_path)) == [NAME]
    assert _is_taken(tmp_path / NAME)
    assert names(tmp_path) == [WHOLE[1]]


def test_a_sweep_that_dies_is_carried_on(tmp_path):
    """Whatever it has removed when it dies, the next sweep comes to the same end."""
    for stop in range(12):
        folder = tmp_path / f"{stop}"
        folder.mkdir()
        killed_after(folder, 8)
        before = names(folder)
        assert NAME not in before
        assert any(name in WHOLE for name in before), before
        removed = 0
        real = Path.unlink

        def dying(path: Path, missing_ok: bool = False, stop: int = stop) -> None:
            nonlocal removed
            if removed == stop:
                raise KeyboardInterrupt
            removed += 1
            real(path, missing_ok)  # noqa: B023 - called within this round only

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "unlink", dying)
            with contextlib.suppress(KeyboardInterrupt):
                sweep_partials(folder)
        sweep_partials(folder)
        assert names(folder) == []


def test_a_living_writers_set_is_not_swept(tmp_path, monkeypatch):
    """Not even while it is being published: a sweep of another writer comes after every link."""
    real = os.link

    def link_and_sweep(source: Path, target: Path) -> None:
        real(source, target)
        sweep_partials(tmp_path)
        assert scan_folder(tmp_path) == ()

    monkeypatch.setattr(partial_set.os, "link", link_and_sweep)
    with write_set(tmp_path) as written:
        sweep_partials(tmp_path)
        written.publish()
    assert names(tmp_path) == WHOLE


def test_a_set_that_is_published_while_a_sweep_looks_at_it(tmp_path, monkeypatch):
    """The sweep opens the first part's partial file; before it can lock it, that is an image, and unlocked."""
    written = write_set(tmp_path)
    publish_first, lock = written._first.publish, fcntl.flock

    def sweep_meanwhile() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", lambda fd, how: (publish_first(), lock(fd, how)))
            sweep_partials(tmp_path)

    monkeypatch.setattr(written._first, "publish", sweep_meanwhile)
    with written:
        written.publish()
    assert names(tmp_path) == WHOLE
    assert [(tmp_path / name).read_bytes() for name in WHOLE[:3]] == [b"part %d" % n for n in (1, 2, 3)]


def test_a_writer_that_goes_on_and_dies_while_a_sweep_looks_at_it(tmp_path, monkeypatch):
    """The sweep has listed the folder; then more parts are begun, get their names, and nobody holds them any more."""
    written = write_set(tmp_path, 3)
    lock = fcntl.flock

    def die_meanwhile(fd: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        written.begin_part()
        for part in written._further:
            partial_set._place(part)
        written._close_part()
        written._first.abandon()
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", die_meanwhile)
    sweep_partials(tmp_path)
    assert names(tmp_path) == []


# --- a full disk


@needs_root
def test_a_full_disk_loses_nothing_and_leaves_nothing(tiny: TinyVolume, tmp_path):
    tiny.capture_states([noise(4 * BLOCK, number) for number in range(4)])
    sources = [tiny.image(number) for number in (1, 2, 3)]
    size = tiny.merge(0, 3, "-cd").stored_bytes
    failed = 0
    with small_file_system(tmp_path, 2 << 20) as disk:
        target = disk / "D_VOL-b001-i003-cm.spi"
        before = open_files()
        for left_kib in (0, 4, 64, 100, *range(size // 1024 - 40, size // 1024 + 60, 8)):
            fill(disk, left_kib * 1024)
            try:
                consolidate(sources, target, part_bytes=70_000)
            except StorageError as error:
                failed += 1
                assert (error.message, error.path) == ("the disk is full", str(target))  # noqa: PT017
                assert names(disk) == ["filler", "lost+found"], f"with {left_kib} KiB left"
            assert open_files() == before
            for path in disk.iterdir():
                if path.is_file():
                    path.unlink()
        assert 4 < failed < 17, "it was tried with too little room, and with enough"
        assert consolidate(sources, target, part_bytes=70_000).stored_bytes == size
        assert verify_image(target).status == "good"


def test_parts_may_be_written_past_the_cache(tiny: TinyVolume, tmp_path, monkeypatch):
    """On a real file system: the same bytes as through the cache."""
    tiny.capture_states([noise(40 * BLOCK, number) for number in range(3)])
    monkeypatch.setattr(output, "_PAST_CACHE_BYTES", 1)
    monkeypatch.setattr("storage.consolidate._PAST_CACHE_BYTES", 1)
    target = tmp_path / "D_VOL-b001-i002-cm.spi"
    made = consolidate([tiny.image(1), tiny.image(2)], target, part_bytes=600_001)
    assert verify_image(target, deep=True).status == "good"
    assert made.root == tiny.merge(0, 2, "-cd").root
