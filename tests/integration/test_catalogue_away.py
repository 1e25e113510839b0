"""A PostgreSQL server that comes late, goes away under a running agent and comes back: all of it is waited for."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from storage.catalog import EventKind, ImageState
from tests.integration.agent_run import AgentRun, wait_for
from tests.integration.conftest import Stock
from tests.integration.test_rollup import BERLIN_MIDNIGHT, DAILY_ONE
from tests.postgres import PostgresServer, postgres_server, server_program

AWAY, BACK = "the catalogue's server is away, work waits for it", "the catalogue's server is back"


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    if server_program("postgres") is None:
        pytest.skip("needs the PostgreSQL server: Debian's package postgresql")
    with postgres_server() as running:
        yield running


def test_a_catalogue_that_comes_late_goes_and_comes_back(
    tmp_path: Path, server: PostgresServer, stock: Stock
):
    run = AgentRun(tmp_path, catalogue_url=server.new_url())
    shutil.copyfile(stock.images[0], run.folder / stock.names[0])
    server.stop()
    with ExitStack() as stack:
        stack.push(run.start())
        wait_for(lambda: run.log_events("waits for the catalogue's server"), "that the server is missed")
        server.start()
        run.wait_good(stock.names[0])
        run.take_time()
        for image in stock.images[1:4]:
            shutil.copyfile(image, run.folder / image.name)
        wait_for(lambda: ImageState.VERIFYING in run.states().values(), "work under way")
        for times, how in enumerate((signal.SIGINT, signal.SIGKILL), 1):
            server.stop(how)
            wait_for(lambda times=times: _told(run, AWAY)["worker"] == times, "the worker to miss it")
            wait_for(lambda times=times: _told(run, AWAY)["lookout"] == times, "the lookout to miss it")
            server.start()
            wait_for(lambda times=times: _told(run, BACK)["worker"] == times, "the worker to have it back")
            wait_for(lambda times=times: _told(run, BACK)["lookout"] == times, "the lookout to have it back")
        run.wait_good(*stock.names[:4], patience_s=300)
        run.take_time(cpu_percent=100)
        run.clock.set(BERLIN_MIDNIGHT)
        run.wait_good(DAILY_ONE)
        for kind in (EventKind.VERIFIED, EventKind.CONSOLIDATED):
            done = Counter(event.subject for event in run.events(kind))
            assert set(done.values()) == {1}, f"{kind}: {done}"
        assert not run.events(EventKind.FAILED)
        wait_for(lambda: not run.attempts(), "all work to end")  # some images are verified again that day
    assert max(_told(run, AWAY).values()) == 2
    assert "Traceback" not in run.log.read_text()


def _told(run: AgentRun, what: str) -> Counter[object]:
    """Count how often each process said something."""
    return Counter(line["logger"] for line in run.log_events(what))
