"""`hsr finalize --child` and `hsr resume`, given beside an agent: a disk lent to a hypervisor, and taken back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hsr.rolling.cursor_file import Phase
from hsr.rolling.disk import read_standing
from ops.notify.troubles import Trouble, TroubleKind, find_troubles
from policies.headstart import DiskState
from storage.catalog.claims import stored_claims
from tests.commands import run
from tests.household import VOLUME, Household
from tests.integration.test_headstart_ends import Killed, Killer, put_back, snapshot
from tests.office import HOUR, Office

MORNING = datetime(2026, 3, 2, 6, tzinfo=UTC)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    home = Household(tmp_path / "home", MORNING)
    yield Office(tmp_path, home)
    home.catalog.close()


def claims(office: Office) -> list[str]:
    with office.home.catalog.read() as session:
        return [claim.key for claim in stored_claims(session)]


def standbys(office: Office) -> list[Trouble]:
    with office.home.catalog.read() as session:
        found = find_troubles(session, office.home.now, {}, ()).troubles
    return [trouble for trouble in found if trouble.kind is TroubleKind.STANDBY]


def test_a_disk_is_lent_written_to_taken_back_and_rolled_on(office: Office):
    office.begin("--format", "vhdx", "--lag", "2h")
    office.grow(4)
    child, before = office.place / "child.qcow2", claims(office)
    lent = office.did("hsr", "finalize", "stand-by", "--child", child)[0]
    assert (lent["status"], lent["number"], lent["path"]) == ("lent", 2, str(child))
    assert office.bytes_of(child) == office.truth[2]
    shown = office.shown()
    assert (shown["status"], shown["number"]) == ("lent", 2)
    assert shown["reason"] == (
        f"to {child}; it is taken back by: rollforward hsr resume stand-by --volume {VOLUME}"
    )
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", str(child))
    office.grow(3)
    assert read_standing(office.path()).phase is Phase.LENT
    assert office.bytes_of(child) == b"\7" * (64 << 10) + office.truth[2][64 << 10 :]
    assert claims(office) == before
    assert office.shown()["behind_s"] > 0
    assert not standbys(office)
    office.home.now += timedelta(days=2)
    office.home.settle()
    [trouble] = standbys(office)
    assert "lent: to" in trouble.reason
    assert "2 days behind" in trouble.reason
    assert "taken back" in trouble.hint
    back = office.did("hsr", "resume", "stand-by", "--remove-child")[0]
    assert (back["status"], back["child"], back["child_removed"]) == ("taken back", str(child), True)
    assert not child.exists()
    office.home.settle()
    assert office.stands_at().number == 7
    assert office.is_exact()
    assert not standbys(office)
    assert "no disk of job 'stand-by' is lent" in office.refused("hsr", "resume", "stand-by")


def test_what_a_lent_disk_refuses(office: Office):
    office.begin("--format", "vhd")
    office.grow(2)
    child = office.place / "child.qcow2"
    said = str(office.do("hsr", "finalize", "stand-by", "--child", child))
    assert "hsr resume stand-by --volume" in said
    assert f"is lent to {child}" in office.refused("hsr", "finalize", "stand-by")
    assert f"is lent to {child}" in office.refused("hsr", "finalize", "stand-by", "--child", "x.qcow2")
    assert f"is lent to {child}" in office.refused("hsr", "finalize", "stand-by", "--copy", "x.vhd")
    assert f"is lent to {child}" in office.refused("hsr", "enable", "stand-by", "--fresh", "--yes")
    assert f"is lent to {child}" in office.refused("hsr", "delete", "stand-by", "--with-disk", "--yes")
    office.did("hsr", "finalize", "stand-by", "--fresh", "--copy", office.place / "copy.vhd")
    assert office.bytes_of(office.place / "copy.vhd") == office.truth[2]
    office.home.settle()
    assert office.shown()["status"] == "paused"  # as it was asked to be removed
    assert office.bytes_of(child) == office.truth[2]
    ran = office.do("hsr", "resume", "stand-by", "--volume", VOLUME)
    assert ran.code == 0
    assert f"{child} is worthless from now on" in str(ran)
    assert child.exists()
    assert "is not lent" in office.refused("hsr", "resume", "stand-by", "--volume", VOLUME)
    office.did("hsr", "enable", "stand-by")
    office.grow()
    assert office.is_exact()


def test_what_cannot_be_lent_is_refused_by_name(office: Office):
    office.begin("--format", "qcow2", "--lag", "2h")
    office.grow(4)
    child, copy = str(office.place / "x.qcow2"), str(office.place / "x.vhd")
    for words, said in (
        (["--child", copy], "ends in .qcow2"),
        (["--child", "/nowhere/x.qcow2"], "is no folder"),
        (["--child", child, "--copy", copy], "goes with neither"),
        (["--child", child, "--fresh"], "goes with neither"),
        (["--child", child, "--point", "4"], "the lag of point 4 has not passed"),
        (["--child", child, "--point", "1"], "lies before point 2"),
    ):
        ran = office.do("hsr", "finalize", "stand-by", *words)
        assert ran.code != 0
        assert said in str(ran)
    assert office.stands_at().number == 2
    assert office.is_exact()


def test_a_wrapped_disk_has_its_partition_in_the_child_alone(office: Office):
    office.begin("--format", "vhd", "--wrap", "gpt")
    office.grow()
    child = office.place / "child.qcow2"
    office.did("hsr", "finalize", "stand-by", "--child", child)
    raw = office.place / "raw"
    run("qemu-img", "convert", "-O", "raw", str(child), str(raw))
    assert "label: gpt" in run("sfdisk", "--dump", str(raw))
    assert raw.read_bytes()[1 << 20 :][: office.volume_bytes] == office.truth[1]
    run("qemu-img", "convert", "-f", "vpc", "-O", "raw", str(office.path()), str(raw))
    assert not any(raw.read_bytes()[: 1 << 20])
    office.did("hsr", "resume", "stand-by", "--remove-child")
    office.grow()
    assert office.is_exact()


def test_a_folder_of_children_that_is_gone_does_not_keep_a_disk_lent(office: Office):
    office.begin("--format", "vhd")
    office.grow()
    folder = office.place / "children"
    folder.mkdir()
    office.did("hsr", "finalize", "stand-by", "--child", folder / "child.qcow2")
    shutil.rmtree(folder)
    office.did("hsr", "resume", "stand-by", "--remove-child")
    assert office.row().state is not DiskState.LENT
    office.grow()
    assert office.is_exact()


def test_one_that_was_written_to_is_built_anew(office: Office):
    office.begin("--format", "raw")
    office.grow()
    child = office.place / "child.qcow2"
    office.did("hsr", "finalize", "stand-by", "--child", child)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", str(child))
    run("qemu-img", "commit", "-q", str(child))
    said = office.refused("hsr", "resume", "stand-by", code=6)
    assert "written to since it was lent" in said
    assert "hsr enable --fresh" in said
    assert office.shown()["status"] == "lent"
    office.path().rename(office.place / "kept.raw")
    office.did("hsr", "enable", "stand-by", "--fresh", "--yes")
    office.home.settle()
    assert office.is_exact()
    office.grow()
    assert office.is_exact()


def test_a_lost_catalogue_finds_what_is_lent(office: Office):
    office.begin("--format", "vmdk-flat")
    office.grow()
    child = office.place / "child.qcow2"
    office.did("hsr", "finalize", "stand-by", "--child", child)
    office.home.lose_catalogue()
    office.home.settle()
    assert office.row().state is DiskState.LENT
    assert claims(office)
    office.grow()
    assert office.bytes_of(child) == office.truth[1]
    office.did("hsr", "resume", "stand-by")
    office.home.settle()
    assert office.stands_at().number == 2
    assert office.is_exact()


def test_killed_anywhere_in_lending_the_same_command_goes_on(office: Office, monkeypatch: pytest.MonkeyPatch):
    office.begin("--format", "vmdk-flat", "--wrap", "mbr")
    child, killer, phases, step = office.place / "child.qcow2", Killer(monkeypatch), set(), 0
    state = snapshot(office)
    while True:
        killer.left = step
        with suppress(Killed):
            office.do("hsr", "finalize", "stand-by", "--child", child)
        was_killed, killer.left = killer.left < 0, None
        office.home.now += HOUR
        office.home.settle()
        phases.add(read_standing(office.path()).phase)
        if was_killed:
            office.did("hsr", "finalize", "stand-by", "--child", child)
        raw = office.place / "raw"
        run("qemu-img", "convert", "-O", "raw", str(child), str(raw))
        assert raw.read_bytes()[1 << 20 :][: office.volume_bytes] == office.truth[0]
        killer.left = step
        with suppress(Killed):
            office.do("hsr", "resume", "stand-by")
        killer.left = None
        if read_standing(office.path()).phase.is_lent:
            office.did("hsr", "resume", "stand-by")
        assert office.is_exact()
        child.unlink()
        if not was_killed:
            break
        put_back(office, state)
        step += 9
    assert phases >= {Phase.ROLLING, Phase.LENDING, Phase.LENT}
