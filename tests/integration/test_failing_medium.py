"""Media that fail and recover, files that are cut off while they are read: commands say so, the agent lives on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from storage.catalog import EventKind, ImageState
from tests.command import in_this_process
from tests.commands import sha256_of
from tests.failing_medium import FailingMedium, needs_fuse
from tests.integration.agent_run import AgentRun, wait_for
from tests.integration.conftest import DAY_TWO, VOLUME, Stock
from tests.integration.test_rollup import DAILY_ONE, DAILY_TWO, DAY_THREE

pytestmark = needs_fuse

MIDDLE = 200_000
"""A byte amid the stored stream of the base."""


@pytest.fixture
def medium(tmp_path: Path) -> Iterator[FailingMedium]:
    with FailingMedium(tmp_path) as mounted:
        yield mounted


def put(stock: Stock, medium: FailingMedium) -> None:
    for image in stock.images:
        shutil.copyfile(image, medium.folder / image.name)


def test_commands_name_file_and_byte(stock: Stock, medium: FailingMedium, tmp_path: Path):
    put(stock, medium)
    base = stock.names[0]
    before = sorted(entry.name for entry in medium.backing.iterdir())
    volume = ("--volume", VOLUME)
    commands = [
        ("verify", medium.folder / base),
        ("restore", medium.folder, *volume, "--point", "2", "--to", tmp_path / "x.raw"),
        ("consolidate", medium.folder, *volume, "--upto", "2", "--full"),
    ]
    medium.fail(base, MIDDLE)
    for command in commands:
        ran = in_this_process(*command)
        assert ran.code in (1, 7), str(ran)
        assert base in ran.output + ran.errors
        assert "Input/output error" in ran.output + ran.errors
        assert "at byte" in ran.output + ran.errors
        assert "Traceback" not in ran.errors
    source = tmp_path / "source.raw"
    source.write_bytes(bytes(range(256)) * 4096)
    (medium.backing / "source.raw").write_bytes(source.read_bytes())
    ran = in_this_process(
        "capture", source, "--into", medium.folder, *volume
    )  # what the parent holds is needed
    assert (ran.code, "Input/output error at byte" in ran.errors) == (7, True), str(ran)
    medium.fail("source.raw", 70_000)
    ran = in_this_process("capture", medium.folder / "source.raw", "--into", medium.folder, *volume)
    assert ran.code == 5, str(ran)
    assert "source.raw: cannot be read: Input/output error at byte" in ran.errors
    (medium.backing / "source.raw").unlink()
    medium.lift()
    shutil.rmtree(medium.backing / ".rollforward")
    assert sorted(entry.name for entry in medium.backing.iterdir()) == before
    assert not (tmp_path / "x.raw").exists()
    for command in commands:
        assert in_this_process(*command).code == 0
    assert sha256_of(tmp_path / "x.raw") == stock.digests[2]


@pytest.mark.parametrize("command", ["verify", "restore", "consolidate"])
def test_a_file_is_cut_off_while_it_is_read(
    command: str, stock: Stock, medium: FailingMedium, tmp_path: Path
):
    put(stock, medium)
    base = stock.names[0]
    rest = {
        "verify": (medium.folder / base,),
        "restore": (medium.folder, "--volume", VOLUME, "--to", tmp_path / "x.raw"),
        "consolidate": (medium.folder, "--volume", VOLUME, "--upto", "2", "--full"),
    }[command]
    medium.cut(base, MIDDLE)
    ran = in_this_process(command, *rest)
    assert ran.code in (1, 3), str(ran)
    assert base in ran.output + ran.errors
    assert f"at byte {MIDDLE:,}" in ran.output + ran.errors
    assert "Traceback" not in ran.errors
    assert not (tmp_path / "x.raw").exists()
    assert not [
        name for name in medium.backing.iterdir() if "partial" in name.name or "i002.spf" in name.name
    ]


def test_the_agent_lives_on(stock: Stock, medium: FailingMedium, tmp_path: Path):
    broken = stock.names[2]
    medium.fail(broken, 2000)
    with AgentRun(tmp_path) as agent:
        worker = agent.pid_of("ops.worker")
        agent.clock.set(DAY_TWO[-1])  # no image is younger than its first sight
        put(stock, medium)
        others = [name for name in stock.names if name != broken]
        agent.wait_good(*others)
        wait_for(lambda: agent.images()[broken].reason, "the image's state to have a reason")
        image = agent.images()[broken]
        assert image.state is ImageState.LANDED
        assert broken in str(image.reason)
        assert "Input/output error at byte" in str(image.reason)
        assert agent.events(EventKind.FAILED, broken)
        assert not agent.events(EventKind.FOUND_BAD)
        agent.clock.set(DAY_THREE)  # tried again, and again in vain
        wait_for(lambda: len(agent.events(EventKind.FAILED, broken)) == 2, "a second try")
        assert not agent.is_good(DAILY_ONE)
        medium.lift()
        agent.clock.set(DAY_THREE + timedelta(hours=1))
        agent.wait_good(*stock.names, DAILY_ONE, DAILY_TWO)
        assert agent.images()[broken].reason is None
        assert agent.pid_of("ops.worker") == worker


def test_a_roll_up_waits_for_its_medium(stock: Stock, medium: FailingMedium, tmp_path: Path):
    with AgentRun(tmp_path) as agent:
        worker = agent.pid_of("ops.worker")
        agent.clock.set(DAY_TWO[-1])
        put(stock, medium)
        agent.wait_good(*stock.names)
        medium.fail(stock.names[1], 2000)
        agent.clock.set(DAY_THREE)
        agent.wait_good(DAILY_TWO)
        wait_for(lambda: agent.events(EventKind.FAILED), "the roll-up to fail")
        assert stock.names[1] in agent.events(EventKind.FAILED)[0].text
        assert "at byte" in agent.events(EventKind.FAILED)[0].text
        assert not [entry.name for entry in medium.backing.iterdir() if "partial" in entry.name]
        medium.lift()
        agent.clock.set(DAY_THREE + timedelta(hours=1))
        agent.wait_good(DAILY_ONE)
        assert agent.pid_of("ops.worker") == worker
