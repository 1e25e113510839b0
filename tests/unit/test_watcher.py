"""Noticing: pacing, gathering, and the kernel's events on a real folder."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Empty, Queue

import pytest

from storage.catalog import Catalog, sqlite_url
from storage.catalog.folders import add_folder
from tests.waiting import wait_for
from watcher.coalescing import Coalescer
from watcher.file_systems import Mount, mount_of, parse_mounts, tells_changes
from watcher.kernel_events import KernelEvents, concerns_an_image
from watcher.looking import THREADS_AT_ONCE, Lookers
from watcher.observing import FolderObserver, Manner
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


def observe(observer: FolderObserver, folders: dict[int, Path], manners: dict[int, Manner]) -> None:
    """Tick until the folders are observed as they should be."""

    def is_done() -> bool:
        observer.watch(folders)
        return observer.manners() == manners

    wait_for(is_done, f"{manners}, not {observer.manners()}")


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


def test_folders_are_said_in_the_order_in_which_they_were_marked():
    said: Queue[int] = Queue()
    tries = itertools.count(1)

    def say(folder_id: int) -> bool:
        said.put(folder_id)
        return next(tries) > 3

    coalescer = Coalescer(say)
    for folder_id in (9, 2, 7, 2):
        coalescer.mark(folder_id)
    coalescer.start()
    assert [said.get(timeout=SOON_S) for _ in range(3)] == [9, 2, 7]
    coalescer.mark(1)
    assert [said.get(timeout=SOON_S) for _ in range(4)] == [9, 2, 7, 1]
    coalescer.stop()


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
    ("path", "is_told"),
    [
        ("/x/D_VOL-b001.spf", True),
        ("/x/D VÖL-b001-i002-cd-cm.spi", True),
        ("/x/D_VOL-b001.sp1", True),
        ("/x/.D_VOL-b001.spf.0123.rf-partial", False),
        ("/x/D_VOL-b001.spf.tmp", False),
        ("/x/D's VÖL-b001-i002.md5", True),
        ("/x/D_VOL-b001.MD5", True),
        ("/x/D_VOL-b001.sp1.md5", True),
        ("/x/holiday.md5", False),
        ("/x/.md5", False),
        ("/x/holiday.spi", False),
        ("", False),
    ],
)
def test_only_names_of_images_and_their_side_files_count(path: str, is_told: bool):
    assert concerns_an_image(path) is is_told


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
    side_file = folder / "A-b001.md5"
    for words in ("what ShadowProtect says", "what a person put right"):
        side_file.write_text(words)
        assert set(marks.some()) == {5}
    side_file.unlink()
    assert set(marks.some()) == {5}
    (folder / "letter.txt").write_text("of no interest")
    (folder / ".A-b001.spf.12.rf-partial").write_text("of no interest yet")
    assert marks.drain() == []


def test_folders_come_and_go(observer: FolderObserver, marks: Marks, tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    observe(observer, {1: one, 2: two}, {1: Manner.KERNEL, 2: Manner.ABSENT})
    assert marks.drain() == [1]
    two.mkdir()
    observe(observer, {1: one, 2: two}, {1: Manner.KERNEL, 2: Manner.KERNEL})
    assert marks.drain() == [2]
    observer.watch({2: two})
    (one / "A-b001.spf").write_bytes(b"")
    assert marks.drain() == []
    (two / "A-b001.spf").write_bytes(b"")
    assert set(marks.some()) == {2}


def test_a_folder_that_was_exchanged_is_watched_anew(observer: FolderObserver, marks: Marks, tmp_path: Path):
    folder = tmp_path / "mount"
    folder.mkdir()
    observe(observer, {1: folder}, {1: Manner.KERNEL})
    assert marks.drain() == [1]
    folder.rename(tmp_path / "unplugged")
    observe(observer, {1: folder}, {1: Manner.ABSENT})
    assert set(marks.some()) == {1}
    folder.mkdir()
    observe(observer, {1: folder}, {1: Manner.KERNEL})
    assert set(marks.some()) == {1}
    (folder / "A-b001.spf").write_bytes(b"")
    assert set(marks.some()) == {1}


POLLED = """
import sys
from pathlib import Path
from queue import Queue
from tests.waiting import wait_for
from watcher.observing import FolderObserver, Manner

Path("/proc/sys/user/max_inotify_" + sys.argv[1]).write_text(sys.argv[2])
folders = {number: Path(sys.argv[3]) / str(number) for number in (1, 2)}
for folder in folders.values():
    folder.mkdir()
marked = Queue()
observer = FolderObserver(marked.put, poll_s=0.1)
observer.start()

def tick(condition):
    def check():
        observer.watch(folders)
        return condition()
    return check

wait_for(tick(lambda: Manner.ABSENT not in observer.manners().values()), "both to be observed")
print(" ".join(sorted(observer.manners().values())))
while not marked.empty():
    marked.get()
for number, folder in folders.items():
    image = folder / "A-b001.spf"
    image.write_bytes(b"written in place")
    wait_for(tick(lambda: not marked.empty()), "what was written")
    while not marked.empty():
        assert marked.get() == number
    image.unlink()
    wait_for(tick(lambda: not marked.empty()), "what was deleted")
    while not marked.empty():
        assert marked.get() == number
    (folder / ".aside").write_bytes(b"a side file")
    (folder / ".aside").rename(image.with_suffix(".md5"))
    wait_for(tick(lambda: not marked.empty()), "the side file")
    while not marked.empty():
        assert marked.get() == number
observer.stop()
"""


@pytest.mark.parametrize(
    ("limit", "count", "manners"),
    [("watches", 1, "kernel polling"), ("instances", 0, "polling polling")],
)
def test_where_the_kernel_refuses_folders_are_polled(tmp_path: Path, limit: str, count: int, manners: str):
    words = [
        "unshare",
        "--user",
        "--map-root-user",
        sys.executable,
        "-c",
        POLLED,
        limit,
        str(count),
        str(tmp_path),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == manners
    assert (done.stdout + done.stderr).count("folder is polled") == manners.count("polling")


def test_lost_events_mean_that_all_has_to_be_looked_at(marks: Marks, tmp_path: Path):
    events = KernelEvents(marks, marks)
    events.watch(3, tmp_path)
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    image = tmp_path / "A-b001.spf"
    images = [tmp_path / f"A-b001-i00{number}.spi" for number in (1, 2)]
    with events._queue._lock:  # nothing is read meanwhile, so that the kernel's queue runs over
        for _ in range(limit // 2 + 1):
            for path in images:  # in turn, for the kernel gathers what is alike
                path.touch()
        image.touch()
        for path in (*images, image):
            path.unlink()
    assert set(marks.some()) == {3}
    assert events.works
    image.touch()
    assert set(marks.some()) == {3}
    events.stop()


def test_a_folder_that_does_not_answer_holds_up_no_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("watcher.looking.SILENT_AFTER_S", 0.1)
    lookers, answer, seen = Lookers(), threading.Event(), Marks()
    silent = range(2 * THREADS_AT_ONCE)
    for folder_id in silent:
        assert lookers.begin(folder_id, answer.wait)
    assert not lookers.begin(0, lambda: seen(0))

    def is_silent() -> bool:
        lookers.begin(1000, lambda: seen(1000))
        return lookers.silent() == frozenset(silent)

    wait_for(is_silent, "all to be known as silent")
    assert seen.next() == 1000
    answer.set()
    wait_for(lambda: not lookers.silent(), "all to have answered")
    assert lookers.begin(0, lambda: seen(0))
    wait_for(lambda: 0 in seen.drain(), "a second look")


# --- file systems


MOUNTS = """\
22 27 0:21 / / rw,relatime - ext4 /dev/vda1 rw
30 22 0:30 / /mnt rw shared:1 - tmpfs tmpfs rw
31 30 0:31 / /mnt/our\\040nas rw,relatime shared:2 master:1 - nfs4 nas:/x rw,vers=4.2
32 22 0:32 / /mnt/our\\040nas/disk rw - fuseblk /dev/sdb1 rw
33 22 0:33 / /twice rw - cifs //a/b rw
34 22 0:34 / /twice rw - ext4 /dev/vdb rw
not a mount
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv", "ext4"),
        ("/mnt", "tmpfs"),
        ("/mnt/our nas", "nfs4"),
        ("/mnt/our nas/a/b", "nfs4"),
        ("/mnt/our nasty", "tmpfs"),
        ("/mnt/our nas/disk/x", "fuseblk"),
        ("/twice/images", "ext4"),
    ],
)
def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount(path: str, kind: str):
    mounts = parse_mounts(MOUNTS)
    assert Mount("/mnt/our nas", "nfs4") in mounts
    assert len(mounts) == 6
    found = mount_of(path, mounts)
    assert found is not None
    assert found.kind == kind


def test_shares_are_known_as_such():
    shares = ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.rclone", "fuse", "virtiofs"]
    disks = ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "vfat", "fuseblk", "fuse.ntfs-3g"]
    assert not any(map(tells_changes, shares))
    assert all(map(tells_changes, disks))


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
