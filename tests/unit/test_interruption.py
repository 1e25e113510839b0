"""Interrupting a command: it leaves, even where Python drops what a signal raises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from ops.interruption import Interruption

IN_A_FINALISER = """
import os, signal, sys
from ops.interruption import Interruption

class Held:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100):
            pass

with Interruption() as interruption:
    held = Held()
    del held
    print("still here", flush=True)
    interruption.check()
    print("not here", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_work(number):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught, Interruption():
        os.kill(os.getpid(), number)
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) is before


def test_what_was_dropped_is_raised_again():
    done = subprocess.run([sys.executable, "-c", IN_A_FINALISER], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stdout == "still here\n"
    assert "Exception ignored" in done.stderr
