"""The ledger: what it says after it was torn, damaged, forged, grown and written by many at once."""

from __future__ import annotations

import errno
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import FormatError, OwnershipError, StorageError, UnsupportedVersionError
from storage import ledger
from storage.ledger import append_entries, checked_line, read_ledger, rewrite_ledger
from storage.ledger_entries import (
    KEPT_FOR,
    Entry,
    HoldEntry,
    LedgerState,
    ReporterEntry,
    SeenEntry,
    SightEntry,
    TombstoneEntry,
    pack_entry,
    unpack_entry,
)
from storage.ledger_owner import Owner, Ownership, become_owner, give_up, read_owner

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ME = Owner("ab" * 16, "here.example", NOON)
OTHER = Owner("cd" * 16, "there.example", NOON + DAY)


def hold(number: int = 1, **changes: object) -> HoldEntry:
    values = {
        "uid": f"{number:032x}",
        "name": "A-b001-i001.spi",
        "point": None,
        "reason": "audit\nof “Müller”",
        "placed_by": "ann",
        "placed_at": NOON,
    }
    return HoldEntry(**(values | changes))  # type: ignore[arg-type]


def stone(number: int = 1, **changes: object) -> TombstoneEntry:
    values = {
        "token": f"20260302-{number:016x}",
        "name": f"A-b001-i{number:03d}.spi",
        "root": f"{number:064x}",
        "tier": "incremental",
        "state": "retired",
        "to_incrementals": False,
        "reason": "rolled up",
        "covered_by": "A-b001-i009-cd.spi",
        "stored_bytes": 1 << 40,
        "files": (
            {"name": f"A-b001-i{number:03d}.spi", "size_bytes": 5, "mtime_ns": -1, "inode": (1 << 64) - 1},
        ),
        "first_seen_at": NOON,
        "retiring_at": NOON,
        "retired_at": NOON,
    }
    return TombstoneEntry(**(values | changes))  # type: ignore[arg-type]


SEEN = SeenEntry("1".rjust(64, "0"), "A-b001-i001.spi", NOON)
ALL: list[Entry] = [hold(), stone(), SEEN, SightEntry("a" * 32, NOON), ReporterEntry("headstart:x/y", NOON)]


@pytest.fixture
def folder(quick_path: Path) -> Path:
    made = quick_path / "an odd näme's"
    made.mkdir()
    return made


def path_of(folder: Path) -> Path:
    return folder / ".rollforward" / "ledger"


def state(*entries: Entry) -> LedgerState:
    return LedgerState(entries)


# --- lines


@pytest.mark.parametrize("entry", ALL)
def test_an_entry_is_written_and_read(entry: Entry):
    assert unpack_entry(pack_entry(entry)) == entry


@pytest.mark.parametrize(
    ("entry", "changes"),
    [
        (stone(), {"name": "../../etc/passwd"}),
        (stone(), {"name": None}),
        (stone(), {"name": "x" * 256}),
        (stone(), {"token": "../x"}),
        (stone(), {"token": ""}),
        (stone(), {"root": "12"}),
        (stone(), {"root": "AB" * 32}),
        (stone(), {"state": "gone"}),
        (stone(), {"tier": 3}),
        (stone(), {"stored_bytes": -1}),
        (stone(), {"stored_bytes": True}),
        (stone(), {"files": [{"name": "/", "size_bytes": 1, "mtime_ns": 1, "inode": 1}]}),
        (stone(), {"files": [{"name": "x"}]}),
        (stone(), {"files": "x"}),
        (stone(), {"files": ["x"]}),
        (stone(), {"retiring_at": "2026-03-02T12:00:00"}),
        (stone(), {"retiring_at": "yesterday"}),
        (stone(), {"lifted": 1}),
        (hold(), {"reason": "x" * 5_000}),
        (hold(), {"reason": "\ud800"}),
        (hold(), {"is": "wish"}),
    ],
)
def test_what_is_no_entry_is_refused(entry: Entry, changes: dict[str, object]):
    with pytest.raises(FormatError):
        unpack_entry(pack_entry(entry) | changes)


def test_the_ledger_says_what_was_written(folder: Path):
    assert not read_ledger(folder).exists
    append_entries(folder, [], now=NOON)
    assert not (folder / ".rollforward").exists()
    append_entries(folder, ALL[:2], now=NOON)
    append_entries(folder, ALL[2:], now=NOON)
    reading = read_ledger(folder)
    assert (reading.state, reading.exists, reading.faults) == (state(*ALL), True, 0)
    assert (reading.state.holds, reading.state.reporters) == ([hold()], ["headstart:x/y"])


# --- damage


def test_a_line_torn_anywhere_costs_that_line_alone(folder: Path):
    append_entries(folder, ALL, now=NOON)
    whole = path_of(folder).read_bytes()
    last = whole.rfind(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):
        path_of(folder).write_bytes(whole[:end])
        reading = read_ledger(folder)
        assert (reading.state, reading.faults) == (state(*ALL[:-1]), 0 if end == last else 1)
    append_entries(folder, ALL[-1:], now=NOON)
    assert read_ledger(folder).state == state(*ALL)


@given(spoilt=st.data())
def test_no_damage_is_believed_or_crashes(tmp_path_factory: pytest.TempPathFactory, spoilt: st.DataObject):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    path_of(folder).unlink(missing_ok=True)
    append_entries(folder, ALL, now=NOON)
    content = bytearray(path_of(folder).read_bytes())
    for _ in range(spoilt.draw(st.integers(1, 4))):
        at = spoilt.draw(st.integers(0, len(content) - 1))
        content[at : at + spoilt.draw(st.integers(0, 40))] = spoilt.draw(st.binary(max_size=40))
        content = content or bytearray(b"x")
    path_of(folder).write_bytes(bytes(content))
    reading = read_ledger(folder)
    known = {repr(pack_entry(entry)) for entry in ALL}
    assert all(repr(pack_entry(entry)) in known for entry in reading.state.worth_keeping(NOON))
    append_entries(folder, ALL, now=NOON)
    assert read_ledger(folder).state == state(*ALL)


def test_damaged_lines_are_kept_for_a_person_when_it_is_written_anew(folder: Path):
    append_entries(folder, ALL, now=NOON)
    with path_of(folder).open("ab") as file:
        file.write(
            b"what is this?\n" + checked_line({"is": "riddle"}) + checked_line([1]) + b"[" * 9_000 + b"\n"
        )
    damaged = path_of(folder).read_bytes()
    assert read_ledger(folder).faults == 4
    rewrite_ledger(folder, NOON)
    assert (read_ledger(folder).state, read_ledger(folder).faults) == (state(*ALL), 0)
    assert (folder / ".rollforward" / "ledger.damaged").read_bytes() == damaged


def test_a_later_version_is_left_as_it_is(folder: Path):
    (folder / ".rollforward").mkdir()
    content = checked_line({"is": "ledger", "version": 2}) + checked_line({"is": "news"})
    path_of(folder).write_bytes(content)
    for use in (
        lambda: read_ledger(folder),
        lambda: append_entries(folder, ALL, now=NOON),
        lambda: rewrite_ledger(folder, NOON),
    ):
        with pytest.raises(UnsupportedVersionError, match="later version"):
            use()
    assert path_of(folder).read_bytes() == content


def test_what_cannot_be_a_ledger_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch):
    path_of(folder).mkdir(parents=True)
    with pytest.raises((FormatError, StorageError)):
        read_ledger(folder)
    with pytest.raises((FormatError, StorageError)):
        append_entries(folder, ALL, now=NOON)
    path_of(folder).rmdir()
    os.mkfifo(path_of(folder))
    with pytest.raises(FormatError, match="no plain file"):
        read_ledger(folder)
    path_of(folder).unlink()
    path_of(folder).write_bytes(b"x" * 11)
    monkeypatch.setattr(ledger, "LEDGER_BYTES_MAX", 10)
    with pytest.raises(FormatError, match="too large"):
        read_ledger(folder)


@pytest.mark.parametrize("link", [".rollforward", ".rollforward/ledger", ".rollforward/ledger.lock"])
def test_no_link_is_followed(folder: Path, quick_path: Path, link: str):
    elsewhere = quick_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_bytes(b"precious")
    (folder / link).parent.mkdir(exist_ok=True)
    (folder / link).symlink_to(elsewhere if link == ".rollforward" else elsewhere / "file")
    with pytest.raises((StorageError, FormatError)):
        append_entries(folder, ALL, now=NOON)
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == {"file": b"precious"}


def test_a_full_disk_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch):
    append_entries(folder, ALL[:2], now=NOON)
    before = path_of(folder).read_bytes()
    real = os.write

    def full(fd: int, content: bytes) -> int:
        if len(content) < 20:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, content[:10])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="the disk is full"):
        append_entries(folder, ALL[2:], now=NOON)
    monkeypatch.undo()
    assert path_of(folder).read_bytes() == before


def test_what_fails_is_named_as_people_know_it(folder: Path, monkeypatch: pytest.MonkeyPatch):
    append_entries(folder, ALL, now=NOON)

    def refuse(fd: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="the disk is full") as told:
        rewrite_ledger(folder, NOON)
    assert told.value.path == str(path_of(folder))
    with pytest.raises(StorageError, match="the disk is full") as told:
        become_owner(folder, ME)
    assert told.value.path == str(path_of(folder).with_name("owner"))


# --- growth and company


def test_it_is_written_anew_without_what_is_over(folder: Path, monkeypatch: pytest.MonkeyPatch):
    late = NOON + KEPT_FOR + DAY
    over = [stone(number, state="deleted", deleted_at=NOON) for number in range(2, 30)]
    append_entries(folder, [*ALL, *over, hold(2, released_at=NOON), SeenEntry("f" * 64, "x", NOON)], now=NOON)
    size = path_of(folder).stat().st_size
    monkeypatch.setattr(ledger, "_SMALL_BYTES", 2_000)
    append_entries(folder, [SightEntry("b" * 32, NOON)], now=late)
    assert path_of(folder).stat().st_size < size / 2
    expected = state(*ALL, SightEntry("b" * 32, NOON), SeenEntry("f" * 64, "x", NOON))
    assert read_ledger(folder).state == expected
    sizes = []
    for _ in range(30):  # the same again and again: it does not grow for ever
        append_entries(folder, ALL, now=late)
        sizes.append(path_of(folder).stat().st_size)
    assert max(sizes) < 4 * size


def test_what_leads_on_from_a_file_that_lies_somewhere_is_kept():
    weekly = "A-b001-i020-cw.spi"
    daily = stone(2, name="A-b001-i009-cd.spi", covered_by=weekly, state="deleted", deleted_at=NOON)
    further = stone(3, name=weekly, covered_by="A-b001-i030-cm.spi", state="deleted", deleted_at=NOON)
    other = stone(4, state="deleted", deleted_at=NOON)
    late = NOON + KEPT_FOR
    moved = stone(1, state="moved")
    assert state(moved, daily, further, other).worth_keeping(late) == [moved, daily, further]
    back = stone(1, state="brought_back", deleted_at=late)
    assert state(back, daily, further, other).worth_keeping(late) == [back]
    circle = stone(5, name=weekly, covered_by="A-b001-i009-cd.spi", state="deleted", deleted_at=NOON)
    assert state(daily, circle).worth_keeping(late) == []


def test_many_writers_lose_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ledger, "_SMALL_BYTES", 3_000)

    def write(first: int) -> None:
        for number in range(first, first + 15):
            append_entries(folder, [stone(number)], now=NOON)

    threads = [threading.Thread(target=write, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reading = read_ledger(folder)
    assert (len(reading.state), reading.faults) == (60, 0)


MOMENTS = st.integers(0, 5).map(lambda days: NOON + days * DAY)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(hold, st.integers(1, 2), released_at=st.none() | MOMENTS),
    st.builds(
        stone,
        st.integers(1, 2),
        state=st.sampled_from(["retiring", "retired", "moved", "deleted", "brought_back"]),
        lifted=st.booleans(),
        retired_at=st.none() | MOMENTS,
    ),
    st.builds(SeenEntry, st.just("1" * 64), st.just("a"), MOMENTS),
    st.builds(SightEntry, st.just("2" * 32), MOMENTS),
    st.builds(ReporterEntry, st.just("x"), st.just(NOON), st.none() | MOMENTS),
)


@given(entries=st.lists(ENTRIES, max_size=8), order=st.randoms(use_true_random=False))
def test_entries_say_the_same_in_any_order_and_however_often(entries: list[Entry], order) -> None:
    shuffled = entries * 2
    order.shuffle(shuffled)
    assert LedgerState(shuffled) == LedgerState(entries)
    told = LedgerState(entries)
    assert LedgerState([*told.worth_keeping(NOON), *entries]) == told


# --- owner


def test_a_folder_has_one_owner(folder: Path):
    assert read_owner(folder) is None
    assert become_owner(folder, ME) is Ownership.NEW
    assert become_owner(folder, ME) is Ownership.OURS
    with pytest.raises(OwnershipError, match=r"another agent, of here\.example, since 2026-03-02") as caught:
        become_owner(folder, OTHER)
    assert "--take-over" in (caught.value.hint or "")
    assert become_owner(folder, OTHER, take_over=True) is Ownership.TAKEN_OVER
    taken = read_owner(folder)
    assert taken is not None
    assert (taken.agent, taken.term) == (OTHER.agent, 1)
    assert not give_up(folder, ME.agent)
    assert give_up(folder, OTHER.agent)
    assert read_owner(folder) is None
    assert not give_up(folder, OTHER.agent)


def test_an_owner_that_cannot_be_read_is_nobody_we_know(folder: Path):
    become_owner(folder, ME)
    path = folder / ".rollforward" / "owner"
    good = path.read_bytes()
    later = checked_line({"is": "owner", "version": 2})
    odd = checked_line({"is": "owner", "version": 1, "agent": 5})
    no_time = checked_line({"is": "owner", "version": 1, "agent": "a", "host": "b", "term": 1, "since": "x"})
    for content in (b"", good[:-5], good.replace(b"here", b"THEY"), later, odd, no_time, checked_line([])):
        path.write_bytes(content)
        with pytest.raises(OwnershipError, match="nobody can tell"):
            read_owner(folder)
        with pytest.raises(OwnershipError):
            become_owner(folder, ME)
    assert become_owner(folder, ME, take_over=True) is Ownership.TAKEN_OVER
    assert become_owner(folder, ME) is Ownership.OURS


def test_of_two_that_come_at_once_one_becomes_owner(folder: Path):
    results: list[object] = []

    def come(owner: Owner) -> None:
        try:
            results.append(become_owner(folder, owner))
        except OwnershipError:
            results.append(None)

    threads = [threading.Thread(target=come, args=(owner,)) for owner in (ME, OTHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, results)) == ["None", "new"]
