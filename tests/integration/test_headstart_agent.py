"""HeadStart jobs under a real agent: killed at work, two agents at once, a catalogue that goes away."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from hsr.rolling.disk import RollingDisk, read_standing
from policies.headstart import DiskState
from storage.catalog import EventKind
from storage.catalog.headstart import jobs_with_disks
from storage.catalog.headstart_models import HeadStartDisk
from storage.catalog.reporters import silent_reporters
from tests.command import in_this_process
from tests.commands import run, sha256_of
from tests.integration.agent_run import AgentRun, wait_for
from tests.integration.conftest import VOLUME, Stock, make_stock

DAY_TWO = datetime(2026, 3, 3, 20, tzinfo=UTC)
LARGE_BYTES = 192 << 20


def command(agent: AgentRun, *words: str | Path) -> list[dict[str, Any]]:
    with patch.dict(
        os.environ, {"ROLLFORWARD_STATE": str(agent.state_dir), "ROLLFORWARD_CLOCK": str(agent.clock)}
    ):
        ran = in_this_process(*words, "--json")
    assert ran.code == 0, str(ran)
    return ran.objects


def add_job(agent: AgentRun, *words: str) -> Path:
    disks = agent.work_dir / "disks"
    disks.mkdir()
    command(agent, "location", "add", "here", disks)
    added = command(agent, "hsr", "add", "stand-by", agent.folder, "--location", "here", *words)
    return Path(added[0]["path"])


def disk_of(agent: AgentRun) -> HeadStartDisk:
    with agent.catalog() as catalog, catalog.read() as session:
        return jobs_with_disks(session)[0][1]


def land(agent: AgentRun, stock: Stock, *numbers: int) -> None:
    agent.clock.set(DAY_TWO)
    for number in numbers:
        shutil.copyfile(stock.images[number], agent.folder / stock.names[number])
    agent.wait_good(*(stock.names[number] for number in numbers))


def stands_at(path: Path) -> int | None:
    standing = read_standing(path)
    return standing.cursor.points[0].number if standing is not None and standing.cursor.is_closed else None


def digest_of(path: Path, size: int, scratch: Path) -> str:
    with RollingDisk.open(path) as disk:
        scratch.write_bytes(disk.read(0, size))
    return sha256_of(scratch)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    work_dir = tmp_path_factory.mktemp("large")
    (work_dir / "images").mkdir()
    return make_stock(work_dir / "volume.raw", work_dir / "images", volume_bytes=LARGE_BYTES, seed=3)


@pytest.fixture
def fresh_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path / "disks", ignore_errors=True)


def test_an_agent_builds_rolls_on_and_finalizes(agent: AgentRun, stock: Stock, tmp_path: Path):
    land(agent, stock, 0, 1)
    path = add_job(agent, "--format", "vmdk")
    wait_for(lambda: stands_at(path) == 1, "the disk to be built")
    land(agent, stock, 2, 3)
    wait_for(lambda: stands_at(path) == 3, "the disk to be rolled on")
    wait_for(lambda: disk_of(agent).state is DiskState.UP_TO_DATE, "that to be known")
    shown = command(agent, "status")[0]["headstart"]
    assert (shown[0]["volume"], shown[0]["number"], shown[0]["state"]) == (VOLUME, 3, "up to date")
    why = command(agent, "why", agent.folder / stock.names[0])[0]
    assert why["needed_by"] == []
    child, raw = tmp_path / "child.qcow2", tmp_path / "raw"
    command(agent, "hsr", "finalize", "stand-by", "--child", child)
    land(agent, stock, 4)
    run("qemu-img", "convert", "-O", "raw", str(child), str(raw))
    assert sha256_of(raw) == stock.digests[3]
    assert disk_of(agent).state is DiskState.LENT
    command(agent, "hsr", "resume", "stand-by", "--remove-child")
    wait_for(lambda: stands_at(path) == 4, "the disk to be rolled on after it was lent")
    command(agent, "hsr", "finalize", "stand-by")
    run("qemu-img", "convert", "-O", "raw", str(path), str(raw))
    assert sha256_of(raw) == stock.digests[4]


def test_a_worker_killed_while_it_builds_goes_on_and_ends_exact(fresh_dir: Path, large: Stock):
    with AgentRun(fresh_dir) as agent:
        land(agent, large, 0, 1)
        path = add_job(agent, "--format", "raw")
        kills = 0
        for _ in range(2):
            wait_for(lambda: _is_at_work(agent) or stands_at(path) is not None, "work on the disk")
            if stands_at(path) is None:
                os.kill(agent.pid_of("ops.worker"), signal.SIGKILL)
                kills += 1
        agent.advance_until(lambda: stands_at(path) == 1)
        wait_for(lambda: disk_of(agent).state is DiskState.UP_TO_DATE, "the end of the build")
        assert kills
        assert digest_of(path, LARGE_BYTES, fresh_dir / "scratch") == large.digests[1]
        assert not agent.attempts()


def _is_at_work(agent: AgentRun) -> bool:
    return any(one.kind.value == "headstart" and one.holder is not None for one in agent.attempts())


def test_two_agents_with_one_catalogue_do_each_step_once(fresh_dir: Path, stock: Stock):
    with AgentRun(fresh_dir / "one") as one:
        url = f"sqlite:///{one.state_dir / 'catalogue.sqlite'}"
        with AgentRun(fresh_dir / "two", beside=one, catalogue_url=url):
            land(one, stock, 0)
            path = add_job(one, "--format", "qcow2")
            for number in range(1, 6):
                land(one, stock, number)
            wait_for(lambda: stands_at(path) == 5, "the disk to be rolled on")
            wait_for(lambda: disk_of(one).state is DiskState.UP_TO_DATE, "that to be known")
        told = [event.text for event in one.events(EventKind.ROLLED_ON)]
        assert len(told) == len(set(told))
        assert digest_of(path, 4 << 20, fresh_dir / "scratch") == stock.digests[5]
        assert not one.events(EventKind.FAILED)


def test_a_catalogue_that_is_lost_learns_of_the_job_and_of_its_disk(agent: AgentRun, stock: Stock):
    land(agent, stock, 0, 1)
    path = add_job(agent)
    wait_for(lambda: stands_at(path) == 1, "the disk to be built")
    wait_for(lambda: disk_of(agent).state is DiskState.UP_TO_DATE, "that to be known")
    agent.stop()
    for file in agent.state_dir.glob("catalogue.sqlite*"):
        file.unlink()
    agent.start().wait_until_ready()
    land(agent, stock, 2)
    wait_for(lambda: stands_at(path) == 2, "the disk to be rolled on", 60)
    wait_for(lambda: disk_of(agent).state is DiskState.UP_TO_DATE, "that to be known")
    assert [event.text[:5] for event in agent.events(EventKind.ROLLED_ON)] == ["rolle"]
    with agent.catalog() as catalog, catalog.read() as session:
        assert not silent_reporters(session, 1)
