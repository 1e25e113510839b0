"""Files that are opened when they are read: the same ones from beginning to end, and none that stalls the others."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from policies.errors import StorageError
from storage import open_files as pool
from storage.open_files import SharedFile
from tests.unit.tiny import open_files

PATIENCE_S = 60


def let_go(file: SharedFile) -> None:
    """Have the pool close a file that nobody reads from, as it does to make room."""
    while str(file.path) in open_files():
        assert pool._pool._close_oldest()


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"another"),
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: path.write_bytes(b"longer than before"),
    ],
    ids=["rewritten", "touched", "grown"],
)
def test_a_file_that_changed_under_the_same_inode_is_not_read_on(tmp_path, change):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    os.utime(path, ns=(5, 5))
    file = SharedFile(path)
    let_go(file)
    change(path)
    with pytest.raises(StorageError, match="was replaced or changed"), file.descriptor():
        pass
    file.close()


def test_further_names_and_other_rights_are_no_change(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    file = SharedFile(path)
    let_go(file)
    os.link(path, tmp_path / "second")
    path.chmod(0o600)
    with file.descriptor() as fd:
        assert os.pread(fd, 9, 0) == b"content"
    file.close()


def test_a_closed_file_stays_closed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    before = open_files()
    file = SharedFile(path)
    file.close()
    with pytest.raises(ValueError, match="file was closed"):
        file.take()
    file.close()
    assert open_files() == before


@pytest.fixture
def sleeping(tmp_path, monkeypatch):
    """A file whose medium sleeps until it is woken."""
    path = tmp_path / "asleep"
    path.write_bytes(b"asleep")
    woken, begun = threading.Event(), threading.Event()
    real = os.open

    def slow(name, *arguments, **named):
        if str(name) == str(path):
            begun.set()
            assert woken.wait(PATIENCE_S)
        return real(name, *arguments, **named)

    monkeypatch.setattr(pool.os, "open", slow)
    yield path, begun, woken
    woken.set()


def test_a_medium_that_sleeps_stalls_nobody_else(tmp_path, sleeping):
    path, begun, woken = sleeping
    found = []
    sleeper = threading.Thread(target=lambda: found.append(SharedFile(path)))
    sleeper.start()
    assert begun.wait(PATIENCE_S)
    other = tmp_path / "other"
    other.write_bytes(b"awake")
    file = SharedFile(other)  # in this thread: it would hang if one waited for the other
    with file.descriptor() as fd:
        assert os.pread(fd, 9, 0) == b"awake"
    file.close()
    assert not found
    woken.set()
    sleeper.join(PATIENCE_S)
    found[0].close()


def test_a_file_that_is_closed_while_it_is_being_opened(tmp_path, sleeping):
    path, begun, woken = sleeping
    woken.set()
    file = SharedFile(path)
    let_go(file)
    before = open_files()
    begun.clear()
    woken.clear()
    told = []

    def read() -> None:
        try:
            file.take()
        except ValueError as error:
            told.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(PATIENCE_S)
    file.close()
    woken.set()
    reader.join(PATIENCE_S)
    assert told == [f"{path} was closed"]
    assert open_files() == before


def test_many_threads_share_few_descriptors(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_limit", lambda: 4)
    files = []
    for number in range(12):
        path = Path(tmp_path, str(number))
        path.write_bytes(b"%d" % number)
        files.append(SharedFile(path))
    wrong = []

    def read(seed: int) -> None:
        for turn in range(300):
            number = (turn * (seed + 1) + seed) % len(files)
            with files[number].descriptor() as fd:
                if os.pread(fd, 9, 0) != b"%d" % number:
                    wrong.append(number)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not wrong
    ours = {str(file.path) for file in files}
    assert len(ours & open_files()) <= 4 + len(threads)
    for file in files:
        file.close()
    assert not ours & open_files()
