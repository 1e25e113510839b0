"""Noticing: pacing, gathering, and the kernel's events on a real folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Empty, Queue

import pytest

from storage.catalog import Catalog, sqlite_url
from storage.catalog.folders import add_folder
from watcher.coalescing import Coalescer
from watcher.observing import FolderObserver, is_image_file
from watcher.pacing import Pacer
from watcher.watching import Watcher

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
SOON_S = 10.0
QUIET_S = 0.3


class Marks:
    """Collects what was marked, to be waited for."""

    def __init__(self) -> None:
        self._queue: Queue[int] = Queue()

    def __call__(self, folder_id: int) -> None:
        self._queue.put(folder_id)

    def next(self) -> int:
        return self._queue.get(timeout=SOON_S)

    def some(self) -> list[int]:
        """Return what comes, at least one (a move out of the folder is held back for half a second)."""
        return [self.next(), *self.drain()]

    def drain(self) -> list[int]:
        """Return all that comes until nothing does for a moment."""
        found = []
        try:
            while True:
                found.append(self._queue.get(timeout=QUIET_S))
        except Empty:
            return found


@pytest.fixture
def marks() -> Marks:
    return Marks()


@pytest.fixture
def observer(marks: Marks) -> Iterator[FolderObserver]:
    made = FolderObserver(marks)
    made.start()
    yield made
    made.stop()


# --- pacing


def test_the_same_is_said_again_only_after_a_while():
    pacer = Pacer(5 * SECOND)
    assert pacer.may_say("a", NOON)
    assert not pacer.may_say("a", NOON + 4 * SECOND)
    assert pacer.may_say("b", NOON + 4 * SECOND)
    assert pacer.may_say("a", NOON + 5 * SECOND)
    pacer.forget("a")
    assert pacer.may_say("a", NOON + 5 * SECOND)


def test_a_clock_put_back_silences_nothing():
    pacer = Pacer(5 * SECOND)
    assert pacer.may_say("a", NOON)
    assert pacer.may_say("a", NOON - 3600 * SECOND)


def test_what_was_said_long_ago_is_forgotten():
    pacer = Pacer(5 * SECOND)
    for number in range(10_001):
        assert pacer.may_say(number, NOON + number * SECOND)
    assert len(pacer._said) < 20


# --- gathering


def test_many_marks_are_one_word_and_none_is_lost():
    said: Queue[int] = Queue()
    first_said, go_on = threading.Event(), threading.Event()

    def say(folder_id: int) -> bool:
        said.put(folder_id)
        first_said.set()
        return go_on.wait(SOON_S)

    coalescer = Coalescer(say)
    coalescer.start()
    for _ in range(100):
        coalescer.mark(7)
    assert first_said.wait(SOON_S)
    for _ in range(100):
        coalescer.mark(7)  # while it is being said: it changed again
    go_on.set()
    assert [said.get(timeout=SOON_S), said.get(timeout=SOON_S)] == [7, 7]
    coalescer.stop()
    assert said.empty()


def test_what_cannot_be_said_is_said_later():
    tries: Queue[int] = Queue()

    def say(folder_id: int) -> bool:
        tries.put(folder_id)
        return tries.qsize() > 1

    coalescer = Coalescer(say)
    coalescer.start()
    coalescer.mark(3)
    assert tries.get(timeout=SOON_S) == 3
    tries.put(0)
    assert tries.get(timeout=SOON_S) == 0
    assert tries.get(timeout=SOON_S) == 3
    coalescer.stop()


# --- observing


@pytest.mark.parametrize(
    ("path", "is_image"),
    [
        ("/x/D_VOL-b001.spf", True),
        ("/x/D VÖL-b001-i002-cd-cm.spi", True),
        ("/x/D_VOL-b001.sp1", True),
        ("/x/.D_VOL-b001.spf.0123.rf-partial", False),
        ("/x/D_VOL-b001.spf.tmp", False),
        ("/x/D_VOL-b001.md5", False),
        ("/x/holiday.spi", False),
        ("", False),
    ],
)
def test_only_names_of_images_count(path: str, is_image: bool):
    assert is_image_file(path) is is_image


def test_each_way_to_change_a_folder_is_noticed(observer: FolderObserver, marks: Marks, tmp_path: Path):
    folder, aside = tmp_path / "it's wätched", tmp_path / "aside"
    for directory in (folder, aside):
        directory.mkdir()
    observer.watch({5: folder})
    assert marks.drain() == [5]  # for what came before the watch
    image = folder / "A-b001.spf"

    image.write_bytes(b"written in place")
    assert set(marks.some()) == {5}
    image.rename(folder / ".aside")
    assert set(marks.some()) == {5}
    (folder / ".aside").rename(image)
    assert set(marks.some()) == {5}
    image.rename(aside / image.name)
    assert set(marks.some()) == {5}
    (aside / image.name).rename(image)
    assert set(marks.some()) == {5}
    image.unlink()
    assert set(marks.some()) == {5}
    (folder / "letter.txt").write_text("of no interest")
    (folder / ".A-b001.spf.12.rf-partial").write_text("of no interest yet")
    assert marks.drain() == []


def test_folders_come_and_go(observer: FolderObserver, marks: Marks, tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    observer.watch({1: one, 2: two})  # two is not there yet
    assert marks.drain() == [1]
    two.mkdir()
    observer.watch({1: one, 2: two})
    assert marks.drain() == [2]
    observer.watch({2: two})
    (one / "A-b001.spf").write_bytes(b"")
    assert marks.drain() == []
    (two / "A-b001.spf").write_bytes(b"")
    assert set(marks.some()) == {2}


def test_a_folder_that_was_exchanged_is_watched_anew(observer: FolderObserver, marks: Marks, tmp_path: Path):
    folder = tmp_path / "mount"
    folder.mkdir()
    observer.watch({1: folder})
    assert marks.next() == 1
    folder.rename(tmp_path / "unplugged")
    observer.watch({1: folder})
    folder.mkdir()
    observer.watch({1: folder})
    marks.drain()
    (folder / "A-b001.spf").write_bytes(b"")
    assert set(marks.some()) == {1}


def test_a_clock_put_back_makes_every_folder_due(tmp_path: Path):
    catalog = Catalog(sqlite_url(tmp_path / "catalogue.sqlite"))
    catalog.prepare()
    said: Queue[int] = Queue()

    def say(folder_id: int) -> bool:
        said.put(folder_id)
        return True

    with catalog.write() as session:  # a folder that cannot be watched, so that only the timer names it
        folder = add_folder(session, tmp_path / "none", "UTC", now=NOON, machine_now=NOON + 900 * SECOND)
    watcher = Watcher(catalog, say, say_again=5 * SECOND)
    watcher.start()
    watcher.tick(NOON)
    assert said.empty()
    watcher.tick(NOON - 3600 * SECOND)
    assert said.get(timeout=SOON_S) == folder.id
    watcher.stop()
    catalog.close()
