"""The herald's file: what it may say, and what is told of what it may not."""

from __future__ import annotations

import os
from datetime import time
from pathlib import Path

import pytest

from ops.notify.secret_file import read_secret
from ops.notify.settings import parse_herald_settings, read_herald_settings
from policies.errors import ConfigurationError

MAIL = 'server = "smtp.example.org"\nsender = "Backup <b@example.org>"\nrecipients = ["a@example.org"]\n'
HOOK = 'url = "https://example.org/hook"\n'


def read(tmp_path: Path, text: str):
    path = tmp_path / "herald.toml"
    path.write_text(text)
    return read_herald_settings(path, "Europe/Berlin")


def test_nothing_is_told_unless_it_is_asked_for(tmp_path: Path):
    found = read_herald_settings(tmp_path / "none", "Europe/Berlin")
    assert (found.mail, found.webhook, found.summary, found.endpoint, found.alive) == (None,) * 5
    assert found.zone.key == "Europe/Berlin"


def test_a_whole_file(tmp_path: Path):
    text = f"[mail]\n{MAIL}[webhook]\n{HOOK}about = ['failure']\n[summary]\nat = 06:30:00\n[metrics]\n[alive]\n{HOOK}"
    found = read(tmp_path, text)
    assert found.mail is not None
    assert (found.mail.port, found.mail.security, found.mail.user) == (587, "starttls", "")
    assert found.webhook is not None
    assert found.webhook.about == {"failure"}
    assert found.summary is not None
    assert found.summary.at == time(6, 30)
    assert found.endpoint is not None
    assert (found.endpoint.address, found.endpoint.port) == ("127.0.0.1", 9464)
    assert found.alive is not None
    assert found.alive.every_s == 60


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[mial]", r"there is no section \[mial\]"),
        ("mail = 3", r"\[mail\] is a section of settings, not 3"),
        ("[mail]\n", "mail.server is missing: it takes a line of text"),
        (f"[mail]\n{MAIL}port = 0", "mail.port cannot be 0: it takes a whole number from 1 to 65535"),
        (f"[mail]\n{MAIL}port = true", "mail.port cannot be True"),
        (f"[mail]\n{MAIL}security = 'ssl'", "mail.security cannot be 'ssl': it takes starttls, tls or none"),
        (f"[mail]\n{MAIL}prot = 3", "there is no setting mail.prot"),
        (f"[mail]\n{MAIL}user = 'x'", "mail.user cannot be 'x': it takes a name together with password_file"),
        (f"[mail]\n{MAIL}user = 'x'\npassword_file = '/p'\nsecurity = 'none'", "where a password is sent"),
        (f"[mail]\n{MAIL}about = ['gossip']", "it takes a list of failure, inactivity, space, summary"),
        (f'[mail]\n{MAIL}subject_prefix = "a\\nBcc: b"', "mail.subject_prefix cannot be"),
        ("[mail]\nserver = 'a'\nsender = 'nobody'\nrecipients = ['a@b']", "mail.sender cannot be 'nobody'"),
        ("[mail]\nserver = 'a'\nsender = 'a@b'\nrecipients = []", r"mail.recipients cannot be \[\]"),
        ("[webhook]\nurl = 'ftp://x/'", "webhook.url cannot be"),
        ("[webhook]\nurl = 'https://me:pass@x/'", "without a name and a password"),
        (f"[webhook]\n{HOOK}timeout_s = 601", "webhook.timeout_s cannot be 601: .* from 1 to 600"),
        (
            "[summary]\nat = '25:00'",
            "summary.at cannot be '25:00': it takes a time of day from 00:00 to 23:59",
        ),
        ("[summary]\ntime_zone = 'Mars/Base'", "summary.time_zone cannot be 'Mars/Base'"),
        ("[metrics]\naddress = '0.0.0.0'", "metrics.token_file is missing"),
        ("[metrics]\naddress = 'here'", "metrics.address cannot be 'here'"),
        (f"[alive]\n{HOOK}every_s = 1", "alive.every_s cannot be 1: .* from 5 to 86400"),
        ("[mail", "not a TOML file"),
    ],
)
def test_what_is_wrong_is_named_with_what_it_takes(tmp_path: Path, text: str, words: str):
    with pytest.raises(ConfigurationError, match=words) as caught:
        read(tmp_path, text)
    assert caught.value.path == str(tmp_path / "herald.toml")
    assert "pass@" not in str(caught.value)


def test_near_misses_are_guessed():
    with pytest.raises(ConfigurationError) as caught:
        parse_herald_settings({"alive": {"url": "https://x/", "evry_s": 5}}, "UTC", where="here")
    assert caught.value.hint == "Did you mean every_s?"


def test_a_secret_is_a_private_line(tmp_path: Path):
    path = tmp_path / "secret"
    path.write_text("open sesame\nand a remark\n")
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="others may read") as caught:
        read_secret(str(path))
    assert "sesame" not in str(caught.value)
    path.chmod(0o600)
    assert read_secret(str(path)) == "open sesame"
    for wrong in (b"", b"\n", b"\xff\xfe", b"x" * 5_000, b"a\0b"):
        path.write_bytes(wrong)
        with pytest.raises(ConfigurationError, match="not a line of text"):
            read_secret(str(path))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_secret(str(tmp_path / "none"))


def test_a_credential_comes_from_the_service(tmp_path: Path):
    (tmp_path / "smtp").write_text("open sesame")
    os.chmod(tmp_path / "smtp", 0o440)  # noqa: PTH101 - as systemd makes it
    assert read_secret("smtp", {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == "open sesame"
    with pytest.raises(ConfigurationError, match="no credential 'smtp'"):
        read_secret("smtp", {})
