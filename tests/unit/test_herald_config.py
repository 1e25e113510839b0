"""Who is told of trouble, as part of the one file: nothing lost, nothing secret told, all or nothing."""

from __future__ import annotations

import stat
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ops.config_document import ConfigDocument, parse_config
from ops.config_text import config_text
from ops.herald_config import HERALD_FIELDS
from ops.notify.settings import parse_herald_settings, read_herald_settings
from tests.catalogued import Office

SECRET = "T0/B0/xyzzy"
MAIL: dict[str, object] = {
    "server": "smtp.example.org",
    "sender": "b@example.org",
    "recipients": ["a@example.org"],
}
NEEDED = {"mail": MAIL, "webhook": {"url": "https://a.org/"}, "alive": {"url": "https://a.org/"}}
HERALD = f"""\
[mail]
server = "smtp.example.org"
user = "backup"
password_file = "/etc/rollforward/smtp.password"
sender = "Backup Müller <b@example.org>"
recipients = ["a@example.org", "ann@example.org"]

[webhook]
url = "https://hooks.example.org/{SECRET}?token={SECRET}"
about = ["failure"]

[summary]
at = 06:30:00

[metrics]
"""


@pytest.fixture
def office(quick_path: Path) -> Office:
    made = Office(quick_path / "an agent's plâce")
    made.clock.set(datetime(2026, 3, 2, 12, tzinfo=UTC))
    return made


def herald_of(office: Office) -> Path:
    return office.state / "herald.toml"


def exported(office: Office) -> str:
    ran = office.do("config", "export")
    assert ran.code == 0, str(ran)
    return ran.output


def applied(office: Office, text: str, *words: str) -> list[dict[str, object]]:
    file = office.place / "config.toml"
    file.write_text(text)
    return office.did("config", "apply", file, *words)


def test_it_is_exported_without_secrets_and_applied_whole(office: Office):
    herald_of(office).write_text(HERALD)
    before = read_herald_settings(herald_of(office), office.zone)
    text = exported(office)
    assert SECRET not in text
    told = tomllib.loads(text)
    assert told["mail"]["recipients"] == ["a@example.org", "ann@example.org"]
    assert told["mail"]["password_file"] == "/etc/rollforward/smtp.password"
    assert (told["webhook"]["url"], told["summary"]) == ("https://hooks.example.org/…", {"at": "06:30"})
    assert "# [alive]" in text
    assert applied(office, text) == []
    assert herald_of(office).read_text() == HERALD
    changes = applied(
        office, text.replace('"backup"', '"other"').replace("[metrics]", "[alive]\nurl = 'http://a/b'\n#")
    )
    assert [(one["setting"], one["before"], one["after"]) for one in changes] == [
        ("mail.user", "backup", "other"),
        ("metrics", "on", "off"),
        ("alive", "off", "on"),
        ("alive.url", "not set", "http://a/…"),
    ]
    after = read_herald_settings(herald_of(office), office.zone)
    assert after.webhook == before.webhook
    assert after.endpoint is None
    assert after.mail is not None
    assert (after.mail.user, after.mail.sender) == ("other", "Backup Müller <b@example.org>")


def test_a_new_file_is_for_its_owner_alone_and_an_old_one_keeps_its_rights(office: Office):
    assert len(applied(office, "[metrics]\nport = 9000\n", "--dry-run")) == 2
    assert not herald_of(office).exists()
    applied(office, "[metrics]\nport = 9000\n")
    assert stat.S_IMODE(herald_of(office).stat().st_mode) == 0o600
    herald_of(office).chmod(0o644)
    applied(office, "[metrics]\nport = 9001\n")
    assert stat.S_IMODE(herald_of(office).stat().st_mode) == 0o644
    assert [path.name for path in office.state.iterdir() if path.name.endswith(".new")] == []


def test_a_file_that_does_not_speak_of_it_changes_nothing(office: Office):
    herald_of(office).write_text(HERALD)
    applied(office, "[retention]\nkeep_daily_days = 20\n", "--prune")
    assert herald_of(office).read_text() == HERALD
    changes = applied(office, f"[webhook]\nurl = 'https://hooks.example.org/{SECRET}'\n")
    assert ("webhook.url", "https://hooks.example.org/…, another one") in [
        (one["setting"], one["after"]) for one in changes
    ]
    assert SECRET not in str(changes)
    assert list(tomllib.loads(herald_of(office).read_text())) == ["webhook"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[metrics]\n\nport = 70000\n", ["line 3", "metrics.port", "70000", "0 to 65535"]),
        ("[mail]\nserver = 'a'\nsender = 'a@b'\n", ["line 1", "mail.recipients is missing"]),
        ("[summary]\nat = '25:00'\n", ["line 2", "summary.at", "25:00", "00:00 to 23:59"]),
        ("[alive]\nurl = 'http://a'\nevery = 5\n", ["line 3", "alive.every", "every_s"]),
        ("metrics = 3\n", ["line 1", "metrics"]),
        (f"[alive]\nurl = 'ftp://a/{SECRET}'\n", ["line 2", "alive.url", "https://"]),
        ("[alive]\nurl = 'https://a/…'\n", ["alive.url", "rest of the address"]),
        ("[[folder]]\npath = '/a'\n[folder.mail]\nserver = 'a'\n", ["line 3", "mail"]),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_applied(office: Office, text: str, said: list[str]):
    file = office.place / "config.toml"
    file.write_text(f"{text}\n[retention]\nkeep_daily_days = 20\n" if "folder" not in text else text)
    ran = office.do("config", "apply", file)
    assert ran.code == 2, str(ran)
    assert all(word in ran.errors for word in said), ran.errors
    assert SECRET not in ran.errors
    assert not herald_of(office).exists()
    assert "# keep_daily_days" in exported(office)


def test_a_file_that_cannot_be_written_leaves_the_settings_as_they_were(office: Office):
    office.environment["ROLLFORWARD_HERALD"] = str(office.place / "missing" / "herald.toml")
    file = office.place / "config.toml"
    file.write_text("[metrics]\n[retention]\nkeep_daily_days = 20\n")
    ran = office.do("config", "apply", file)
    assert ran.code != 0
    assert "herald.toml" in ran.errors
    assert "# keep_daily_days" in exported(office)


def test_one_that_is_broken_is_named_by_export_and_mended_by_apply(office: Office):
    herald_of(office).write_text("[mail]\nserver = 3\n")
    ran = office.do("config", "export")
    assert (ran.code, "mail.server" in ran.errors) == (2, True)
    assert applied(office, "[summary]\n")[0]["after"] == "written anew"
    assert read_herald_settings(herald_of(office), office.zone).summary is not None


@pytest.mark.parametrize("section", HERALD_FIELDS)
def test_the_table_says_what_the_herald_goes_by(section: str):
    needed = NEEDED.get(section, {})
    defaults = {name: default for name, (default, _) in HERALD_FIELDS[section].items() if default is not None}
    short = parse_herald_settings({section: needed}, "UTC", where="here")
    assert parse_herald_settings({section: {**defaults, **needed}}, "UTC", where="here") == short
    page = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
    assert [name for name in HERALD_FIELDS[section] if f"`{section}.{name}`" not in page] == []
    text = config_text(ConfigDocument(herald={section: needed}))  # type: ignore[dict-item]
    assert parse_config(text, "a file").herald == {section: needed}
