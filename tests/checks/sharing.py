"""Work that keeps to its share of the processors: verification by itself, and in an agent that has no end of it."""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from actors.throttle import Throttle
from storage.capture import capture
from storage.verify import verify_image
from tests.command import in_this_process
from tests.integration.agent_run import AgentRun, wait_for

_VOLUME_BYTES = 256 << 20
_HEADROOM = 0.15
_AT_ONCE = 3
_FOLDERS = 40
_CHANGE_EVERY_S = 2.5
_PACE = {"ROLLFORWARD_TICK_S": "1", "ROLLFORWARD_RESCAN_S": "2", "ROLLFORWARD_HINT_AGAIN_S": "2"}
"""In less of a hurry than other tests: looking at folders is to be a small part of the work."""


def make_image(folder: Path) -> Path:
    """Capture a volume of random bytes."""
    source, chance = folder / "volume.raw", random.Random(5)
    piece = chance.randbytes(16 << 20)
    with source.open("wb") as file:
        for turn in range(_VOLUME_BYTES // len(piece)):
            file.write(piece[turn:] + piece[:turn])
    made = capture(source, folder, "SHARE", now=datetime.now(UTC)).path
    source.unlink()
    return made


def measured_percent(image: Path, percent: float, seconds: float) -> float:
    """Verify an image over and over within a share of the processors; return the share that was used.

    It is verified several times at once: by itself it mostly leaves something of the processors to spare.
    """
    throttle = Throttle(percent)

    def pause(_done_bytes: int, _total_bytes: int) -> None:
        throttle.pause(None, time.sleep)

    def verify_until(stop_s: float) -> None:
        while time.monotonic() < stop_s:
            assert verify_image(image, from_medium=False, progress=pause).status == "good"

    pause(0, 0)
    wall_s, cpu_s = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for one in [pool.submit(verify_until, wall_s + seconds) for _ in range(_AT_ONCE)]:
            one.result()
    used_s = time.process_time() - cpu_s
    return used_s / (time.monotonic() - wall_s) / (os.cpu_count() or 1) * 100


def keeps_within(image: Path, percent: float, seconds: float) -> str:
    """Hold what is measured against the share: within 15 % of it."""
    used = measured_percent(image, percent, seconds)
    assert abs(used - percent) <= percent * _HEADROOM, f"{used:.1f} % in place of {percent:.0f} %"
    return f"{used:.1f} % of all processors over {seconds:.0f} s, told to take {percent:.0f} %"


def agent_keeps_within(place: Path, percent: int, seconds: float) -> str:
    """Have an agent verify without end: one image in many folders, which changes again and again.

    Args:
        place: on a file system that needs no waiting for, so that there is always work to be held back.
        percent: the agent's share.
        seconds: how long to measure.
    """
    image = make_image(place)
    folders = [place / "folders" / str(number) for number in range(_FOLDERS)]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / image.name).hardlink_to(image)
    run = AgentRun(place / "agent", _PACE, more_folders=folders)
    told = in_this_process("settings", "set", f"performance.cpu_percent={percent}", "--state", run.state_dir)
    assert told.code == 0, str(told)
    with run:
        wait_for(lambda: "good" in run.states().values(), "a first verification")
        worker = run.pid_of("ops.worker")
        wall_s, all_s, worker_s = time.monotonic(), _all_cpu_s(run), _cpu_s(worker)
        while (passed_s := time.monotonic() - wall_s) < seconds:
            os.utime(image)
            time.sleep(min(_CHANGE_EVERY_S, seconds - passed_s))
        worker_s, all_s = _cpu_s(worker) - worker_s, _all_cpu_s(run) - all_s
        share = 100 / (time.monotonic() - wall_s) / (os.cpu_count() or 1)
    used = worker_s * share
    assert abs(used - percent) <= percent * _HEADROOM, f"{used:.1f} % in place of {percent} %"
    return (
        f"{used:.1f} % of all processors over {seconds:.0f} s, told to take {percent} %; "
        f"with lookout, herald, Redis and supervisor {all_s * share:.1f} %"
    )


def _all_cpu_s(run: AgentRun) -> float:
    return sum(_cpu_s(pid) for pid in run.processes())


def _cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
