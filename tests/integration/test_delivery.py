"""Letters on their way, over real connections: SMTP with and without TLS, HTTP and HTTPS."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ops.notify.mail import make_mail, send_mail
from ops.notify.settings import MailSettings, WebhookSettings
from ops.notify.webhook import post_letter
from policies.errors import DeliveryError
from tests.letters import ZONE, letters
from tests.listeners import mail_server, make_certificate, web_server

LETTERS = letters()
NOW = datetime(2026, 3, 2, 6, tzinfo=UTC)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("open sesame\n")
    path.chmod(0o600)
    return path


def mail_settings(port: int, security: str = "none", **more: object) -> MailSettings:
    plain: dict[str, object] = {
        "server": "localhost",
        "port": port,
        "security": security,
        "user": "",
        "password_file": "",
        "ca_file": "",
        "sender": "Büro <backup@example.org>",
        "recipients": ("admin@example.org", "Ä. Zweite <second@example.org>"),
        "subject_prefix": "[backup]",
        "about": frozenset(),
        "timeout_s": 60,
    }
    return MailSettings(**(plain | more))  # type: ignore[arg-type]


def hook_settings(url: str, **more: object) -> WebhookSettings:
    plain: dict[str, object] = {
        "url": url,
        "secret_file": "",
        "ca_file": "",
        "about": frozenset(),
        "timeout_s": 60,
    }
    return WebhookSettings(**(plain | more))  # type: ignore[arg-type]


def test_every_kind_of_mail_arrives_as_text_and_as_html():
    with mail_server(security="none") as box:
        settings = mail_settings(box.port)
        for name, letter in LETTERS.items():
            send_mail(make_mail(letter, settings, ZONE, f"7.{name}"), settings)
    assert [mail["Message-ID"] for mail in box.mails] == [f"<7.{name}@example.org>" for name in LETTERS]
    for letter, mail in zip(LETTERS.values(), box.mails, strict=True):
        text, html = mail.get_body(("plain",)), mail.get_body(("html",))
        assert text is not None
        assert html is not None
        assert mail.get_content_type() == "multipart/alternative"
        assert mail["Subject"].strip().startswith("[backup] ")
        assert "\x1b" not in mail["Subject"]
        assert mail["Auto-Submitted"] == "auto-generated"
        for entry in letter.opened[:50]:
            if "\x1b" not in entry.reason:
                assert entry.reason in " ".join(text.get_content().split())
                assert entry.reason in html.get_content()
    assert box.recipients[0] == ["admin@example.org", "second@example.org"]
    assert box.mails[0]["From"] == "Büro <backup@example.org>"


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_over_tls_with_a_login(security: str, certificate: tuple[Path, Path], password: Path):
    with mail_server(security=security, certificate=certificate) as box:
        login = {"user": "agent", "password_file": str(password), "ca_file": str(certificate[0])}
        settings = mail_settings(box.port, security, **login)
        send_mail(make_mail(LETTERS["test"], settings, ZONE, "7"), settings)
        assert box.logins == [(b"agent", b"open sesame")]
        assert len(box.mails) == 1
        password.write_text("open barley")
        with pytest.raises(DeliveryError, match="refuses name or password") as caught:
            send_mail(make_mail(LETTERS["test"], settings, ZONE, "8"), settings)
        assert "barley" not in str(caught.value)


def test_a_certificate_of_nobody_we_trust_gets_nothing(certificate: tuple[Path, Path], password: Path):
    with mail_server(security="starttls", certificate=certificate) as box:
        settings = mail_settings(box.port, "starttls", user="agent", password_file=str(password))
        with pytest.raises(DeliveryError, match=r"cannot be reached: .*CERTIFICATE_VERIFY_FAILED"):
            send_mail(make_mail(LETTERS["test"], settings, ZONE, "7"), settings)
    assert box.logins == box.mails == []


def test_where_starttls_is_asked_for_nothing_is_sent_without(password: Path):
    with mail_server(security="none") as box:
        settings = mail_settings(box.port, "starttls", user="agent", password_file=str(password))
        with pytest.raises(DeliveryError, match="no STARTTLS"):
            send_mail(make_mail(LETTERS["test"], settings, ZONE, "7"), settings)
    assert box.mails == []


def test_what_a_server_answers_is_told():
    with mail_server(security="none") as box:
        box.answer = "452 4.2.2 mailbox \x1b full"
        settings = mail_settings(box.port)
        with pytest.raises(DeliveryError, match=r"answers 452: 4.2.2 mailbox \\x1b full"):
            send_mail(make_mail(LETTERS["test"], settings, ZONE, "7"), settings)


@pytest.fixture
def silent() -> Iterator[int]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_server_that_says_nothing_holds_nobody_up(silent: int):
    settings = mail_settings(silent, server="127.0.0.1", timeout_s=1)
    with pytest.raises(DeliveryError, match="in time"):
        send_mail(make_mail(LETTERS["test"], settings, ZONE, "7"), settings)
    hook = hook_settings(f"http://127.0.0.1:{silent}/x", timeout_s=1)
    with pytest.raises(DeliveryError, match="no answer within 1 s"):
        post_letter(LETTERS["test"], hook, ZONE, "7", NOW)


def test_a_server_that_drips_holds_nobody_up():
    done = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            while not done.wait(0.1):
                try:
                    connection.sendall(b"2")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        with pytest.raises(DeliveryError, match="no answer within 1 s"):
            post_letter(LETTERS["test"], hook_settings(url, timeout_s=1), ZONE, "7", NOW)
        done.set()
        thread.join(60)


def test_nobody_there_is_told():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    settings = mail_settings(port, server="127.0.0.1")
    with pytest.raises(DeliveryError, match="cannot be reached"):
        send_mail(make_mail(LETTERS["test"], settings, ZONE, "7"), settings)
    with pytest.raises(DeliveryError, match="no answer"):
        post_letter(LETTERS["test"], hook_settings(f"http://127.0.0.1:{port}/s3cret"), ZONE, "7", NOW)


def test_a_webhook_gets_the_letter_signed(tmp_path: Path, certificate: tuple[Path, Path]):
    secret = tmp_path / "secret"
    secret.write_text("shared")
    secret.chmod(0o600)
    with web_server(certificate=certificate) as web:
        settings = hook_settings(web.url, secret_file=str(secret), ca_file=str(certificate[0]))
        for name, letter in LETTERS.items():
            post_letter(letter, settings, ZONE, f"7.{name}", NOW)
    assert len(web.requests) == len(LETTERS)
    for (name, letter), request in zip(LETTERS.items(), web.requests, strict=True):
        values = json.loads(request.body)
        assert values.pop("text")
        assert values == letter.to_json()
        assert request.headers["Rollforward-Letter"] == f"7.{name}"
        time = request.headers["Rollforward-Time"]
        expected = hmac.new(b"shared", time.encode() + b"." + request.body, hashlib.sha256).hexdigest()
        assert request.headers["Rollforward-Signature"] == f"sha256={expected}"
        assert b"shared" not in request.body


def test_no_redirect_is_followed():
    with web_server() as other, web_server() as web:
        for status in (301, 302, 303, 307, 308):
            web.status, web.location = status, other.url.replace("localhost", "127.0.0.1")
            with pytest.raises(DeliveryError, match=r"redirected to 127\.0\.0\.1, which is not followed"):
                post_letter(LETTERS["test"], hook_settings(web.url), ZONE, "7", NOW)
    assert other.requests == []


@pytest.mark.parametrize("status", [400, 401, 404, 500, 503])
def test_any_other_answer_is_a_failure_that_shows_no_path(status: int):
    with web_server() as web:
        web.status = status
        with pytest.raises(DeliveryError, match=f"localhost: answered {status}") as caught:
            post_letter(LETTERS["test"], hook_settings(web.url + "/s3cret"), ZONE, "7", NOW)
        assert "s3cret" not in str(caught.value)
