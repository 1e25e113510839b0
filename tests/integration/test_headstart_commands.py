"""`rollforward location` and `rollforward hsr`, given beside an agent without processes; disks read by qemu."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pytest

from actors import headstart
from hsr.disks.medium import LocalMedium
from policies.errors import RestoreError
from policies.headstart import DiskState
from storage.capture import capture
from storage.catalog import EventKind
from storage.catalog.claims import stored_claims
from storage.catalog.headstart import all_jobs
from storage.catalog.reporters import silent_reporters
from tests.commands import run
from tests.household import VOLUME, Household
from tests.office import HOUR, Office
from tests.unit.tiny import Password

MORNING = datetime(2026, 3, 2, 6, tzinfo=UTC)
PASSWORD = b"open sesame, said Ali"


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    home = Household(tmp_path / "home", MORNING)
    yield Office(tmp_path, home)
    home.catalog.close()


def test_a_job_is_saved_shown_and_finalized(office: Office):
    office.begin("--format", "vhdx", "--lag", "2h")
    office.grow(3)
    shown = office.shown()
    assert (shown["status"], shown["number"], shown["newest"]) == ("waits for lag", 1, 3)
    assert shown["path"] == str(office.disks / f"{VOLUME}.vhdx")
    assert office.is_exact()
    done = office.did("hsr", "finalize", "stand-by", "--volume", VOLUME, "--point", "2")
    assert done[0]["number"] == 2
    assert office.bytes_of(office.path()) == office.truth[2]
    run("qemu-img", "check", str(office.path()))
    assert office.row().state is DiskState.FINALIZED
    with office.home.catalog.read() as session:
        assert not stored_claims(session)
    office.grow()
    assert office.bytes_of(office.path()) == office.truth[2]
    assert "is finalized already" in office.refused("hsr", "finalize", "stand-by", "--volume", VOLUME)


@pytest.mark.parametrize("wrap", ["mbr", "gpt"])
def test_a_wrapped_disk_has_its_partition(office: Office, wrap: str):
    office.begin("--format", "raw", "--wrap", wrap)
    office.grow()
    office.did("hsr", "finalize", "stand-by")
    disk = office.path().read_bytes()
    assert disk[1 << 20 :][: office.volume_bytes] == office.truth[1]
    told = run("sfdisk", "--dump", str(office.path()))
    assert f"label: {'dos' if wrap == 'mbr' else 'gpt'}" in told
    assert "start=        2048" in told


def test_an_earlier_point_is_built_anew_only_when_that_is_said(office: Office):
    office.begin("--format", "qcow2")
    office.grow(3)
    said = office.refused("hsr", "finalize", "stand-by", "--point", "1", code=4)
    assert "lies before point 3" in said
    assert "--fresh" in said
    assert office.stands_at().number == 3
    target = office.place / "tests" / "one.qcow2"
    target.parent.mkdir()
    office.did("hsr", "finalize", "stand-by", "--point", "1", "--fresh", "--copy", target)
    assert office.bytes_of(target) == office.truth[1]
    assert office.stands_at().number == 3
    office.grow()
    assert office.stands_at().number == 4
    office.did("hsr", "finalize", "stand-by", "--point", "2", "--fresh")
    assert office.bytes_of(office.path()) == office.truth[2]


def test_pausing_enabling_and_building_anew(office: Office):
    office.begin()
    office.did("hsr", "pause", "stand-by")
    office.grow()
    assert office.shown()["status"] == "paused"
    assert office.shown()["behind_s"] == 0
    office.home.now += HOUR
    office.home.settle()
    assert office.shown()["number"] == 0
    assert office.shown()["newest"] == 1
    assert office.did("hsr", "enable", "stand-by")[0]["after"] == "enabled"
    office.home.settle()
    assert office.shown()["number"] == 1
    office.did("hsr", "enable", "stand-by", "--fresh", "--yes")
    assert not office.path().exists()
    office.home.settle()
    assert office.shown()["number"] == 1
    assert office.is_exact()


@pytest.mark.parametrize("with_disk", [True, False])
def test_deleting_a_job_gives_up_what_it_needs(office: Office, with_disk: bool):
    office.begin()
    path = office.path()
    note = office.home.folder / ".rollforward"
    assert list(note.glob("headstart-*"))
    office.did("hsr", "delete", "stand-by", *(["--with-disk", "--yes"] if with_disk else []))
    assert path.exists() is not with_disk
    assert not list(note.glob("headstart-*"))
    with office.home.catalog.read() as session:
        assert not all_jobs(session)
        assert not stored_claims(session)
    office.did("location", "remove", "here")


@pytest.mark.parametrize("words", [("delete", "--with-disk", "--yes"), ("enable", "--fresh", "--yes")])
def test_a_disk_whose_place_is_away_is_not_forgotten(office: Office, words: tuple[str, ...]):
    office.begin("--format", "vhd")
    away = office.disks.with_name("away")
    office.disks.rename(away)
    verb, *options = words
    said = office.refused("hsr", verb, "stand-by", *options, code=6)
    assert "the folder of the location is not there" in said
    away.rename(office.disks)
    assert office.path().exists()
    office.did("hsr", verb, "stand-by", *options)


def test_locations_are_defined_once_and_used_by_jobs(office: Office):
    office.begin()
    said = office.refused("location", "remove", "here")
    assert "used by job 'stand-by'" in said
    there = office.place / "there"
    shutil.copytree(office.disks, there)
    office.did("location", "set", "here", "--path", there, "--address", "//nas/disks")
    shown = office.did("location", "show", "here")[0]
    assert (shown["path"], shown["address"], shown["jobs"]) == (str(there), "//nas/disks", ["stand-by"])
    office.grow()
    assert office.shown()["path"] == str(there / f"{VOLUME}.vhd")
    assert "no share is mounted there" in office.shown()["reason"]
    office.did("location", "set", "here", "--address", "")
    office.home.settle()
    assert office.shown()["number"] == 1
    secret = office.place / "secret"
    secret.write_bytes(b"open sesame\n")
    secret.chmod(0o600)
    office.did("location", "set", "here", "--user", "ann", "--password-file", secret)
    assert office.did("location", "list")[0]["user"] == "ann"
    assert b"open sesame" not in (office.home.place / "catalogue.sqlite").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lag", "24h"], "expected 0, 1h to 23h, or 1d to 30d"),
        (["--lag", "31d"], "--lag '31d' is no lag"),
        (["--subfolder", "../out"], "no folder below the location"),
        (["--volume", "E"], f"expected one of {VOLUME}"),
        (["--location", "nowhere"], "there is no location 'nowhere'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(office: Office, words: list[str], said: str):
    office.capture()
    office.home.settle()
    office.did("location", "add", "here", office.disks)
    common = ["hsr", "add", "other", str(office.home.folder), "--location", "here"]
    assert said in office.refused(*common, *words)
    assert "there is a job 'stand-by'" not in office.refused("hsr", "show", "stand-by")
    assert not office.did("hsr", "list")


def test_a_lost_catalogue_learns_of_jobs_from_their_folders(office: Office):
    """Nothing is removed until every job has said what it needs; then the disk is rolled on, and not begun anew."""
    office.begin("--lag", "1h")
    office.grow(2)
    stood = office.stands_at()
    office.did("hsr", "pause", "stand-by")
    office.home.lose_catalogue()
    office.home.settle()
    shown = office.shown()
    assert (shown["status"], shown["number"], shown["lag"]) == ("paused", stood.number, "1h")
    assert shown["location"] == "here"
    with office.home.catalog.read() as session:
        assert not silent_reporters(session, office.home.folder_id)
        assert [claim.key.split(":")[0] for claim in stored_claims(session)] == ["hsr"]
    office.did("hsr", "enable", "stand-by")
    office.grow(2)
    assert office.stands_at().number > stood.number
    assert office.is_exact()
    assert not [event for event in office.home.events(EventKind.ROLLED_ON) if "built" in event.text]


def test_an_encrypted_volume_takes_its_password_and_no_other(office: Office):
    """It is sealed in the catalogue; once the volume's own was changed, the disk stops until the job is told."""
    right, wrong = _secret(office, "right", PASSWORD), _secret(office, "wrong", b"guess")
    office.passwords = Password(PASSWORD)
    office.capture()
    office.home.settle()
    office.did("location", "add", "here", office.disks)
    add = ["hsr", "add", "stand-by", office.home.folder, "--location", "here", "--subfolder", ""]
    office.refused(*add, "--password-file", wrong, code=10)
    office.refused(*add, code=10)
    office.did(*add, "--password-file", right)
    office.home.settle()
    assert office.is_exact()
    assert PASSWORD not in b"".join(path.read_bytes() for path in office.home.place.glob("catalogue.sqlite*"))
    other = _secret(office, "other", b"quite another one")
    change = ["password", "change", office.home.folder, "--volume", VOLUME]
    office.did(*change, "--password-file", right, "--new-password-file", other)
    office.passwords = Password(b"quite another one")
    office.grow()
    assert office.shown()["status"] == "stopped"
    assert "password" in office.shown()["reason"]
    office.did("hsr", "password", "stand-by", "--password-file", other)
    office.home.settle()
    assert office.stands_at().number == 1
    assert office.is_exact()


def _secret(office: Office, name: str, content: bytes) -> Path:
    path = office.place / name
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def test_locations_stand_in_the_file_of_settings(office: Office):
    """Applied, it changes them for all jobs; what it does not name stays."""
    office.begin()
    file = office.place / "rollforward.toml"
    assert office.do("config", "export", file).code == 0
    assert not office.did("config", "apply", file)
    there = office.place / "there"
    shutil.copytree(office.disks, there)
    text = file.read_text()
    assert f'path = "{office.disks}"' in text
    added = '\n[[location]]\nname = "nas"\npath = "/mnt/nas"\naddress = "//nas/disks"\n'
    file.write_text(text.replace(f'path = "{office.disks}"', f'path = "{there}"') + added)
    planned = office.did("config", "apply", file, "--dry-run")
    assert office.did("location", "show", "here")[0]["path"] == str(office.disks)
    done = office.did("config", "apply", file)
    assert [one["after"] for one in planned] == [one["after"] for one in done]
    assert {one["name"]: one["path"] for one in office.did("location", "list")} == {
        "here": str(there),
        "nas": "/mnt/nas",
    }
    office.grow()
    assert office.shown()["number"] == 1
    file.write_text(file.read_text().replace('"/mnt/nas"', '"mnt"'))
    assert "line " in office.refused("config", "apply", file)


def test_a_copy_is_a_disk_and_the_stand_by_keeps_its_lag(office: Office):
    office.begin("--format", "vhd", "--lag", "2h")
    office.grow(4)
    assert office.stands_at().number == 2
    copy = office.place / "copy.vhd"
    office.did("hsr", "finalize", "stand-by", "--copy", copy)
    assert office.bytes_of(copy) == office.truth[2]
    said = office.refused("hsr", "finalize", "stand-by", "--point", "4", "--copy", office.place / "late.vhd")
    assert "the lag of point 4 has not passed" in said
    assert office.stands_at().number == 2
    late = office.place / "late.vhd"
    office.did("hsr", "finalize", "stand-by", "--point", "4", "--fresh", "--copy", late)
    assert office.bytes_of(late) == office.truth[4]
    said = office.refused("hsr", "finalize", "stand-by", "--copy", copy)
    assert "exists already" in said
    office.grow()
    assert office.stands_at().number == 3
    assert office.is_exact()
    ran = office.do("hsr", "finalize", "stand-by", "--point", "5")
    assert (ran.code, len(ran.output.splitlines())) == (0, 1)
    assert office.bytes_of(office.path()) == office.truth[5]


def test_all_volumes_of_a_folder_each_by_its_own_cursor(office: Office):
    other = office.place / "other.raw"
    other.write_bytes(os.urandom(office.volume_bytes // 2))
    capture(other, office.home.folder, "W", now=office.home.now)
    office.begin("--format", "raw")
    office.grow(2)
    shown = {one["volume"]: one for one in office.did("hsr", "list")}
    assert {volume: one["number"] for volume, one in shown.items()} == {VOLUME: 2, "W": 0}
    said = office.refused("hsr", "finalize", "stand-by", "--point", "0")
    assert "say which with --volume" in said
    at = (MORNING + 2 * HOUR).isoformat()
    done = {one["volume"]: one["number"] for one in office.did("hsr", "finalize", "stand-by", "--at", at)}
    assert done == {VOLUME: 2, "W": 0}
    assert Path(shown["W"]["path"]).read_bytes()[: len(other.read_bytes())] == other.read_bytes()
    assert Path(shown[VOLUME]["path"]).read_bytes()[: office.volume_bytes] == office.truth[2]
    assert "are finalized" in office.refused("hsr", "finalize", "stand-by")


def test_a_whole_disk_is_put_into_no_partition(office: Office):
    """Refused when the job is saved; a volume that became a disk later stops before anything is built."""
    office.capture()
    office.home.settle()
    office.did("location", "add", "here", office.disks)
    add = [
        "hsr",
        "add",
        "stand-by",
        office.home.folder,
        "--location",
        "here",
        "--subfolder",
        "",
        "--wrap",
        "gpt",
    ]
    script = "label: gpt\n,128K\n,128K\n"
    subprocess.run(["sfdisk", "-q", office.source.path], input=script, text=True, check=True)
    office.source.path.write_bytes(office.source.path.read_bytes())
    capture(office.source.path, office.home.folder, VOLUME, now=office.home.now)
    said = office.refused(*add)
    assert f"{VOLUME} is a disk with partitions already: it begins with a GPT with 2 partitions" in said
    assert "--wrap none" in said
    assert not office.did("hsr", "list")
    with patch("ops.headstart_keeping._refuse_whole_disks"):
        office.did(*add)
    office.home.now += HOUR
    office.home.settle()
    assert office.row().state is DiskState.STOPPED
    assert "begins with a GPT" in office.row().reason
    assert not any(office.disks.iterdir())
    target = office.place / "elsewhere.vhd"
    said = office.refused("hsr", "finalize", "stand-by", "--point", "1", "--fresh", "--copy", target)
    assert "begins with a GPT" in said
    office.did("hsr", "delete", "stand-by")
    office.did(*add[:-1], "none")
    office.home.settle()
    assert office.stands_at().number == 1


def test_how_a_job_is_tested_is_saved_shown_and_changed(office: Office):
    office.begin("--test", "weekly", "--test-boot", "--test-marker", "login:")
    shown = office.shown()
    assert (shown["test"], shown["test_boot"], shown["test_marker"]) == ("weekly", True, "login:")
    assert shown["tested"] is None
    assert "tests      weekly, with a start to 'login:'" in office.do("hsr", "show", "stand-by").output
    office.did("hsr", "test", "stand-by", "--every", "monthly", "--boot", "--bus", "virtio")
    assert "tests      monthly, with a start from virtio" in office.do("hsr", "show", "stand-by").output
    office.did("hsr", "test", "stand-by", "--every", "weekly", "--boot", "--marker", "login:")
    [change] = office.did("hsr", "test", "stand-by", "--every", "daily")
    assert (change["before"], change["after"]) == ("weekly, with a start to 'login:'", "daily")
    assert office.did("hsr", "test", "stand-by", "--every", "daily") == []
    office.home.lose_catalogue()
    office.home.settle()
    assert (office.shown()["test"], office.shown()["test_boot"]) == ("daily", False)
    office.did("hsr", "test", "stand-by", "--every", "never")
    office.home.settle()
    assert office.row().next_test_at is None


def test_what_says_no_test_is_refused(office: Office):
    office.begin()
    assert "'hourly' is not one of" in office.refused("hsr", "test", "stand-by", "--every", "hourly")
    assert "not how often" in office.refused("hsr", "test", "stand-by", "--every", "never", "--boot")
    refused = office.refused("hsr", "test", "stand-by", "--every", "daily", "--marker", "up")
    assert "for a point that is started" in refused
    for marker in ("", "a\nb", "x" * 201):
        refused = office.refused("hsr", "test", "stand-by", "--every", "daily", "--boot", "--marker", marker)
        assert "is no marker" in refused
    assert "no HeadStart job" in office.refused("hsr", "test", "other", "--every", "daily")
    assert office.shown()["test"] == "never"


def test_a_disk_whose_cursor_cannot_be_read_is_never_taken_for_finalized(
    office: Office, monkeypatch: pytest.MonkeyPatch
):
    """Its file is there, but so it is before finalizing: what it needs stays claimed."""
    office.begin()
    with monkeypatch.context() as patched:
        patched.setattr(LocalMedium, "load", _out_of_reach)
        for words in (("hsr", "finalize", "stand-by"), ("hsr", "finalize", "stand-by", "--point", "0")):
            assert "Host is down" in office.refused(*words)
        assert office.row().state is not DiskState.FINALIZED
    office.home.settle()
    assert office.row().state is DiskState.UP_TO_DATE
    with office.home.catalog.read() as session:
        assert stored_claims(session)


def _out_of_reach(self: LocalMedium, path: Path, limit_bytes: int) -> bytes | None:
    del self, limit_bytes
    raise RestoreError("cannot be used: Host is down", path=str(path))


def test_a_job_deleted_and_another_added_while_a_worker_is_at_the_disk(
    office: Office, monkeypatch: pytest.MonkeyPatch
):
    """The worker's disk is not taken for the other one, though both are disks of the same volume."""
    office.begin("--format", "raw", "--lag", "0")
    office.home.now += HOUR
    office.capture()
    real, told = headstart.bring_to_goal, []

    def beside(seal, view, count, progress, stopping):
        if not told and not view.cursor.is_blank:
            told.append(view.job.name)
            office.did("hsr", "delete", "stand-by")
            words = ("--location", "here", "--subfolder", "two", "--format", "raw", "--lag", "0")
            office.did("hsr", "add", "second", office.home.folder, *words)
        return real(seal, view, count, progress, stopping)

    monkeypatch.setattr(headstart, "bring_to_goal", beside)
    office.home.settle()
    office.home.now += HOUR
    office.home.settle()
    assert told == ["stand-by"]
    [second] = office.did("hsr", "show", "second")
    assert (second["status"], second["number"]) == ("up to date", 1)
