"""Each kind of letter that an agent sends: its cause is real, and it is received, and read as text and as HTML."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path

from ops.notify.letter import TITLES
from policies.notices import TroubleKind
from storage.catalog import EventKind
from storage.catalog.standing import open_troubles
from tests.checks.landing import make_images
from tests.command import in_this_process
from tests.integration.agent_run import AgentRun, wait_for
from tests.listeners import Mailbox, mail_server
from tests.loop import small_file_system

_EVENING = datetime(2026, 3, 2, 20, tzinfo=UTC)
_DISK_BYTES = 24 << 20
_VOID = {"meta", "br", "img"}


class _Page(HTMLParser):
    """Reads a page; its elements must be closed in order, and it must need nothing from elsewhere."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "iframe", "link", "img", "object"), tag
        assert not {name for name, _ in attrs} & {"src", "href", "background"}, attrs
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)


def every_kind(place: Path) -> str:
    """Cause each kind of trouble in an agent's folders, then mend all; a test and a summary come as well.

    Args:
        place: for all of it.

    Returns:
        What was shown, in words.
    """
    *stock, latest = make_images(place, 9)
    gap = place / "the accountant's büro"
    gap.mkdir()
    with small_file_system(place, _DISK_BYTES) as disk, mail_server(security="none") as box:
        full = disk / "bücher & <bilder>"
        full.mkdir()
        run = AgentRun(place / "agent", {"ROLLFORWARD_HERALD_S": "0.1"}, more_folders=[full, gap])
        _configure(run, box)
        run.clock.set(_EVENING)
        with run:
            tested = in_this_process("notify", "test", "--state", run.state_dir)
            assert tested.code == 0, str(tested)
            for folder in (full, gap, run.folder):
                _land([image for image in stock if folder != gap or image != stock[2]], folder)
            wait_for(lambda: len(run.events(EventKind.VERIFIED)) == 3 * len(stock) - 1, "all to be verified")
            assert box.mails[0]["Subject"] == f"[rollforward] test from {socket.gethostname()}"
            _damage(gap / stock[3].name)
            for image in stock[-3:]:
                (gap / image.name).unlink()
            away = run.folder.rename(place / "away")
            _fill(disk)
            _let_time_pass(
                run, lambda: _kinds(box.mails, is_over=False) == set(TroubleKind), "each kind of trouble told"
            )
            _mend(run, [*stock, latest], (full, gap, away))
            _let_time_pass(
                run, lambda: _kinds(box.mails, is_over=True) == set(TroubleKind), "each to be over"
            )
            with run.catalog() as catalog, catalog.read() as session:
                assert not open_troubles(session)
        for mail in box.mails:
            _must_be_good(mail)
        summaries = sum(_is_summary(mail) for mail in box.mails)
        assert summaries
        told = f"{len(TroubleKind)} kinds of trouble and their ends"
        return f"{len(box.mails)} letters: a test, {told}, {summaries} summaries"


def _configure(run: AgentRun, box: Mailbox) -> None:
    run.state_dir.mkdir(mode=0o700, parents=True)
    (run.state_dir / "herald.toml").write_text(
        f'[mail]\nserver = "127.0.0.1"\nport = {box.port}\nsecurity = "none"\nsender = "Büro <b@example.org>"\n'
        'recipients = ["a@example.org"]\n[summary]\nat = "07:00"\n'
    )


def _land(images: Sequence[Path], folder: Path) -> None:
    for image in images:
        shutil.copyfile(image, folder / image.name)


def _damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _fill(disk: Path) -> None:
    """Leave less room than an image takes."""
    with (disk / "ballast").open("wb") as file:
        for piece in (1 << 20, 4096):
            try:
                while True:
                    os.write(file.fileno(), bytes(piece))
            except OSError:
                continue


def _mend(run: AgentRun, images: Sequence[Path], places: tuple[Path, Path, Path]) -> None:
    """Bring all images back to where they belong, and one more; make room."""
    full, gap, away = places
    (full.parent / "ballast").unlink()
    away.rename(run.folder)
    for folder in (full, gap, run.folder):
        _land(images, folder)


def _let_time_pass(run: AgentRun, condition: Callable[[], bool], what: str) -> None:
    """Wait for something while the calendar runs, some hours a second."""

    def holds() -> bool:
        run.clock.set(run.clock() + timedelta(minutes=2))
        return condition()

    wait_for(holds, what, 300)


def _kinds(mails: Sequence[EmailMessage], *, is_over: bool) -> set[TroubleKind]:
    """Tell of which kinds of trouble mails tell, that they are there, or that they are over."""
    found = set()
    for mail in mails:
        if not _is_summary(mail):
            opened, _, over = _part(mail, "plain").partition("\nOVER\n")
            told = over if is_over else opened
            found |= {kind for kind in TroubleKind if f"* {TITLES[kind]}: " in told}
    return found


def _is_summary(mail: EmailMessage) -> bool:
    return mail["Subject"].startswith("[rollforward] 2026-")


def _part(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body((kind,))
    assert body is not None
    return "\n".join(str(body.get_content()).splitlines())


def _must_be_good(mail: EmailMessage) -> None:
    """A mail is whole, says the same twice, and needs nothing from elsewhere."""
    assert mail.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
    assert not any(part.defects for part in mail.walk())
    assert mail["From"] == "Büro <b@example.org>"
    assert mail["Date"].datetime is not None
    assert mail["Message-ID"]
    assert len(mail["Subject"]) <= 150
    text, page = _part(mail, "plain"), _Page()
    page.feed(_part(mail, "html"))
    page.close()
    assert page.open == []
    seen = " ".join(page.words)
    for line in text.splitlines():
        if line.startswith("* "):
            assert line.partition(": ")[2] in seen, line
    assert ("&lt;bilder&gt;" in _part(mail, "html")) == ("<bilder>" in text)
