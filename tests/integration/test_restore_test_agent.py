"""Restore tests by schedule under a real agent: a real file system, whole and damaged; a worker killed in the midst."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest

from policies.headstart import DiskState
from storage.capture import capture
from storage.catalog import EventKind, ImageState
from storage.catalog.headstart import jobs_with_disks
from storage.mounts import mounts
from tests.command import in_this_process
from tests.commands import run, tool
from tests.integration.agent_run import AgentRun, wait_for

VOLUME = "DATA"
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
DAY = timedelta(days=1)

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="FUSE cannot be used here"
)


def command(agent: AgentRun, *words: str | Path) -> list[dict[str, Any]]:
    with patch.dict(
        os.environ, {"ROLLFORWARD_STATE": str(agent.state_dir), "ROLLFORWARD_CLOCK": str(agent.clock)}
    ):
        ran = in_this_process(*words, "--json")
    assert ran.code == 0, str(ran)
    return ran.objects


def make_file_system(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(32 << 20)
    content = path.with_suffix(".content")
    content.mkdir()
    for number in range(20):
        (content / f"file {number}").write_text(f"line {number}\n" * 500)
    run("mkfs.ext4", "-q", "-F", "-d", str(content), str(path))


def land(agent: AgentRun, raw: Path, number: int) -> None:
    """Capture the volume, and wait until the disk stands there."""
    made = capture(raw, agent.folder, VOLUME, now=agent.clock()).path
    agent.wait_good(made.name)
    if number:
        wait_for(lambda: _stands_at(agent) == number, f"the disk to be rolled on to {number}")


def _stands_at(agent: AgentRun) -> int | None:
    with agent.catalog() as catalog, catalog.read() as session:
        disk = jobs_with_disks(session)[0][1]
    is_there = disk.state is DiskState.UP_TO_DATE and len(disk.cursor) == 1
    return int(disk.cursor[0]["number"]) if is_there else None


def add_job(agent: AgentRun, *words: str) -> None:
    disks = agent.work_dir / "disks"
    disks.mkdir()
    command(agent, "location", "add", "here", disks)
    command(agent, "hsr", "add", "stand-by", agent.folder, "--location", "here", *words)
    wait_for(lambda: _stands_at(agent) == 0, "the disk to be built")


def shown(agent: AgentRun) -> dict[str, Any]:
    [line] = command(agent, "hsr", "show", "stand-by")
    return line


def test_a_point_is_tested_each_day_and_the_result_stands_on_it(agent: AgentRun, tmp_path: Path):
    raw = tmp_path / "volume.raw"
    make_file_system(raw)
    agent.clock.set(NOON)
    land(agent, raw, 0)
    add_job(agent, "--test", "daily")
    assert (shown(agent)["test"], shown(agent)["tested"]) == ("daily", None)
    agent.clock.set(NOON + DAY)
    wait_for(lambda: agent.events(EventKind.RESTORE_TESTED), "the test")
    tested = shown(agent)["tested"]
    assert (tested["verdict"], tested["number"], tested["words"]) == ("good", 0, "volume: ext4 good")
    assert tested["found"]["file_systems"][0]["contents"] == "ext4"
    run("debugfs", "-w", "-R", "clri <2>", str(raw))
    land(agent, raw, 1)
    agent.clock.set(NOON + 2 * DAY)
    wait_for(lambda: agent.events(EventKind.RESTORE_TEST_BAD), "the next test")
    assert shown(agent)["tested"]["verdict"] == "bad"
    told = [line for line in command(agent, "chain", agent.folder) if line["kind"] == "restore test"]
    assert [(line["number"], line["status"]) for line in told] == [(0, "good"), (1, "bad")]
    drawn = in_this_process("chain", agent.folder).output
    assert "bad 2026-03-04" in drawn
    assert command(agent, "status")[0]["headstart"][0]["tested"]["verdict"] == "bad"
    assert set(agent.states().values()) == {ImageState.GOOD}
    assert not agent.attempts()


@pytest.fixture
def room() -> Iterator[Path]:
    """A folder whose name leaves room for that of a socket."""
    with TemporaryDirectory(prefix="rf-") as folder:
        yield Path(folder)


def test_a_worker_killed_during_a_test_leaves_nothing_and_the_test_holds_up_nobody(
    tmp_path: Path, room: Path
):
    programs = tmp_path / "programs"
    programs.mkdir()
    busy, slow = tmp_path / "busy", tmp_path / "slow"
    slow.touch()
    (programs / "e2fsck").write_text(
        f'#!/bin/sh\n[ -e {slow} ] || exec {tool("e2fsck")} "$@"\necho $$ > {busy}\nexec sleep 60\n'
    )
    (programs / "e2fsck").chmod(0o755)
    surroundings = {
        "XDG_RUNTIME_DIR": str(room),
        "TMPDIR": str(room),
        "PATH": f"{programs}:{os.environ['PATH']}",
    }
    raw = tmp_path / "volume.raw"
    make_file_system(raw)
    with AgentRun(tmp_path / "agent", surroundings) as agent:
        agent.clock.set(NOON)
        land(agent, raw, 0)
        add_job(agent, "--test", "weekly")
        agent.clock.set(NOON + 7 * DAY)
        wait_for(lambda: busy.exists() and busy.read_text().strip(), "the check")
        checker = int(busy.read_text())
        assert _is_there(checker)
        land(agent, raw, 1)  # verified, and rolled on to, meanwhile
        agent.kill_child("ops.worker")
        wait_for(lambda: not _is_there(checker), "the end of the check")
        wait_for(lambda: not agent_children(agent, "ops.restore_child"), "the end of the test")
        slow.unlink()
        agent.advance_until(lambda: agent.events(EventKind.RESTORE_TESTED))
        assert shown(agent)["tested"]["number"] == 1  # where it stands by now
        wait_for(lambda: not agent.attempts(), "the attempt to be over")
    assert not list(room.glob("rollforward.check.*"))
    assert not [mount for mount in mounts() if room in mount.at.parents]


def agent_children(agent: AgentRun, word: str) -> list[str]:
    return [line for line in agent.processes().values() if word in line]


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
