"""`rollforward status`, `notify` and `about`: what they show, and what they say as JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from ops.cli import cli
from ops.observe.space import Space, SpaceGauge, measure_all, measure_space
from ops.status_screen import space_bar
from policies.freezing import FreezeKind
from policies.notices import Trouble, TroubleKind, TroubleRecord
from storage.catalog import Attempt, Catalog, Folder, Image, ImageState, WorkKind, sqlite_url
from storage.catalog.folders import all_folders
from storage.catalog.memory_models import StoredFreeze
from storage.catalog.notices import set_trouble_records
from tests.checks.standing import fill_catalogue, scrape, tell_standing
from tests.integration.agent_run import wait_for
from tests.listeners import mail_server, web_server

NOW = datetime.now(UTC)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    place = tmp_path / "state"
    fill_catalogue(place, 12, 50)
    return place


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli, list(words), catch_exceptions=True)
    assert done.exit_code == code, done.output
    return done.output


def trouble(state: Path) -> None:
    catalog = Catalog(sqlite_url(state / "catalogue.sqlite"))
    with catalog.write() as session:
        folders = session.scalars(select(Folder).order_by(Folder.id)).all()
        folders[8].problem = "is not \x1b[31mmounted"
        image = session.scalars(select(Image).where(Image.folder_id == 3).order_by(Image.id)).first()
        assert image is not None
        image.state = ImageState.BAD
        session.add(
            StoredFreeze(
                folder_id=5,
                kind=FreezeKind.VANISHED,
                key="vanished x",
                since=NOW,
                reason="40 of 50 images are gone",
                ends="once they are back",
            )
        )
        session.add(
            Attempt(
                kind=WorkKind.VERIFY,
                subject="7",
                engine_version="1",
                started_at=NOW,
                quarantined=True,
                title="DATA-b001-i3.spi",
            )
        )
        found = Trouble(TroubleKind.DAMAGED, "k", "/srv/3", "DATA-b001-i1.spi", "stored data is damaged")
        set_trouble_records(session, [TroubleRecord(found, NOW - timedelta(hours=3), True, NOW)])
    catalog.close()


def test_one_screen_shows_all_there_is_to_know(state: Path):
    trouble(state)
    shown = run("status", "--state", str(state))
    assert "not running" in shown
    assert "600 images, 600.0 MiB in 12 folders (540 captured, 60 daily)" in shown
    assert "0 to verify, 0 chains due, 0 running, 0 to be tried again, 1 set aside" in shown
    assert f"{state}/images/5: 40 of 50 images are gone; it ends once they are back" in shown
    assert "DATA-b001-i1.spi in /srv/3: stored data is damaged (3 h)" in shown
    assert "is not \\x1b[31mmounted" in shown
    assert shown.index(f"{state}/images/9\n") < shown.index(f"{state}/images/1\n")
    assert "more folders: rollforward status --all" in shown
    assert shown.count("●") < 12
    assert run("status", "--state", str(state), "--all").count("●") == 12


def test_json_has_every_folder_and_keys_that_stay(state: Path):
    trouble(state)
    values = json.loads(run("status", "--state", str(state), "--json"))
    assert list(values) == [
        *(
            "kind",
            "running",
            "wrong",
            "state_dir",
            "time",
            "folders_in_all",
            "images",
            "stored_bytes",
            "tiers",
        ),
        *("chains_due", "chains_waiting", "work", "running_work", "troubles_in_all", "troubles", "frozen"),
        *("letters_waiting", "folders", "headstart"),
    ]
    assert len(values["folders"]) == 12
    assert values["images"] == {"bad": 1, "good": 599}
    third = next(one for one in values["folders"] if one["path"].endswith("/3"))
    assert third["images"] == {"bad": 1, "good": 49}
    assert third["volumes"][0]["volume"] == "DATA"
    assert third["volumes"][0]["newest_at"].startswith("2026-11-22T19:45")


def test_nothing_managed_yet_says_what_to_do(tmp_path: Path):
    shown = run("status", "--state", str(tmp_path / "state"))
    assert "No folder is managed yet: rollforward folder add PATH" in shown


def test_the_command_tells_the_same(state: Path):
    told = tell_standing(state)
    assert told.values["folders_in_all"] == 12
    assert "600 images" in told.screen


def test_a_picture_of_free_space():
    assert space_bar(None) == "[??????????] free space unknown"
    assert space_bar(Space("/", 1, 30 << 30, 100 << 30)).count("█") == 7
    assert space_bar(Space("/", 1, 0, 100)).count("█") == 10


def test_space_is_measured_per_device_and_what_is_gone_is_left_out(tmp_path: Path):
    found = measure_all([str(tmp_path), str(tmp_path / "none")], 60)
    assert list(found) == [str(tmp_path)]
    assert Path(found[str(tmp_path)].mount).is_mount()
    assert measure_space(tmp_path / "none") is None
    gauge = SpaceGauge(again_s=60)
    wait_for(lambda: gauge.spaces([str(tmp_path)]), "a measured folder", 60)
    assert gauge.spaces([str(tmp_path / "none")]) == {}


def test_a_test_goes_out_by_every_way(tmp_path: Path):
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    with mail_server(security="none") as box, web_server() as web:
        (state / "herald.toml").write_text(
            f'[mail]\nserver = "127.0.0.1"\nport = {box.port}\nsecurity = "none"\nsender = "b@x.org"\n'
            f'recipients = ["a@x.org"]\n[webhook]\nurl = "{web.url}"\n'
        )
        assert (
            run("notify", "test", "--state", str(state))
            == "mail: sent to a@x.org\nwebhook: sent to localhost\n"
        )
        assert "test from" in box.mails[0]["Subject"]
        assert json.loads(web.requests[0].body)["kind"] == "test"
        web.status = 500
        lines = run("notify", "test", "--state", str(state), "--json", code=11).splitlines()
        assert [json.loads(line)["status"] for line in lines] == ["sent", "failed"]
    shown = run("notify", "show", "--state", str(state))
    assert "mail: a@x.org is told of failure, inactivity, space, summary" in shown
    assert (
        json.loads(run("notify", "show", "--state", str(state), "--json"))["ways"][1]["target"] == "localhost"
    )


def test_where_nobody_is_told_it_says_how(tmp_path: Path):
    done = CliRunner().invoke(cli, ["notify", "test", "--state", str(tmp_path / "state")])
    assert "neither [mail] nor [webhook]" in str(done.exception)
    assert "Nobody is told" in run("notify", "show", "--state", str(tmp_path / "state"))


def test_about_names_what_a_report_needs():
    shown = run("about")
    assert shown.startswith("rollforward ")
    assert "Apache-2.0" in shown
    values = json.loads(run("about", "--json"))
    assert list(values) == [
        "kind",
        "version",
        "licence",
        "python",
        "system",
        "image_format",
        "catalogue_layout",
    ]


def test_metrics_parse_cleanly_whatever_folders_are_called(state: Path):
    trouble(state)
    catalog = Catalog(sqlite_url(state / "catalogue.sqlite"))
    names = ['büro "two"', "new\nline", "back\\slash\\n", '{folder="x"} 1', "\x1b[31m\u202e"]
    with catalog.write() as session:
        for folder, name in zip(all_folders(session), names, strict=False):
            folder.path = f"/srv/{name}"
    catalog.close()
    samples = scrape(state).samples
    for name in names:
        assert samples["rollforward_folder_images", (("folder", f"/srv/{name}"), ("state", "good"))] == 50
    assert samples["rollforward_healthy", (("part", "catalogue"),)] == 0
    assert samples["rollforward_attempts", (("state", "quarantined"), ("work", "verify"))] == 1
