"""Surroundings that are hostile or break: stray entries, doctored modules, sources that rot, a full disk."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from actors.context import AgentContext
from actors.trying import trying
from ops.clock import machine_now
from ops.redis_server import embed_redis
from policies.errors import ConfigurationError, StorageError
from storage.catalog import Attempt, Catalog, EventKind, ImageState, WorkKind, sqlite_url
from storage.catalog.attempts import Work, begin_attempt
from tests.integration.agent_run import PATIENCE_S, AgentRun, wait_for
from tests.integration.conftest import Stock
from tests.integration.test_rollup import DAILY_ONE, DAY_THREE, land

DAY_TWO_MORNING = datetime(2026, 3, 3, 1, tzinfo=UTC)


def test_links_that_lead_nowhere_hide_no_other_file(agent: AgentRun, stock: Stock):
    loop = agent.folder / "LOOP-b001.spf"
    loop.symlink_to(loop.name)
    (agent.folder / "GONE-b001.spf").symlink_to("nowhere")
    land(agent, stock, 2)
    assert not agent.events(EventKind.FOLDER_LOST)
    wait_for(lambda: agent.states().get(loop.name) is ImageState.BAD, "the link to be judged")


def test_modules_in_the_working_directory_are_not_run(tmp_path: Path, stock: Stock):
    doctored = tmp_path / "doctored"
    doctored.mkdir()
    for module in ("ctypes", "redis", "dramatiq", "ops"):
        (doctored / f"{module}.py").write_text("raise SystemExit('doctored')\n")
    with AgentRun(tmp_path / "run", working_dir=doctored) as run:
        land(run, stock, 1)


def test_the_catalogue_deleted_while_redis_is_somebody_elses(tmp_path: Path, stock: Stock):
    embedded = embed_redis(tmp_path)
    server = subprocess.Popen(embedded.command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        assert server.stdin is not None
        server.stdin.write(embedded.configuration.encode())
        server.stdin.close()
        wait_for(embedded.is_ready, "the server")
        with AgentRun(tmp_path / "run", {"REDIS_URL": embedded.url}) as run:
            land(run, stock, 1)
            for file in run.state_dir.glob("catalogue.sqlite*"):
                file.unlink()
            wait_for(lambda: len(run.log_events("ready")) == 4, "new processes on a new catalogue")
            run.wait_good(stock.names[0])
    finally:
        server.terminate()
        server.wait()


def test_a_verified_source_that_rots_and_is_replaced(agent: AgentRun, stock: Stock):
    land(agent, stock, 4)
    rotten = agent.folder / stock.names[2]
    _rot(rotten)
    agent.clock.set(DAY_TWO_MORNING)
    wait_for(lambda: agent.states()[rotten.name] is ImageState.BAD, "the rotten source to be found bad")
    assert not (agent.folder / DAILY_ONE).exists()
    shutil.copyfile(stock.images[2], rotten)
    agent.clock.set(DAY_TWO_MORNING + timedelta(seconds=1))
    agent.wait_good(rotten.name, DAILY_ONE)


def _rot(path: Path) -> None:
    """Change a byte in the middle of a file, but neither its size nor its times: as a medium does."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 3)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_state_directory_that_others_may_write_is_refused(tmp_path: Path):
    run = AgentRun(tmp_path)
    run.state_dir.mkdir()
    run.state_dir.chmod(0o777)
    run.start()
    assert run.running is not None
    assert run.running.wait(PATIENCE_S) == ConfigurationError.exit_code
    assert "others may write in the state directory" in run.log.read_text()


def test_what_the_agent_knows_is_not_for_others(agent: AgentRun):
    assert agent.state_dir.stat().st_mode & 0o077 == 0
    for file in agent.state_dir.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


def test_an_address_that_is_none_is_refused_and_not_repeated(tmp_path: Path):
    run = AgentRun(tmp_path, {"REDIS_URL": "radish://:secret@127.0.0.1"}).start()
    assert run.running is not None
    assert run.running.wait(PATIENCE_S) == ConfigurationError.exit_code
    assert "REDIS_URL" in run.log.read_text()
    assert "secret" not in run.log.read_text()


def test_an_end_that_the_catalogue_does_not_take_is_recorded_later(tmp_path: Path):
    file = tmp_path / "catalogue.sqlite"
    catalog = Catalog(sqlite_url(file))
    catalog.prepare()
    asked = 0

    def clock() -> datetime:
        nonlocal asked
        asked += 1
        return DAY_THREE

    context = AgentContext(catalog, clock, machine_now, "1")
    with catalog.write() as session:
        work = Work(WorkKind.VERIFY, "a file", "1")
        attempt_id = begin_attempt(session, work, context.moment()).attempt_id
    asked = 0

    def fail() -> None:
        with trying(context, attempt_id, "a file", 1):
            raise StorageError("a medium that fails")

    _execute(file, "create trigger full before update on attempt begin select raise(abort, 'full'); end")
    worker = threading.Thread(target=fail)
    worker.start()
    wait_for(lambda: asked >= 2, "a second try to record it")
    _execute(file, "drop trigger full")
    worker.join()
    with catalog.read() as session:
        attempt = session.get_one(Attempt, attempt_id)
    assert (attempt.holder, attempt.failures) == (None, 1)
    catalog.close()


def _execute(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file, timeout=PATIENCE_S)) as connection, connection:
        connection.execute(statement)
