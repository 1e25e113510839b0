"""Processes killed, queues flushed, the catalogue deleted: nothing is lost, nothing done twice, nothing left over."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ops.redis_server import embed_redis
from storage.capture import capture
from storage.catalog import EventKind, ImageState
from storage.consolidate import consolidate
from tests.integration.agent_run import AgentRun, wait_for
from tests.integration.conftest import Stock
from tests.integration.test_rollup import DAILY_ONE, DAILY_TWO, DAY_THREE, land

MORNING = datetime(2026, 3, 2, 6, tzinfo=UTC)
BIG_BYTES = 192 << 20


@pytest.fixture(scope="session")
def big_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image whose verification takes long enough to be interrupted."""
    work_dir = tmp_path_factory.mktemp("big")
    source = work_dir / "volume.raw"
    piece = random.Random(3).randbytes(16 << 20)
    with source.open("wb") as file:
        for turn in range(BIG_BYTES // len(piece)):
            file.write(piece[turn:] + piece[:turn])
    made = capture(source, work_dir, "BIG", now=MORNING).path
    source.unlink()
    return made


def test_redis_killed_and_flushed(agent: AgentRun, stock: Stock):
    land(agent, stock, 1)
    for image in stock.images[1:3]:
        shutil.copyfile(image, agent.folder / image.name)
    agent.redis().flushall()
    agent.wait_good(*stock.names[:3])
    agent.kill_child("valkey-server") if _uses_valkey(agent) else agent.kill_child("redis-server")
    for image in stock.images[3:]:
        shutil.copyfile(image, agent.folder / image.name)
    agent.clock.set(DAY_THREE)
    agent.wait_good(*stock.names, DAILY_ONE, DAILY_TWO)
    for name in (*stock.names, DAILY_ONE, DAILY_TWO):
        assert len(agent.events(EventKind.VERIFIED, name)) == 1


def test_the_lookout_killed(agent: AgentRun, stock: Stock):
    land(agent, stock, 1)
    before = agent.kill_child("ops.lookout")
    shutil.copyfile(stock.images[1], agent.folder / stock.names[1])
    agent.wait_good(stock.names[1])
    assert agent.pid_of("ops.lookout") != before


def test_a_worker_killed_in_the_middle_of_its_work(agent: AgentRun, big_image: Path):
    agent.take_time(1)
    shutil.copyfile(big_image, agent.folder / big_image.name)
    before = agent.kill_verifying(big_image.name)
    agent.take_time(100)
    agent.wait_good(big_image.name)
    assert agent.pid_of("ops.worker") != before
    assert len(agent.events(EventKind.VERIFIED, big_image.name)) == 1
    wait_for(lambda: not agent.attempts(), "all work to end")


def test_an_image_that_kills_its_worker_is_quarantined(agent: AgentRun, stock: Stock, big_image: Path):
    agent.take_time(1)
    shutil.copyfile(big_image, agent.folder / big_image.name)
    for crash in range(1, 4):
        agent.kill_verifying(big_image.name)
        wait_for(lambda crash=crash: _crashes(agent) == crash, f"crash {crash} to be counted")
        agent.clock.set(MORNING + crash * timedelta(hours=1))
    wait_for(lambda: agent.events(EventKind.QUARANTINED), "quarantine")
    agent.take_time(100)
    land(agent, stock, 3)  # everything else goes on
    assert agent.states()[big_image.name] is ImageState.LANDED
    assert agent.images()[big_image.name].reason == "the worker ended before the work did (3 times)"
    assert len(agent.events(EventKind.QUARANTINED)) == 1


def test_the_agent_killed_leaves_nothing_and_goes_on(agent: AgentRun, stock: Stock, big_image: Path):
    land(agent, stock, 2)
    shutil.copyfile(big_image, agent.folder / big_image.name)
    wait_for(lambda: agent.states().get(big_image.name) is ImageState.VERIFYING, "verification to begin")
    agent.kill()
    wait_for(lambda: not agent.processes(), "all processes to be gone", patience_s=5)
    for image in stock.images[2:]:
        shutil.copyfile(image, agent.folder / image.name)
    agent.clock.set(DAY_THREE)
    agent.start().wait_until_ready()
    agent.wait_good(*stock.names, DAILY_ONE, DAILY_TWO, big_image.name)


def test_a_graceful_stop_lets_go_of_work(agent: AgentRun, big_image: Path):
    agent.take_time(1)
    shutil.copyfile(big_image, agent.folder / big_image.name)
    wait_for(lambda: agent.states().get(big_image.name) is ImageState.VERIFYING, "verification to begin")
    assert agent.stop() == 0
    assert not agent.processes()
    assert not any("killed" in str(line.get("status")) for line in agent.log_events("stopped"))
    assert all(attempt.crashes == attempt.failures == 0 for attempt in agent.attempts())
    agent.take_time(100)
    agent.start().wait_until_ready()
    agent.wait_good(big_image.name)


def test_a_result_that_was_published_but_not_recorded(agent: AgentRun, stock: Stock):
    land(agent, stock, 4)
    agent.kill()
    wait_for(lambda: not agent.processes(), "all processes to be gone")
    consolidate([agent.folder / name for name in stock.names[1:4]], agent.folder / DAILY_ONE)
    agent.clock.set(DAY_THREE)
    agent.start().wait_until_ready()
    agent.wait_good(DAILY_ONE)
    assert not agent.events(EventKind.CONSOLIDATED)
    assert not agent.events(EventKind.FAILED)
    wait_for(lambda: not agent.attempts(), "all work to end")  # some images are verified again that day


def test_the_catalogue_deleted_between_two_runs(agent: AgentRun, stock: Stock):
    land(agent, stock)
    agent.clock.set(DAY_THREE)
    agent.wait_good(DAILY_ONE, DAILY_TWO)
    roots = {name: image.root for name, image in agent.images().items()}
    agent.stop()
    for file in agent.state_dir.glob("catalogue.sqlite*"):
        file.unlink()
    agent.start().wait_until_ready()
    agent.wait_good(*roots)
    assert {name: image.root for name, image in agent.images().items()} == roots
    assert not agent.events(EventKind.CONSOLIDATED)


def test_the_catalogue_deleted_under_a_running_agent(agent: AgentRun, stock: Stock):
    land(agent, stock, 3)
    for file in agent.state_dir.glob("catalogue.sqlite*"):
        file.unlink()
    wait_for(lambda: len(agent.log_events("ready")) == 4, "new processes on a new catalogue")
    shutil.copyfile(stock.images[3], agent.folder / stock.names[3])
    agent.wait_good(*stock.names[:4])


def test_a_second_agent_on_the_same_state_is_refused(agent: AgentRun):
    done = subprocess.run(
        [sys.executable, "-m", "ops", "up", "--state", str(agent.state_dir)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 8
    assert "another agent runs on this state directory" in done.stderr


def test_a_redis_of_ones_own_and_a_long_path(tmp_path: Path, stock: Stock):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    embedded = embed_redis(deep)
    assert embedded.url.startswith("redis://:")  # too long a path for a socket
    server = subprocess.Popen(embedded.command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        assert server.stdin is not None
        server.stdin.write(embedded.configuration.encode())
        server.stdin.close()
        wait_for(embedded.is_ready, "the server")
        with AgentRun(deep, {"REDIS_URL": embedded.url}) as run:
            land(run, stock, 3)
            assert not any("server" in line for line in run.processes().values() if "-server" in line)
            assert not (run.state_dir / "redis.sock").exists()
    finally:
        server.terminate()
        server.wait()


def _crashes(agent: AgentRun) -> int:
    return sum(attempt.crashes for attempt in agent.attempts())


def _uses_valkey(agent: AgentRun) -> bool:
    return any("valkey-server" in line for line in agent.processes().values())
