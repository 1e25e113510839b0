"""A process that ends when it is asked to, whatever it is at."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

CHILD = """
import sys, threading
from ops.ending import Ending
from ops.logs import set_up_logging

set_up_logging("json")
ending = Ending.prepared(1.0)
threading.Thread(target=threading.Event().wait, name="stuck", daemon=True).start()
print("begun", flush=True)
if sys.argv[1] == "stuck":
    threading.Event().wait()
assert ending.wait(60)
ending.leave()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_asked_leaves_its_threads_behind(number: signal.Signals):
    code, said = _ended("meek", number)
    assert (code, said) == (0, [])


def test_a_process_that_is_stuck_ends_and_says_at_what():
    code, said = _ended("stuck", signal.SIGTERM)
    assert code == 1
    (line,) = said
    assert line["event"] == "ends though work is under way"
    stuck = [calls for thread, calls in line["at"].items() if thread.startswith(("stuck", "MainThread"))]
    assert len(stuck) == 2
    assert all("wait" in calls for calls in stuck)


def _ended(manner: str, number: signal.Signals) -> tuple[int, list[dict[str, dict[str, str]]]]:
    child = subprocess.Popen([sys.executable, "-c", CHILD, manner], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    child.send_signal(number)
    output, _ = child.communicate(timeout=60)
    return child.returncode, [json.loads(line) for line in output.splitlines()]
