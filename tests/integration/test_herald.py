"""The herald over a real catalogue, a real mail server, a real web server and real files."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select

from ops.clock import FileClock, machine_now
from ops.herald import Herald
from ops.notify.settings import AliveSettings
from ops.observe.alive import AliveCaller
from ops.observe.health import Health
from ops.observe.pulse import LOOKOUT, WORKER, beat
from ops.settings import Settings
from policies.freezing import FreezeKind
from storage.catalog import Attempt, Catalog, Chain, Event, EventKind, Folder, Image, ImageState, WorkKind
from storage.catalog.folders import add_folder
from storage.catalog.memory_models import StoredFreeze
from tests.integration.agent_run import AgentRun, wait_for
from tests.listeners import Mailbox, WebServer, mail_server, web_server

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
UMLAUT = "Büro's {images}"


class Stage:
    """A catalogue with one folder, one volume and three good images; a herald; a clock moved by hand."""

    def __init__(self, place: Path, box: Mailbox, web: WebServer) -> None:
        self.folder = place / UMLAUT
        self.folder.mkdir()
        self.state_dir = place / "state"
        self.state_dir.mkdir(mode=0o700)
        self.box, self.web = box, web
        self.clock = FileClock(place / "now")
        self.clock.set(START)
        self.settings = Settings.from_environment(
            {}, state_dir=str(self.state_dir), time_zone="Europe/Berlin", redis_url="unix:///nowhere.sock"
        )
        self.catalog = Catalog(self.settings.catalogue_url)
        self.catalog.prepare()
        with self.catalog.write() as session:
            folder = add_folder(session, self.folder, "Europe/Berlin", now=START, machine_now=machine_now())
            folder.settings = {"notices": {"low_space_percent": "off"}}
            chain = Chain(
                folder_id=folder.id, chain_uid=bytes(16), volume="FILES", base_number=1, next_due_at=START
            )
            session.add(chain)
            session.flush()
            for number in range(3):
                session.add(self.image(folder.id, chain.id, number))
        self.herald = Herald(self.settings, self.catalog, self.clock)

    def image(self, folder_id: int, chain_id: int, number: int) -> Image:
        return Image(
            folder_id=folder_id,
            chain_id=chain_id,
            name=f"FILES-b001-i{number:03}.spi" if number else "FILES-b001.spf",
            state=ImageState.GOOD,
            stored_bytes=1 << 30,
            mtime_ns=1,
            still_since=START,
            first_seen_at=START,
            covers=[],
        )

    def configure(self, **more: str) -> None:
        sections = {
            "mail": f'server = "127.0.0.1"\nport = {self.box.port}\nsecurity = "none"\nsender = "b@example.org"\n'
            'recipients = ["a@example.org"]\ntimeout_s = 60\n',
            "webhook": f'url = "{self.web.url}"\ntimeout_s = 60\n',
        } | more
        text = "".join(f"[{name}]\n{body}" for name, body in sections.items())
        path = self.state_dir / "herald.toml"
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").replace(path)

    def set_image(self, state: ImageState, reason: str | None = None, number: int = 1) -> None:
        with self.catalog.write() as session:
            image = session.scalars(select(Image).order_by(Image.id)).all()[number]
            image.state, image.reason = state, reason

    def after(self, **passed: float) -> list[str]:
        """Let time pass, and the herald look twice; return the subjects of the mails that came."""
        self.clock.set(self.clock() + timedelta(**passed))
        before = len(self.box.mails)
        self.herald.tick()
        self.herald.tick()
        return [mail["Subject"] for mail in self.box.mails[before:]]

    def events(self) -> list[str]:
        with self.catalog.read() as session:
            return [
                event.text for event in session.scalars(select(Event).where(Event.kind == EventKind.NOTICE))
            ]

    def get(self, path: str, token: str = "") -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.herald.port}{path}")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with mail_server(security="none") as box, web_server() as web:
        found = Stage(tmp_path, box, web)
        try:
            yield found
        finally:
            found.herald.stop()
            found.catalog.close()


def test_damage_is_told_once_and_once_more_when_it_is_over(stage: Stage):
    stage.configure()
    assert stage.after() == []
    stage.set_image(ImageState.BAD, "stored data is damaged at byte 456")
    assert stage.after(minutes=1) == ["[rollforward] damaged image: FILES-b001-i001.spi"]
    assert stage.after(hours=3) == []
    body = stage.box.mails[0].get_body(("plain",))
    assert body is not None
    assert "stored data is damaged at byte 456" in body.get_content()
    stage.set_image(ImageState.GOOD)
    assert stage.after(minutes=1) == []
    assert stage.after(minutes=11) == ["[rollforward] over: damaged image: FILES-b001-i001.spi"]
    assert [json.loads(one.body)["subject"] for one in stage.web.requests] == [
        "damaged image: FILES-b001-i001.spi",
        "over: damaged image: FILES-b001-i001.spi",
    ]
    assert len(stage.events()) == 2


def test_a_new_herald_says_nothing_again(stage: Stage):
    stage.configure()
    stage.set_image(ImageState.BAD, "bad")
    assert len(stage.after()) == 1
    stage.herald.stop()
    stage.herald = Herald(stage.settings, stage.catalog, stage.clock)
    assert stage.after(hours=1) == []


def test_inactivity_is_told_per_volume(stage: Stage):
    stage.configure()
    assert stage.after(days=2, hours=23) == []
    assert stage.after(hours=2) == ["[rollforward] no new image: FILES"]
    with stage.catalog.write() as session:
        chain = session.scalars(select(Chain)).one()
        image = stage.image(chain.folder_id, chain.id, 9)
        image.first_seen_at = stage.clock()
        session.add(image)
    assert stage.after(minutes=6) == ["[rollforward] over: no new image: FILES"]


def test_low_space_is_told_per_device(stage: Stage):
    stage.configure()
    with stage.catalog.write() as session:
        session.scalars(select(Folder)).one().settings = {"notices": {"low_space_percent": 99}}
    used = os.statvfs(stage.folder)
    if used.f_bavail > 0.98 * used.f_blocks:
        pytest.skip("this device is almost empty, so no threshold makes its space low")
    told: list[str] = []

    def look() -> bool:
        told.extend(stage.after(minutes=11))
        return bool(told)

    wait_for(look, "a mail on low space", 60)
    assert told[0].startswith("[rollforward] space runs low: /")
    with stage.catalog.write() as session:
        session.scalars(select(Folder)).one().settings = {"notices": {"low_space_percent": "off"}}
    assert stage.after(minutes=11) == []
    assert stage.after(hours=2)[0].startswith("[rollforward] over: space runs low: /")


def test_a_folder_out_of_reach_frozen_deletion_and_work_set_aside(stage: Stage):
    stage.configure()
    with stage.catalog.write() as session:
        folder = session.scalars(select(Folder)).one()
        folder.problem = "is empty"
        session.add(
            StoredFreeze(
                kind=FreezeKind.CLOCK,
                key="clock 1",
                since=START,
                reason="the clock was set back",
                ends="soon",
            )
        )
        for number, quarantined in enumerate((True, False)):
            session.add(
                Attempt(
                    kind=WorkKind.VERIFY,
                    subject=f"7:{number}",
                    engine_version="1",
                    started_at=START,
                    failures=1,
                    quarantined=quarantined,
                    reason="a crash",
                    folder_id=folder.id,
                    title="FILES-b001.spf",
                )
            )
    assert stage.after() == ["[rollforward] work failed: FILES-b001.spf, and 1 more"]
    mail = stage.box.mails[0].get_body(("plain",))
    assert mail is not None
    assert "deletion is frozen: all folders" in mail.get_content()
    assert stage.after(minutes=11) == [f"[rollforward] folder out of reach: {stage.folder}"]


def test_the_daily_summary_comes_at_its_time_once(stage: Stage):
    stage.configure(summary='at = "07:00"\n')
    assert stage.after() == []
    assert stage.after(hours=17) == []
    assert stage.after(hours=2) == ["[rollforward] 2026-03-03: all is well on " + os.uname().nodename]
    assert stage.after(hours=5) == []
    letter = json.loads(stage.web.requests[-1].body)
    assert letter["kind"] == "summary"
    assert letter["folders"][0]["path"] == str(stage.folder)
    assert letter["folders"][0]["images"] == 3


def test_a_letter_that_does_not_arrive_is_tried_again_and_arrives_once(stage: Stage):
    stage.configure()
    stage.web.status = 503
    stage.box.answer = "451 later"
    stage.set_image(ImageState.BAD, "bad")
    assert stage.after() == []
    with stage.catalog.read() as session:
        attempts = list(session.scalars(select(Attempt).order_by(Attempt.subject)))
    assert [one.subject for one in attempts] == ["letter 1 by mail", "letter 1 by webhook"]
    assert attempts[0].reason == f"127.0.0.1:{stage.box.port}: the server answers 451: later"
    assert attempts[1].reason == "localhost: answered 503 Service Unavailable"
    assert attempts[0].retry_at == START + timedelta(seconds=30)
    stage.web.status, stage.box.answer = 200, "250 OK"
    assert stage.after(seconds=20) == []
    assert stage.after(seconds=20) == ["[rollforward] damaged image: FILES-b001-i001.spi"]
    assert stage.after(hours=2) == []
    assert [one.headers["Rollforward-Letter"] for one in stage.web.requests] == ["1.20260302120000"] * 2
    with stage.catalog.read() as session:
        assert session.scalars(select(Attempt)).all() == []


def test_a_file_that_is_wrong_leaves_what_was_read_before(stage: Stage):
    stage.configure()
    assert stage.after() == []
    stage.configure(mail="server = 3\n")
    stage.set_image(ImageState.BAD, "bad")
    assert stage.after() == ["[rollforward] damaged image: FILES-b001-i001.spi"]


def test_with_no_file_at_all_the_event_log_still_tells(stage: Stage):
    stage.set_image(ImageState.BAD, "bad")
    assert stage.after() == []
    assert stage.events() == ["trouble: damaged image: bad"]


def test_metrics_and_health_are_for_those_who_have_the_token(stage: Stage, tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("open sesame")
    token.chmod(0o600)
    stage.configure(metrics=f'port = 0\ntoken_file = "{token}"\n')
    stage.set_image(ImageState.BAD, "bad")
    stage.herald.tick()
    assert stage.get("/metrics")[0] == 401
    assert stage.get("/metrics", "open barley")[0] == 401
    assert stage.get("/other", "open sesame")[0] == 404
    status, body = stage.get("/healthz", "open sesame")
    assert status == 503
    parts = json.loads(body)["parts"]
    assert parts["catalogue"] == "well"
    assert parts["lookout"] == "the lookout has not begun"
    assert parts["redis"].startswith("does not answer")
    status, body = stage.get("/metrics", "open sesame")
    assert status == 200
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    path = ("folder", str(stage.folder))
    assert samples["rollforward_folder_images", path, ("state", "good")] == 2
    assert samples["rollforward_folder_images", path, ("state", "bad")] == 1
    assert samples["rollforward_folder_stored_bytes", path, ("tier", "incremental")] == 3 << 30
    assert samples["rollforward_folder_reachable", path] == 1
    assert samples["rollforward_volume_last_image_age_seconds", path, ("volume", "FILES")] == 0
    assert samples["rollforward_healthy", ("part", "catalogue")] == 1
    assert samples["rollforward_healthy", ("part", "redis")] == 0
    assert samples["rollforward_chains_due",] == 1
    assert samples["rollforward_events_total", ("kind", "notice")] == 1
    assert samples["rollforward_troubles_open", ("kind", "damaged")] == 1
    assert not any("FILES-b001" in str(key) for key in samples)


def test_counters_never_fall_and_see_what_is_new(stage: Stage):
    stage.configure(metrics="port = 0\n")
    stage.herald.tick()
    seen = []
    for state in (ImageState.BAD, ImageState.GOOD):
        stage.set_image(state, "bad")
        stage.after(minutes=30)
        stage.after(minutes=30)
        lines = stage.get("/metrics")[1].decode().splitlines()
        seen.append(
            next(line for line in lines if line.startswith('rollforward_events_total{kind="notice"}'))
        )
    assert [line.split()[-1] for line in seen] == ["1.0", "2.0"]


@contextmanager
def well_or_not(parts: dict[str, str | None]) -> Iterator[tuple[AliveCaller, WebServer]]:
    with web_server() as web:
        yield AliveCaller(AliveSettings(web.url, 60, ""), lambda: Health(parts)), web


def test_the_switch_is_called_while_all_is_well_and_not_when_it_is_not():
    parts: dict[str, str | None] = {"lookout": None}
    with well_or_not(parts) as (caller, web):
        assert caller.call_if_well()
        parts["lookout"] = "the lookout was last at work 9 min ago"
        assert not caller.call_if_well()
        assert [one.method for one in web.requests] == ["GET"]
        parts["lookout"] = None
        web.status = 500
        assert not caller.call_if_well()
        web.status = 200
        assert caller.call_if_well()


def test_a_pulse_is_a_file(tmp_path: Path):
    for name in (LOOKOUT, WORKER):
        beat(tmp_path, name)
        beat(tmp_path, name)
        assert (tmp_path / "pulse" / name).stat().st_mode & 0o777 == 0o600
    beat(tmp_path / "none", LOOKOUT)
    assert not (tmp_path / "none").exists()


def test_an_agent_tells_of_a_damaged_image_and_is_well(tmp_path: Path):
    with mail_server(security="none") as box, web_server() as web:
        run = AgentRun(tmp_path, {"ROLLFORWARD_HERALD_S": "0.2"})
        run.state_dir.mkdir(mode=0o700)
        (run.state_dir / "herald.toml").write_text(
            f'[mail]\nserver = "127.0.0.1"\nport = {box.port}\nsecurity = "none"\nsender = "b@x.org"\n'
            f'recipients = ["a@x.org"]\n[metrics]\nport = 0\n[alive]\nurl = "{web.url}"\nevery_s = 5\n'
        )
        with run:
            (run.folder / "DATA-b001.spf").write_bytes(b"no image" * 100)
            wait_for(lambda: box.mails, "a mail")
            assert "damaged image: DATA-b001.spf" in box.mails[0]["Subject"]
            wait_for(lambda: run.log_events("answers"), "the endpoint")
            port = run.log_events("answers")[0]["port"]

            def is_well() -> bool:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60) as answer:
                        return answer.status == 200
                except urllib.error.HTTPError as error:
                    error.close()
                    return False

            wait_for(is_well, "good health")
            wait_for(lambda: web.requests, "a call that all is well")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
                text = answer.read().decode()
            families = {family.name for family in text_string_to_metric_families(text)}
            assert "rollforward_queue_messages" in families
            assert 'rollforward_queue_messages{queue="verify",state="waiting"} ' in text
