"""Copies of HeadStart disks that are built from the base: what takes no name of others, and is ended after a crash."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hsr.disks.side_files import SIDE_NAME
from hsr.rolling.cursor_file import Phase
from hsr.rolling.disk import RollingDisk, read_standing
from storage.capture import capture
from tests.commands import run
from tests.household import VOLUME, Household
from tests.killer import Killed, Killer
from tests.office import Office

MORNING = datetime(2026, 3, 2, 6, tzinfo=UTC)
MIB = 1 << 20


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    home = Household(tmp_path / "home", MORNING)
    yield Office(tmp_path, home)
    home.catalog.close()


def beside(disk: Path) -> list[str]:
    """Give what lies beside a disk that is its own."""
    return sorted(one.name for one in (disk.parent / SIDE_NAME).glob(f"{disk.name}.*"))


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fresh_copy(target: Path, number: int) -> list[str | Path]:
    return ["hsr", "finalize", "stand-by", "--point", str(number), "--fresh", "--copy", target]


@pytest.mark.parametrize("form", ["vhd", "vmdk-flat", "raw"])
def test_killed_anywhere_in_building_a_copy_the_same_command_ends_it(
    office: Office, monkeypatch: pytest.MonkeyPatch, form: str
):
    """A whole copy is there in the end, wrapped if it was to be, and nothing beside it; the job's disk is as it was."""
    office.begin("--format", form, "--wrap", "gpt" if form == "raw" else "none")
    office.grow(2)
    before = files_of(office.disks)
    target = office.place / "tests" / f"copy.{form}"
    target.parent.mkdir()
    killer, step = Killer(monkeypatch), 0
    left = set()
    while True:
        killer.left = step
        with suppress(Killed):
            office.do(*fresh_copy(target, 1))
        was_killed, killer.left = killer.left < 0, None
        standing = read_standing(target)
        left.add(standing and standing.phase)
        if standing is not None or not target.exists():
            office.did(*fresh_copy(target, 1))
        assert beside(target) == [], step
        if form == "raw":
            assert target.read_bytes()[MIB:][: office.volume_bytes] == office.truth[1]
            assert "No errors detected" in run("sfdisk", "--verify", str(target))
        else:
            assert office.bytes_of(target) == office.truth[1]
        assert files_of(office.disks) == before
        for path in target.parent.iterdir():
            if path.is_file():
                path.unlink()
        if not was_killed:
            break
        step += 4
    assert left >= {Phase.BUILDING, Phase.FINALIZING, None}


def test_a_copy_that_was_built_and_not_finalized_is_had_at_its_point_only(
    office: Office, monkeypatch: pytest.MonkeyPatch
):
    office.begin("--format", "vhd")
    office.grow(2)
    for number, last in enumerate(
        ("actors.headstart_elsewhere.finalize_at", "hsr.disks.disk._Disk.finalize")
    ):
        target = office.place / "copies" / f"copy-{number}.vhd"
        target.parent.mkdir(exist_ok=True)
        with monkeypatch.context() as patched:
            patched.setattr(last, _die)
            with pytest.raises(Killed):
                office.do(*fresh_copy(target, 1))
        before = files_of(target.parent)
        said = office.refused(*fresh_copy(target, 2))
        assert "exists already" in said
        assert "say --point 1" in said
        assert files_of(target.parent) == before
        office.did(*fresh_copy(target, 1))
        assert office.bytes_of(target) == office.truth[1]
        assert beside(target) == []
        assert "exists already" in office.refused(*fresh_copy(target, 1))


def _die(*_: object, **__: object) -> None:
    raise Killed


def test_a_build_of_another_point_makes_room(office: Office, monkeypatch: pytest.MonkeyPatch):
    """Also where the volume had another size."""
    office.begin("--format", "vhd")
    with office.source.path.open("ab") as file:
        file.write(os.urandom(MIB))
    office.grow()
    target = office.place / "copy.vhd"
    with monkeypatch.context() as patched:
        patched.setattr(RollingDisk, "_close_cursor", _die)
        with pytest.raises(Killed):
            office.do(*fresh_copy(target, 0))
    assert read_standing(target).phase is Phase.BUILDING
    office.did(*fresh_copy(target, 1))
    office.volume_bytes += MIB
    assert office.bytes_of(target) == office.truth[1]
    assert beside(target) == []


def test_no_copy_takes_the_disk_of_a_job(office: Office, monkeypatch: pytest.MonkeyPatch):
    """Whichever job, whatever it stands at, by whatever name."""
    office.begin("--format", "vhd")
    office.grow(2)
    add = ["hsr", "add", "other", office.home.folder, "--location", "here", "--subfolder", "o"]
    office.did(*add, "--format", "vhd")
    own, others = office.disks / f"{VOLUME}.vhd", office.disks / "o" / f"{VOLUME}.vhd"
    link = office.place / "link"
    link.symlink_to(office.disks)
    lent = ["hsr", "finalize", "stand-by", "--child"]
    finalize = ["hsr", "finalize", "stand-by", "--copy"]

    def refused() -> None:
        before = files_of(office.disks)
        for target in (own, others, link / own.name, link / "o" / own.name):
            for words in (fresh_copy(target, 1), [*finalize, target], [*lent, target]):
                assert "keeps a disk" in office.refused(*words), words
        assert files_of(office.disks) == before

    refused()
    with monkeypatch.context() as patched:
        patched.setattr(RollingDisk, "_close_cursor", _die)
        with suppress(Killed):
            office.home.settle()
    assert read_standing(others).phase is Phase.BUILDING
    refused()
    office.grow()
    assert [one["number"] for one in office.did("hsr", "list")] == [3, 3]
    refused()


def test_no_copy_goes_on_with_a_build_of_another(office: Office, monkeypatch: pytest.MonkeyPatch):
    """Of another volume of the job; and of a job that was forgotten, or that another catalogue has."""
    other = office.place / "other.raw"
    other.write_bytes(os.urandom(office.volume_bytes))
    capture(other, office.home.folder, "W", now=office.home.now)
    office.begin("--format", "vhd")
    target = office.place / "copies" / "copy.vhd"
    target.parent.mkdir()
    copy = [*fresh_copy(target, 0), "--volume"]
    with monkeypatch.context() as patched:
        patched.setattr(RollingDisk, "_close_cursor", _die)
        with pytest.raises(Killed):
            office.do(*copy, VOLUME)
    before = files_of(target.parent)
    assert "exists already" in office.refused(*copy, "W")
    assert files_of(target.parent) == before
    office.did("hsr", "delete", "stand-by", "--with-disk", "--yes")
    add = ["hsr", "add", "stand-by", office.home.folder, "--location", "here", "--subfolder", ""]
    office.did(*add, "--format", "vhd")
    office.home.settle()
    assert "exists already" in office.refused(*copy, VOLUME)
    assert files_of(target.parent) == before
