"""An agent that is asked to stop does so within its limit, whatever its processes wait for."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from storage.catalog import ImageState
from tests.integration.agent_run import AgentRun, wait_for
from tests.integration.conftest import Stock
from tests.integration.test_folders_come_and_go import share

STOP_S = 4
FAR_TOO_LONG_S = 60
"""A generous limit: the kernel lets a program wait for a silent share for ever, and this one is silent for longer."""


def test_a_folder_that_does_not_answer_keeps_no_agent_from_stopping(tmp_path: Path, stock: Stock):
    behind, mount, gate = tmp_path / "behind", tmp_path / "mount", tmp_path / "gate"
    behind.mkdir()
    mount.mkdir()
    patient = {"ROLLFORWARD_POLL_S": "0.2", "ROLLFORWARD_SILENCE_S": "600", "ROLLFORWARD_STOP_S": str(STOP_S)}
    with share(behind, mount, gate):
        run = AgentRun(tmp_path / "run", patient, more_folders=[mount])
        try:
            run.start().wait_until_ready()
            run.take_time(cpu_percent=1, path=mount)
            shutil.copyfile(stock.images[0], behind / stock.names[0])
            wait_for(
                lambda: run.states().get(stock.names[0]) is ImageState.VERIFYING, "a worker in the share"
            )
            gate.touch()
            begun = time.monotonic()
            assert run.stop() == 0
            assert time.monotonic() - begun < FAR_TOO_LONG_S
            assert [(attempt.holder, attempt.crashes) for attempt in run.attempts()] == [(None, 0)]
        finally:
            gate.unlink(missing_ok=True)
            print(run.log.read_text())
        wait_for(lambda: not run.processes(), "the end of all processes")
