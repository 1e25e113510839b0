"""Parts of the agent killed again and again while images land and days roll over: all ends as if nothing had been."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

from storage.capture import capture
from storage.catalog import EventKind, ImageState
from storage.consolidate import consolidate
from tests.checks.chaos import AT_WORK, PARTS
from tests.integration.agent_run import AgentRun, wait_for

FIRST = datetime(2026, 3, 2, 7, tzinfo=UTC)
DAYS, A_DAY = 3, 4
VOLUME_BYTES = 8 << 20


def capture_days(work_dir: Path, chance: random.Random) -> list[tuple[datetime, Path]]:
    source, stock = work_dir / "volume.raw", work_dir / "stock"
    stock.mkdir()
    source.write_bytes(chance.randbytes(VOLUME_BYTES))
    times = [FIRST] + [
        FIRST + timedelta(days=day, hours=1 + 2 * turn) for day in range(DAYS) for turn in range(A_DAY)
    ]
    made = []
    for now in times:
        with source.open("r+b") as file:
            for _ in range(100):
                file.seek(chance.randrange(VOLUME_BYTES - 4096))
                file.write(chance.randbytes(4096))
        made.append((now, capture(source, stock, "V", now=now).path))
    return made


def roll_up_undisturbed(made: list[tuple[datetime, Path]], folder: Path) -> dict[str, bytes]:
    """Return what each day's daily must be, byte for byte."""
    folder.mkdir()
    expected = {}
    for day in range(DAYS):
        sources = [path for _, path in made[1 + day * A_DAY : 1 + (day + 1) * A_DAY]]
        target = folder / f"V-b001-i{(day + 1) * A_DAY:03d}-cd.spi"
        expected[target.name] = consolidate(sources, target).path.read_bytes()
    return expected


def kill_a_part(run: AgentRun, part: str) -> None:
    if part in AT_WORK and run.one_more_crash_sets_aside():
        return
    if part == "the agent":
        run.kill()
        wait_for(lambda: not run.processes(), "the end of all processes")
        run.start()
        return
    for pid, line in run.processes().items():
        if part in line:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def await_moment(run: AgentRun, name: str, chance: random.Random) -> None:
    """Wait until an image has come some way: nowhere yet, catalogued, being verified, or verified."""
    reached = chance.choice([None, *ImageState])
    if reached is None:
        return
    ways = [ImageState.SETTLING, ImageState.LANDED, ImageState.VERIFYING, ImageState.GOOD]
    enough = ways[ways.index(reached) :] if reached in ways else ways
    wait_for(lambda: run.states().get(name) in enough, f"{name} to be {reached}")


def test_a_much_killed_agent_ends_where_an_undisturbed_one_does(tmp_path: Path):
    chance = random.Random(2026)
    made = capture_days(tmp_path, chance)
    expected = roll_up_undisturbed(made, tmp_path / "expected")
    with AgentRun(tmp_path / "run") as run:
        for now, path in made:
            run.clock.set(now)
            shutil.copyfile(path, run.folder / path.name)
            await_moment(run, path.name, chance)
            if chance.random() < 0.7:
                kill_a_part(run, chance.choice(PARTS))
        for _ in range(3):
            run.clock.set(run.clock() + timedelta(hours=8))
            kill_a_part(run, chance.choice(PARTS))

        def converged() -> bool:
            run.clock.set(run.clock() + timedelta(minutes=1))  # pauses after trouble follow the calendar
            return run.is_good(*expected, *(path.name for _, path in made))

        wait_for(converged, "everything to be good", patience_s=90)
        names = {path.name for _, path in made} | set(expected)
        assert {path.name for path in run.folder.iterdir()} - {".rollforward"} == names
        assert {name: (run.folder / name).read_bytes() for name in expected} == expected
        assert all(len(run.events(EventKind.VERIFIED, name)) == 1 for name in names)
        assert all(len(run.events(EventKind.VERIFIED_AGAIN, name)) <= 1 for name in names)  # it took few days
        assert not run.events(EventKind.QUARANTINED)
