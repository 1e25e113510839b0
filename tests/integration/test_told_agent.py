"""A running agent goes by what it is told from the command line, from its next tick on."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

from storage.catalog import EventKind, ImageState
from tests.command import Ran, in_own_process, in_this_process
from tests.integration.agent_run import AgentRun, wait_for
from tests.integration.conftest import VOLUME, Stock

DAILY_ONE = f"{VOLUME}-b001-i003-cd.spi"
DAY_TWO = datetime(2026, 3, 3, 6, tzinfo=UTC)
DAY_THREE = datetime(2026, 3, 4, 6, tzinfo=UTC)


def told(agent: AgentRun, *words: str | Path) -> Ran:
    """Give a command beside the agent; nothing but the state directory says which agent, or what its clock is."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ROLLFORWARD_")}
    with patch.dict(os.environ, clean, clear=True):
        ran = in_this_process(*words, "--state", agent.state_dir, "--json")
    assert ran.code == 0, str(ran)
    return ran


def land(agent: AgentRun, stock: Stock, folder: Path, count: int = 4) -> None:
    for image in stock.images[:count]:
        shutil.copyfile(image, folder / image.name)
    agent.wait_good(*stock.names[:count])


def test_a_folder_is_taken_up_and_let_go_while_the_agent_runs(agent: AgentRun, stock: Stock):
    other = agent.work_dir / "the accountant's bücher"
    other.mkdir()
    told(agent, "folder", "add", other, "--description", "Bücher", "--sort-priority", "1")
    land(agent, stock, other)
    shown = told(agent, "folder", "show", other).objects[0]
    assert shown["images"] == {"good": 4}
    assert shown["computers"]
    before = sorted(path.name for path in other.iterdir() if path.is_file())
    told(agent, "folder", "remove", other)
    wait_for(lambda: len(agent.folders()) == 1, "the folder to be let go")
    shutil.copyfile(stock.images[4], other / stock.names[4])
    shutil.copyfile(stock.images[0], agent.folder / stock.names[0])
    agent.wait_good(stock.names[0])
    assert stock.names[4] not in agent.states()
    assert sorted(path.name for path in other.iterdir() if path.is_file()) == sorted(
        [*before, stock.names[4]]
    )


def test_the_daily_work_is_suspended_and_started_by_hand(agent: AgentRun, stock: Stock):
    told(agent, "settings", "set", "control.enabled=off")
    land(agent, stock, agent.folder)
    agent.clock.set(DAY_TWO)
    ready = told(agent, "plan", agent.folder).objects[-1]
    assert "control.enabled" in ready["reason"]
    wait_for(lambda: agent.chains()[0].next_due_at > DAY_TWO, "a plan that has nothing to do")
    assert DAILY_ONE not in agent.states()
    told(agent, "start")
    agent.wait_good(DAILY_ONE)
    wait_for(lambda: agent.chains()[0].started_at is None, "the work that was started to be done")
    assert agent.events(EventKind.STARTED)


def test_a_folder_that_does_not_roll_up_does_so_when_it_is_told_to(agent: AgentRun, stock: Stock):
    told(agent, "folder", "set", agent.folder, "consolidation.enabled=off")
    land(agent, stock, agent.folder)
    agent.clock.set(DAY_THREE)
    wait_for(lambda: agent.chains()[0].next_due_at > DAY_THREE, "a plan that has nothing to do")
    assert DAILY_ONE not in agent.states()
    told(agent, "folder", "set", agent.folder, "--unset", "consolidation")
    agent.wait_good(DAILY_ONE)


def test_commands_go_by_the_agents_clock(agent: AgentRun, stock: Stock):
    land(agent, stock, agent.folder)
    agent.clock.set(datetime(2026, 3, 2, 20, tzinfo=UTC))
    due = told(agent, "plan").objects[-1]["next_due_at"]
    assert due is not None
    assert due.startswith("2026-03-02T23:00")
    first = in_own_process("plan", "--state", agent.state_dir, "--json")
    assert first.code == 0, str(first)
    assert first.objects[-1]["next_due_at"] == due
    assert agent.states()[stock.names[0]] is ImageState.GOOD


def test_one_file_is_applied_to_a_running_agent(agent: AgentRun, stock: Stock):
    land(agent, stock, agent.folder)
    file = agent.work_dir / "settings.toml"
    file.write_text(
        f"[control]\nenabled = false\n[[folder]]\npath = '{agent.folder}'\ntime_zone = 'America/New_York'\n"
    )
    told(agent, "config", "apply", file)
    agent.clock.set(DAY_TWO)
    wait_for(lambda: agent.chains()[0].next_due_at > DAY_TWO, "a plan that has nothing to do")
    assert DAILY_ONE not in agent.states()
    file.write_text(f"[[folder]]\npath = '{agent.folder}'\ntime_zone = 'America/New_York'\n")
    told(agent, "config", "apply", file)
    agent.wait_good(DAILY_ONE)
