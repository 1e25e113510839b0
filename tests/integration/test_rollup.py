"""The end of a day: its incrementals become one daily, once, whatever happens."""

from __future__ import annotations

import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import actors.consolidate
from actors.broker import make_broker
from actors.chain_work import look_after_chain
from actors.context import AgentContext
from actors.hints import Hints
from hsr.restore import restore
from ops.clock import machine_now
from policies.attempts import FIRST_WAIT
from policies.errors import BusyError, StorageError
from storage.catalog import Catalog, EventKind, ImageState, sqlite_url
from storage.catalog.leases import check_fence, take_lease
from storage.verify import verify_image
from tests.commands import sha256_of
from tests.integration.agent_run import AgentRun, wait_for
from tests.integration.conftest import VOLUME, Stock

DAILY_ONE = f"{VOLUME}-b001-i003-cd.spi"
DAILY_TWO = f"{VOLUME}-b001-i005-cd.spi"
DURING_DAY_TWO = datetime(2026, 3, 3, 20, tzinfo=UTC)
JUST_BEFORE_BERLIN_MIDNIGHT = datetime(2026, 3, 2, 22, 59, 59, tzinfo=UTC)
BERLIN_MIDNIGHT = datetime(2026, 3, 2, 23, tzinfo=UTC)
DAY_THREE = datetime(2026, 3, 4, 1, tzinfo=UTC)


def land(agent: AgentRun, stock: Stock, count: int = 6) -> None:
    if count > 4:  # a point counts as taken when it was first seen, if it says that it is younger
        agent.clock.set(DURING_DAY_TWO)
    for image in stock.images[:count]:
        shutil.copyfile(image, agent.folder / image.name)
    agent.wait_good(*stock.names[:count])


def test_a_day_is_rolled_up_when_it_ends_in_the_folders_zone(agent: AgentRun, stock: Stock, tmp_path: Path):
    land(agent, stock, 4)
    agent.clock.set(JUST_BEFORE_BERLIN_MIDNIGHT)
    wait_for(lambda: agent.chains()[0].next_due_at == BERLIN_MIDNIGHT, "a plan for midnight")
    assert DAILY_ONE not in agent.states()
    agent.clock.set(BERLIN_MIDNIGHT)
    agent.wait_good(DAILY_ONE)
    target = tmp_path / "restored.raw"
    restore([agent.folder / stock.names[0], agent.folder / DAILY_ONE], target)
    assert sha256_of(target) == stock.digests[3]
    entry = agent.events(EventKind.CONSOLIDATED)[0]
    assert entry.subject == DAILY_ONE
    assert "2026-03-02 has ended" in entry.text
    assert agent.images()[DAILY_ONE].root == verify_image(agent.folder / DAILY_ONE).root
    wait_for(lambda: not agent.attempts(), "all work to end")


def test_missed_days_are_made_up_for_each_by_its_own(agent: AgentRun, stock: Stock):
    land(agent, stock, 4)
    agent.stop()
    for image in stock.images[4:]:
        shutil.copyfile(image, agent.folder / image.name)
    agent.clock.set(DAY_THREE)
    agent.start().wait_until_ready().wait_good(DAILY_ONE, DAILY_TWO)
    agent.wait_good(*stock.names)
    assert {entry.subject for entry in agent.events(EventKind.CONSOLIDATED)} == {DAILY_ONE, DAILY_TWO}
    assert set(agent.states()) == {*stock.names, DAILY_ONE, DAILY_TWO}


def test_nothing_is_rolled_up_from_what_is_not_verified(agent: AgentRun, stock: Stock):
    for name in (*stock.names[:2], stock.names[3]):
        shutil.copyfile(stock.images[stock.names.index(name)], agent.folder / name)
    agent.wait_good(stock.names[3])
    damaged = bytearray(stock.images[2].read_bytes())
    damaged[len(damaged) // 2] ^= 4
    (agent.folder / stock.names[2]).write_bytes(damaged)
    agent.clock.set(DAY_THREE)
    wait_for(lambda: agent.states().get(stock.names[2]) is ImageState.BAD, "the damaged one to be found")
    wait_for(lambda: agent.chains()[0].next_due_at > DAY_THREE, "a plan without it")
    assert DAILY_ONE not in agent.states()
    shutil.copyfile(stock.images[2], agent.folder / stock.names[2])
    agent.wait_good(DAILY_ONE)


def test_duplicate_hints_do_no_harm(agent: AgentRun, stock: Stock):
    catalogue_url = sqlite_url(agent.state_dir / "catalogue.sqlite")
    hints = _hints_of(agent, catalogue_url)
    shutil.copyfile(stock.images[0], agent.folder / stock.names[0])
    wait_for(agent.images, "the first image")
    for _ in range(30):
        for image_id in (1, 2, 3, 4, 77):
            hints.image_landed(image_id)
        hints.folder_changed(1)
        hints.folder_changed(99)
    land(agent, stock, 4)
    agent.clock.set(BERLIN_MIDNIGHT)
    for _ in range(30):
        hints.chain_due(1)
        hints.chain_due(88)
    agent.wait_good(DAILY_ONE)
    wait_for(lambda: agent.redis().hlen(f"{_namespace(catalogue_url)}:consolidate.msgs") == 0, "empty queues")
    for name in (*stock.names[:4], DAILY_ONE):
        assert len(agent.events(EventKind.VERIFIED, name)) == 1
    assert len(agent.events(EventKind.CONSOLIDATED)) == 1
    dead = agent.redis().keys(f"{_namespace(catalogue_url)}:*.XQ")
    assert not dead
    wait_for(lambda: not agent.attempts(), "all work to end")


def test_two_consolidations_of_one_chain_at_once(tmp_path: Path, stock: Stock):
    """Two workers, each with its own catalogue connection, begin together: one of them does it."""
    with AgentRun(tmp_path) as run:
        land(run, stock)
        run.stop()
        contexts = [_context(run, Catalog(sqlite_url(run.state_dir / "catalogue.sqlite"))) for _ in range(4)]
        silent = Hints(make_broker("unix:///nowhere?db=0", "nobody"))
        together = threading.Barrier(len(contexts))

        def work(context: AgentContext) -> None:
            together.wait()
            look_after_chain(context, silent, 1)

        threads = [threading.Thread(target=work, args=(context,)) for context in contexts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for context in contexts:
            context.catalog.close()
        assert [entry.subject for entry in run.events(EventKind.CONSOLIDATED)] == [DAILY_ONE, DAILY_TWO]
        assert not run.events(EventKind.FAILED)
        assert not run.attempts()
        assert {path.name for path in run.folder.glob("*.sp*")} == {*stock.names, DAILY_ONE, DAILY_TWO}


def test_a_day_is_not_summed_up_before_all_that_lies_there_is_known(tmp_path: Path, stock: Stock):
    """After a pause the tick may come before the scan: then the last images are not in the catalogue yet."""
    with AgentRun(tmp_path) as run:
        land(run, stock, 3)
        run.stop()
        shutil.copyfile(stock.images[3], run.folder / stock.names[3])
        catalog = Catalog(sqlite_url(run.state_dir / "catalogue.sqlite"))
        look_after_chain(_context(run, catalog), Hints(make_broker("unix:///nowhere?db=0", "nobody")), 1)
        catalog.close()
        assert run.chains()[0].waits_for == f"a scan of {stock.names[3]}"
        run.clock.set(DAY_THREE)
        run.start().wait_until_ready().wait_good(DAILY_ONE)
        assert set(run.states()) == {*stock.names[:4], DAILY_ONE}
        wait_for(lambda: run.chains()[0].waits_for is None, "what is read back again that day")


@pytest.mark.parametrize("pace", [timedelta(0), timedelta(minutes=1)], ids=["at once", "after a long run"])
def test_what_failed_is_tried_again_after_a_pause_not_a_day(
    tmp_path: Path, stock: Stock, monkeypatch: pytest.MonkeyPatch, pace: timedelta
):
    """The pause may be over before the run is: then the chain is due at once."""
    with AgentRun(tmp_path) as run:
        run.set({"verification": {"reverify": False}})
        land(run, stock, 4)
        run.stop()
    catalog, now = Catalog(sqlite_url(run.state_dir / "catalogue.sqlite")), DAY_THREE

    def clock() -> datetime:
        nonlocal now
        now += pace
        return now

    def refuse(*_: object, **__: object) -> None:
        raise StorageError("the disk is full", path=str(run.folder))

    context = AgentContext(catalog, clock, machine_now, engine_version="test")
    hints = Hints(make_broker("unix:///nowhere?db=0", "nobody"))
    with monkeypatch.context() as patched:
        patched.setattr(actors.consolidate, "consolidate", refuse)
        look_after_chain(context, hints, 1)
    assert [attempt.failures for attempt in run.attempts()] == [1]
    assert DAY_THREE < run.chains()[0].next_due_at <= max(now, DAY_THREE + FIRST_WAIT)
    now = max(now, DAY_THREE + FIRST_WAIT)
    look_after_chain(context, hints, 1)
    catalog.close()
    assert [entry.subject for entry in run.events(EventKind.CONSOLIDATED)] == [DAILY_ONE]
    assert not run.attempts()


def test_a_worker_thought_dead_cannot_record_its_result(tmp_path: Path, stock: Stock):
    with AgentRun(tmp_path) as run:
        land(run, stock, 4)
        run.stop()
        catalog = Catalog(sqlite_url(run.state_dir / "catalogue.sqlite"))
        context = _context(run, catalog)
        moment = context.moment()
        lease_time = moment.lease_time
        with catalog.write() as session:
            old = take_lease(session, 1, moment.holder, machine_now=moment.machine_now, lease_time=lease_time)
        assert old is not None
        later = moment.machine_now + 2 * lease_time
        with catalog.write() as session:
            new = take_lease(session, 1, moment.holder, machine_now=later, lease_time=lease_time)
        assert new == old + 1
        with pytest.raises(BusyError, match="took the chain over"), catalog.write() as session:
            check_fence(session, 1, old)
        catalog.close()


def _context(run: AgentRun, catalog: Catalog) -> AgentContext:
    return AgentContext(catalog, lambda: DAY_THREE, machine_now, engine_version="test")


def _namespace(catalogue_url: str) -> str:
    from ops.settings import Settings

    return Settings.from_environment({"ROLLFORWARD_CATALOGUE": catalogue_url}).namespace


def _hints_of(agent: AgentRun, catalogue_url: str) -> Hints:
    return Hints(make_broker(f"unix://{agent.state_dir}/redis.sock?db=0", _namespace(catalogue_url)))
