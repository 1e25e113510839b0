"""Managed folders, settings and the one file, from the command line, on a real catalogue."""

from __future__ import annotations

import os
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ops.folder_place import answered, refuse_overlap
from policies.errors import ConfigurationError
from storage.catalog.folders import all_folders, find_folder
from storage.credentials import Credentials, CredentialSeal, user_in
from tests.catalogued import Office
from tests.command import PROGRAM

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture
def office(quick_path: Path) -> Office:
    made = Office(quick_path / "an agent's plâce")
    made.clock.set(NOW)
    return made


def settings_of(office: Office, folder: Path) -> dict[str, object]:
    shown = office.did("folder", "show", folder)[0]
    return {row["setting"]: row["value"] for row in shown["settings"]}


def test_a_folder_is_added_shown_set_listed_and_removed(office):
    (office.folder / "D-b001.spf").write_bytes(b"no image")
    added = office.did("folder", "add", office.folder, "--description", "Bücher", "--sort-priority", "7")
    assert [(one["setting"], one["after"]) for one in added] == [
        ("managed", "yes"),
        ("description", '"Bücher"'),
        ("sort_priority", "7"),
    ]
    shown = office.did("folder", "show", office.folder)[0]
    assert (shown["description"], shown["sort_priority"], shown["time_zone"]) == (
        "Bücher",
        7,
        "Europe/Berlin",
    )
    assert shown["image_files"] == 1
    assert shown["folder_bytes"] >= len("no image")
    assert 0 < shown["free_bytes"] <= shown["device_bytes"]
    assert shown["volumes"] == ["D b001"]
    changed = office.did(
        "folder", "set", office.folder, "retention.keep_daily_days=30", "--time-zone", "America/New_York"
    )
    assert {one["setting"] for one in changed} == {"time_zone", "retention.keep_daily_days"}
    assert [one["path"] for one in office.did("folder", "list")] == [str(office.folder)]
    assert settings_of(office, office.folder)["retention.keep_daily_days"] == 30
    office.did("folder", "set", office.folder, "--unset", "retention", "--sort-priority", "off")
    assert settings_of(office, office.folder)["retention.keep_daily_days"] == 15
    assert office.did("folder", "list")[0]["sort_priority"] is None
    office.did("folder", "remove", office.folder)
    assert office.did("folder", "list") == []
    assert (office.folder / "D-b001.spf").read_bytes() == b"no image"


def test_what_a_folder_does_not_set_follows_the_agent(office):
    office.manage(NOW)
    office.did("settings", "set", "retention.keep_daily_days=40", "consolidation.week_end=friday")
    office.did("folder", "set", office.folder, "consolidation.week_end=monday")
    held = settings_of(office, office.folder)
    assert (held["retention.keep_daily_days"], held["consolidation.week_end"]) == (40, "monday")
    office.did("settings", "reset", "retention")
    assert settings_of(office, office.folder)["retention.keep_daily_days"] == 15


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["settings", "set", "retention.keep_daily_days=0"],
            ["retention.keep_daily_days", "0", "1 to 3650"],
        ),
        (["settings", "set", "retention.keep_dayly_days=3"], ["retention.keep_daily_days"]),
        (["settings", "set", "control.at=24:00"], ["control.at", "24:00", "00:00 to 23:59"]),
        (["settings", "set", "control.enabled=maybe"], ["control.enabled", "'maybe'", "on or off"]),
        (["settings", "set", "reverify"], ["retention.keep_daily_days=30"]),
        (["settings", "reset", "nothing.at_all"], ["nothing.at_all"]),
        (["folder", "set", "FOLDER", "--sort-priority", "256"], ["sort_priority", "256", "0 to 255"]),
        (
            ["folder", "set", "FOLDER", "--time-zone", "Mars/Base"],
            ["zone (found Mars/Base)", "Europe/Berlin"],
        ),
        (["folder", "set", "FOLDER", "control.at=01:00"], ["control.at"]),
        (["folder", "set", "/nowhere", "retention.keep_daily_days=3"], ["/nowhere", "folder add"]),
        (["folder", "add", "/nowhere/at all"], ["/nowhere/at all", "No such file"]),
        (["folder", "add", "/etc/passwd"], ["/etc/passwd", "not a folder"]),
        (["folder", "add", ""], ["an empty path"]),
        (["folder", "show", "elsewhere"], [f"{Path.cwd()}/elsewhere", "is no managed folder"]),
    ],
)
def test_errors_name_field_value_and_range(office, words, said):
    office.manage(NOW)
    ran = office.do(*(str(office.folder) if word == "FOLDER" else word for word in words))
    assert ran.code == 2, str(ran)
    assert all(word in ran.errors for word in said), ran.errors
    assert "Traceback" not in ran.errors


def test_nothing_is_set_where_one_of_several_is_wrong(office):
    ran = office.do("settings", "set", "retention.keep_daily_days=20", "retention.keep_weekly_days=0")
    assert ran.code == 2
    assert not any(one["set"] for one in office.did("settings", "show"))


def test_folders_do_not_lie_in_one_another_by_whatever_name(office):
    office.manage(NOW)
    inner = office.folder / "inner"
    inner.mkdir()
    link = office.place / "a link"
    link.symlink_to(office.folder)
    assert "lies in the folder" in office.do("folder", "add", inner).errors
    assert "holds the folder" in office.do("folder", "add", office.place).errors
    assert "is managed already" in office.do("folder", "add", link).errors
    assert "is managed already" in office.do("folder", "add", f"{inner}/..").errors
    assert len(office.did("folder", "list")) == 1


def test_a_folder_by_another_name_of_its_device_is_the_same(tmp_path, monkeypatch):
    one, other = tmp_path / "one", tmp_path / "other"
    (one / "inner").mkdir(parents=True)
    other.mkdir()
    real = Path.stat

    def as_if_mounted_twice(path: Path, **more: bool) -> os.stat_result:
        return real(Path(str(path).replace(str(other), str(one))), **more)

    monkeypatch.setattr(Path, "stat", as_if_mounted_twice)
    with pytest.raises(ConfigurationError, match="is managed already, by the name"):
        refuse_overlap(other, [one])
    with pytest.raises(ConfigurationError, match="lies in the folder"):
        refuse_overlap(other / "inner", [one])
    with pytest.raises(ConfigurationError, match="holds the folder"):
        refuse_overlap(one, [other / "inner"])


def test_a_folder_that_does_not_answer_holds_up_nothing(tmp_path, monkeypatch):
    import threading

    monkeypatch.setattr("ops.folder_place.ANSWER_WITHIN_S", 0.05)
    never = threading.Event()
    with pytest.raises(OSError, match="does not answer"):
        answered(never.wait, tmp_path)
    never.set()


def test_credentials_are_kept_sealed(office):
    secret = office.place / "secret"
    secret.touch(mode=0o600)
    secret.write_text("päss wörd\n")
    office.manage(NOW)
    office.did("folder", "set", office.folder, "--user", "OFFICE\\bäckup", "--password-file", secret)
    office.did("settings", "credentials", "--user", "everybody", "--password-file", secret)
    catalog = office.catalog()
    with catalog.read() as session:
        folder = find_folder(session, office.folder)
        assert folder is not None
        stored = folder.credentials
    catalog.close()
    assert stored is not None
    key = CredentialSeal(office.state / "credentials.key")
    assert key.open(stored, str(office.folder)) == Credentials("OFFICE\\bäckup", "päss wörd".encode())
    assert user_in(stored) == "OFFICE\\bäckup"
    assert (office.state / "credentials.key").stat().st_mode & 0o777 == 0o600
    for file in office.state.iterdir():
        if file.is_file():
            assert "päss".encode() not in file.read_bytes()
    with pytest.raises(ConfigurationError):
        key.open(stored, "/another/folder")
    assert "OFFICE" in office.did("folder", "show", office.folder)[0]["credentials"]
    again = office.did("folder", "set", office.folder, "--user", "OFFICE\\bäckup", "--password-file", secret)
    assert again == []
    office.did("folder", "set", office.folder, "--user", "off")
    assert office.did("folder", "show", office.folder)[0]["credentials"] == "everybody (the agent's)"


def test_credentials_of_a_lost_key_are_a_clear_error(office, tmp_path):
    sealed = CredentialSeal(tmp_path / "one").seal(Credentials("u", b"p"), "there")
    CredentialSeal(tmp_path / "two").seal(Credentials("u", b"p"), "there")
    for key, text in (("two", sealed), ("gone", sealed), ("one", sealed[:-4]), ("one", "v9 x y")):
        with pytest.raises(ConfigurationError):
            CredentialSeal(tmp_path / key).open(text, "there")


CONFIG = """\
[control]
at = 02:30:00

[retention]
keep_daily_days = 20

[[folder]]
path = "{folder}"
description = "web's \\"bücher\\""
time_zone = "America/New_York"
sort_priority = 0
[folder.consolidation]
month_end = "last friday"

[[folder]]
path = "/mnt/asleep"
"""


def written(office: Office, text: str) -> Path:
    file = office.place / "config.toml"
    file.write_text(text.replace("{folder}", str(office.folder)))
    return file


def test_one_file_says_all_and_says_it_once(office):
    file = written(office, CONFIG)
    planned = office.did("config", "apply", file, "--dry-run")
    assert {one["status"] for one in planned} == {"planned"}
    assert office.did("folder", "list") == []
    done = office.did("config", "apply", file)
    assert [(one["path"], one["setting"], one["after"]) for one in done] == [
        (one["path"], one["setting"], one["after"]) for one in planned
    ]
    assert office.did("config", "apply", file) == []
    assert [one["path"] for one in office.did("folder", "list")] == [str(office.folder), "/mnt/asleep"]
    exported = office.place / "exported.toml"
    assert office.do("config", "export", exported).code == 0
    assert office.did("config", "apply", exported) == []
    assert tomllib.loads(exported.read_text())["folder"][0]["consolidation"] == {"month_end": "last friday"}


def test_folders_that_a_file_does_not_name_stay_unless_it_prunes(office):
    office.manage(NOW)
    file = written(office, "[[folder]]\npath = '/mnt/asleep'\n")
    office.did("config", "apply", file)
    assert len(office.did("folder", "list")) == 2
    office.did("config", "apply", file, "--prune")
    assert [one["path"] for one in office.did("folder", "list")] == ["/mnt/asleep"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[retention]\nkeep_daily_days = = 3\n", ["line 2"]),
        (
            "[retention]\n\nkeep_daily_days = '3'\n",
            ["line 3", "retention.keep_daily_days", "'3'", "1 to 3650"],
        ),
        ("[retention]\nkeep_daily_days = 4000\n", ["line 2", "4000", "1 to 3650"]),
        ("[retension]\nkeep_daily_days = 4\n", ["line 1", "retension"]),
        ("[retention]\nkeep_dayly_days = 4\n", ["line 2", "keep_dayly_days", "retention.keep_daily_days"]),
        ("retention = 3\n", ["line 1", "retention"]),
        ("[[folder]]\ndescription = 'x'\n", ["line 1", "path"]),
        ("[[folder]]\npath = 'images'\n", ["line 2", "images", "not absolute"]),
        ("[[folder]]\npath = '/a'\nsort_priority = true\n", ["line 3", "sort_priority", "True", "0 to 255"]),
        ("[[folder]]\npath = '/a'\n[[folder]]\npath = '/a/'\n", ["line 4", "twice"]),
        ("[[folder]]\npath = '/a'\n[folder.control]\nat = '01:00'\n", ["line 3", "control"]),
        ("[[folder]]\npath = '/a'\ntime_zone = 'Mars/Base'\n", ["line 3", "Mars/Base"]),
        ("[[folder]]\npath = '/a'\npassword_file = '/p'\n", ["line 3", "password_file"]),
        ("[folder]\npath = '/a'\n", ["line 1", "[[folder]]"]),
        ("[[folder]]\npath = '/a'\n[[folder]]\npath = '/a/b'\n", ["/a/b", "lies in the folder /a"]),
        ("[[folder]]\npath = '/a'\nuser = 'bob'\n", ["bob", "password_file"]),
        ("x = [" * 2_000, ["no TOML"]),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_line_and_nothing_is_applied(office, text, said):
    ran = office.do(
        "config", "apply", written(office, "[control]\nat = '03:00'\n") if not text else written(office, text)
    )
    assert ran.code == 2, str(ran)
    assert all(word in ran.errors for word in said), ran.errors
    assert office.did("folder", "list") == []


def test_a_file_that_is_no_text_is_a_clear_error(office):
    file = office.place / "config.toml"
    file.write_bytes(b"[control]\nat = '\xff'\n")
    assert "line 2" in office.do("config", "apply", file).errors
    assert office.do("config", "apply", office.place / "missing").code == 2


def test_folders_with_a_sort_priority_come_first_ascending(office):
    names = {"c": "200", "b": "0", "a": None, "d": "3"}
    for name, priority in names.items():
        folder = office.place / name
        folder.mkdir()
        office.did("folder", "add", folder, *(["--sort-priority", priority] if priority else []))
    listed = [Path(one["path"]).name for one in office.did("folder", "list")]
    assert listed == ["b", "d", "c", "a"]
    catalog = office.catalog()
    with catalog.read() as session:
        assert [Path(folder.path).name for folder in all_folders(session)] == listed
    catalog.close()


def test_a_folder_of_another_agent_is_refused_until_it_is_taken_over(office):
    office.manage(NOW)
    office.use_state(office.place / "another state")
    office.environment["ROLLFORWARD_STATE"] = str(office.place / "another state")
    ran = office.do("folder", "add", office.folder)
    assert ran.code == 8, str(ran)
    assert "--take-over" in ran.errors
    assert office.did("folder", "list") == []
    office.did("folder", "add", office.folder, "--take-over")
    office.did("folder", "remove", office.folder)
    office.environment["ROLLFORWARD_STATE"] = str(office.state)
    office.did("folder", "list")


def test_paths_that_are_no_text_are_refused(office):
    folder = office.place / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    ran = office.do("folder", "add", folder)
    assert ran.code == 2, str(ran)
    assert "UTF-8" in ran.errors


def test_help_does_not_wait_for_anything_heavy():
    import subprocess
    import sys

    source = (
        "import sys; sys.argv = ['rollforward', 'folder', 'add', '--help']\n"
        "from ops.cli import main\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "heavy = {'sqlalchemy', 'numpy', 'numba', 'rich', 'cryptography', 'alembic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", source], check=True, stdout=subprocess.DEVNULL)
    assert Path(PROGRAM).exists()
