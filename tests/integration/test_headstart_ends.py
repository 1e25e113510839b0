"""Ends of HeadStart disks: what is known of them after a lost catalogue, and damaged ones that are given up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hsr.disks.side_files import SIDE_NAME
from policies.freezing import FreezeKind
from policies.headstart import DiskState
from storage.catalog.claims import stored_claims
from storage.catalog.freezes import stored_freezes
from storage.catalog.headstart import make_job_due
from storage.catalog.reporters import silent_reporters
from tests.household import VOLUME, Household
from tests.killer import Killed, Killer
from tests.office import HOUR, Office

MORNING = datetime(2026, 3, 2, 6, tzinfo=UTC)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    home = Household(tmp_path / "home", MORNING)
    yield Office(tmp_path, home)
    home.catalog.close()


def is_frozen(office: Office) -> bool:
    with office.home.catalog.read() as session:
        frozen = [one for one in stored_freezes(session) if one.kind is FreezeKind.REBUILT]
        return bool(frozen or silent_reporters(session, office.home.folder_id))


def has_claims(office: Office) -> bool:
    with office.home.catalog.read() as session:
        return bool(stored_claims(session))


def cursor_file(office: Office) -> Path:
    return office.disks / SIDE_NAME / f"{office.path().name}.cursor"


def look_again(office: Office) -> None:
    with office.home.catalog.write() as session:
        make_job_due(session, office.row().job_id)
    office.home.settle()


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_new_catalogue_finds_what_was_finalized_and_deletes_again(office: Office, is_paused: bool):
    office.begin("--format", "vhdx", "--lag", "1h")
    office.grow(2)
    office.did("hsr", "finalize", "stand-by", "--point", "2")
    if is_paused:
        office.did("hsr", "pause", "stand-by")
    office.home.lose_catalogue()
    office.home.settle()
    shown = office.shown()
    assert (shown["status"], shown["reason"], shown["number"]) == ("finalized", "at point 2", 2)
    assert not has_claims(office)
    assert not is_frozen(office)
    assert office.bytes_of(office.path()) == office.truth[2]
    office.grow()
    assert "is finalized already" in office.refused("hsr", "finalize", "stand-by", "--volume", VOLUME)
    office.path().rename(office.place / "used.vhdx")
    office.home.lose_catalogue()
    office.home.settle()
    assert office.shown()["status"] == "finalized"
    office.did("hsr", "enable", "stand-by", "--fresh", "--yes", "--volume", VOLUME)
    office.home.settle()
    assert office.stands_at().number == 2
    assert office.is_exact()


def test_a_disk_that_another_job_finalized_and_that_was_moved_makes_room(office: Office):
    office.begin("--format", "raw")
    office.did("hsr", "finalize", "stand-by")
    office.did("hsr", "delete", "stand-by")
    assert cursor_file_of(office, "raw").exists()
    add = [
        "hsr",
        "add",
        "second",
        office.home.folder,
        "--location",
        "here",
        "--subfolder",
        "",
        "--format",
        "raw",
    ]
    assert "exists already" in office.refused(*add)
    (office.disks / f"{VOLUME}.raw").rename(office.place / "used.raw")
    office.did(*add)
    office.home.settle()
    assert office.is_exact()


def cursor_file_of(office: Office, ending: str) -> Path:
    return office.disks / SIDE_NAME / f"{VOLUME}.{ending}.cursor"


def test_killed_anywhere_in_finalizing_an_end_is_neither_lost_nor_made_up(
    office: Office, monkeypatch: pytest.MonkeyPatch
):
    """Each time the catalogue is lost, too: a claim ends only with a disk that is whole."""
    office.begin("--format", "vhd")
    ends, step = set(), 0
    killer = Killer(monkeypatch)
    state = snapshot(office)
    while True:
        killer.left = step
        with suppress(Killed):
            office.do("hsr", "finalize", "stand-by")
        was_killed, killer.left = killer.left < 0, None
        office.home.lose_catalogue()
        office.home.settle()
        row = office.row()
        ends.add(row.state)
        if row.state is DiskState.FINALIZED:
            assert office.bytes_of(office.path()) == office.truth[0]
            assert not has_claims(office)
        else:
            assert has_claims(office)
            office.did("hsr", "finalize", "stand-by")
            assert office.row().state is DiskState.FINALIZED
            assert office.bytes_of(office.path()) == office.truth[0]
        assert not is_frozen(office)
        if not was_killed:
            break
        put_back(office, state)
        step += 6
    assert ends >= {DiskState.FINALIZED, DiskState.STOPPED}


@pytest.mark.parametrize(
    "last",
    ["hsr.rolling.disk.VirtualDisk", "hsr.rolling.disk._end_cursor", "actors.headstart_errand.record_end"],
)
def test_another_point_is_not_had_of_a_disk_whose_end_was_begun(
    office: Office, monkeypatch: pytest.MonkeyPatch, last: str
):
    """Nor a copy, a child or a fresh build: what is asked for is given, or refused by name."""
    office.begin("--format", "vhd", "--lag", "1h")
    office.grow(4)
    finalize = ["hsr", "finalize", "stand-by"]
    with monkeypatch.context() as patched:
        kill_at(patched, last)
        with pytest.raises(Killed):
            office.do(*finalize, "--point", "3")
    before = snapshot(office)
    at = [(MORNING + hours * HOUR).isoformat() for hours in range(5)]
    other = office.place / "other"
    for words in (
        ["--point", "4"],
        ["--point", "2"],
        ["--at", at[2]],
        ["--at", at[4]],
        ["--point", "3", "--fresh"],
        ["--point", "3", "--copy", other],
        ["--point", "3", "--child", other.with_suffix(".qcow2")],
    ):
        said = office.refused(*finalize, *words)
        assert "finalizing it at point 3 was begun, and only that can be had of it" in said
        assert f"rollforward hsr finalize stand-by --volume {VOLUME}" in said
        assert snapshot(office) == before
    office.did(*finalize, "--point", "4", "--fresh", "--copy", other)
    assert office.bytes_of(other) == office.truth[4]
    done = office.did(*finalize, "--at", at[3])
    assert (done[0]["number"], office.row().state) == (3, DiskState.FINALIZED)
    assert office.bytes_of(office.path()) == office.truth[3]


def kill_at(patched: pytest.MonkeyPatch, name: str) -> None:
    """Have the process killed where something is about to be done; of a disk, once finalizing it is noted."""

    def die(*_: object, **__: object) -> None:
        raise Killed

    if name.endswith("VirtualDisk"):
        patched.setattr("hsr.disks.disk._Disk.finalize", die)
    else:
        patched.setattr(name, die)


def snapshot(office: Office) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in office.disks.rglob("*") if path.is_file()}


def put_back(office: Office, state: dict[Path, bytes]) -> None:
    for path in office.disks.rglob("*"):
        if path.is_file():
            path.unlink()
    for path, content in state.items():
        path.write_bytes(content)
    office.home.lose_catalogue()
    office.home.settle()
    assert office.stands_at().number == 0


@pytest.mark.parametrize("damage", ["flipped", "empty", "zeros"])
@pytest.mark.parametrize("kind", ["vhd", "vmdk-flat"])
def test_a_disk_with_a_damaged_cursor_is_set_aside_and_built_anew(office: Office, damage: str, kind: str):
    office.begin("--format", kind)
    office.grow()
    cursor = cursor_file(office)
    spoil(cursor, damage)
    office.grow()
    assert office.row().state is DiskState.NEEDS_FRESH
    assert "hsr enable stand-by --fresh" in office.row().reason
    before = snapshot(office)
    said = office.refused("hsr", "finalize", "stand-by", "--volume", VOLUME)
    assert "--fresh" in said
    assert snapshot(office) == before
    assert office.row().state is DiskState.NEEDS_FRESH
    ran = office.do("hsr", "enable", "stand-by", "--fresh", "--yes")
    assert (ran.code, "aside-1" in str(ran)) == (0, True)
    aside = cursor.with_name(f"{cursor.stem}.aside-1")
    assert {path.read_bytes() for path in aside.iterdir()} == set(before.values())
    office.home.settle()
    assert office.stands_at().number == 2
    assert office.is_exact()


def spoil(file: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    content[130] ^= 4
    file.write_bytes({"flipped": bytes(content), "empty": b"", "zeros": bytes(len(content))}[damage])


def test_killed_anywhere_in_setting_aside_the_same_command_goes_on(
    office: Office, monkeypatch: pytest.MonkeyPatch
):
    office.begin("--format", "vmdk")
    killer, step = Killer(monkeypatch), 0
    while True:
        spoil(cursor_file(office), "flipped")
        wanted = set(snapshot(office).values())
        killer.left = step
        with suppress(Killed):
            office.do("hsr", "enable", "stand-by", "--fresh", "--yes")
        was_killed, killer.left = killer.left < 0, None
        office.did("hsr", "enable", "stand-by", "--fresh", "--yes")
        assert wanted <= set(snapshot(office).values())
        office.home.settle()
        assert office.is_exact()
        if not was_killed:
            assert step > 20
            return
        step += 5


def test_what_may_be_in_use_is_left_where_it_is(office: Office):
    """The end of a finalized disk that is damaged, and a strange file in the place of an unfinished one."""
    office.begin("--format", "qcow2")
    office.did("hsr", "finalize", "stand-by")
    disk = office.path().read_bytes()
    spoil(cursor_file(office), "flipped")
    office.home.lose_catalogue()
    office.home.settle()
    assert office.row().state is DiskState.NEEDS_FRESH
    said = office.refused("hsr", "enable", "stand-by", "--fresh", "--yes")
    assert "Move it away" in said
    assert office.path().read_bytes() == disk
    office.path().rename(office.place / "used.qcow2")
    office.did("hsr", "enable", "stand-by", "--fresh", "--yes")
    office.home.settle()
    assert office.is_exact()


def test_an_unfinished_disk_whose_cursor_is_gone_is_not_called_finalized(office: Office):
    office.begin("--format", "raw")
    cursor_file(office).unlink()
    said = office.refused("hsr", "finalize", "stand-by", "--volume", VOLUME)
    assert "is no disk that is rolled forward" in said
    assert office.row().state is not DiskState.FINALIZED
    office.home.now += HOUR
    look_again(office)
    assert office.row().state is DiskState.STOPPED
    assert has_claims(office)


def test_an_end_beside_an_unfinished_disk_is_not_believed(office: Office):
    """As it would be if somebody had put an older state of some of the files back."""
    office.begin("--format", "vhdx")
    before = snapshot(office)
    office.did("hsr", "finalize", "stand-by")
    for path, content in before.items():
        if path != cursor_file(office):
            path.write_bytes(content)
    office.home.lose_catalogue()
    office.home.settle()
    assert office.row().state is DiskState.STOPPED
    assert "said to be finalized" in office.row().reason
    assert is_frozen(office) or has_claims(office)
