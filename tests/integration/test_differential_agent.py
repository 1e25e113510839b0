"""The agent on chains with differentials, with a squashed image in the place of another, and with a synthetic full."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from hsr.restore import restore
from storage.amplification import SquashLimits
from storage.capture import capture
from storage.catalog import EventKind, ImageState
from storage.chain import load_chain
from storage.consolidate import consolidate
from storage.squash import squash
from tests.command import in_this_process
from tests.commands import sha256_of
from tests.integration.agent_run import AgentRun, wait_for
from tests.integration.conftest import DAY_ONE, DAY_TWO, VOLUME, Stock
from tests.integration.test_rollup import DAILY_ONE, DAILY_TWO, DAY_THREE, land

OF = (None, None, 0, None, 0, None)
"""What each capture is a differential of: base, incremental, differential, its incremental, once more."""


def capture_lines(folder: Path, source: Path) -> list[str]:
    """Capture two days in three lines; return the digest of each state."""
    chance = random.Random(1)
    source.write_bytes(chance.randbytes(1 << 20) + bytes(1 << 20))
    digests = []
    for now, of in zip((*DAY_ONE, *DAY_TWO), OF, strict=True):
        with source.open("r+b") as file:
            for _ in range(10):
                file.seek(chance.randrange((2 << 20) - 4096))
                file.write(chance.randbytes(4096))
        capture(source, folder, VOLUME, now=now, differential_of=of)
        digests.append(sha256_of(source))
    return digests


def test_each_line_has_its_days_rolled_up(agent: AgentRun, tmp_path: Path) -> None:
    captured = tmp_path / "captured"
    captured.mkdir()
    digests = capture_lines(captured, tmp_path / "volume.raw")
    names = sorted(path.name for path in captured.iterdir() if path.is_file())
    assert [name.removeprefix(VOLUME) for name in names] == [
        "-b001-d002-i003.spi", "-b001-d002.spi", "-b001-d004-i005.spi",
        "-b001-d004.spi", "-b001-i001.spi", "-b001.spf",
    ]  # fmt: skip
    for name in names:
        shutil.copyfile(captured / name, agent.folder / name)
    agent.wait_good(*names)
    agent.clock.set(DAY_THREE)
    dailies = [f"{VOLUME}-b001-i{number:03d}-cd.spi" for number in (1, 3, 5)]
    agent.wait_good(*dailies)
    wait_for(lambda: not agent.attempts(), "all work to be done")
    assert set(agent.states()) == {*names, *dailies}
    assert agent.chains()[0].waits_for is None
    for number, daily in zip((1, 3, 5), dailies, strict=True):
        target = tmp_path / "restored.raw"
        restore([agent.folder / f"{VOLUME}-b001.spf", agent.folder / daily], target, overwrite=True)
        assert sha256_of(target) == digests[number]


def test_a_squashed_daily_takes_the_place_of_the_daily(agent: AgentRun, stock: Stock, tmp_path: Path) -> None:
    land(agent, stock)
    agent.clock.set(DAY_THREE)
    agent.wait_good(DAILY_ONE, DAILY_TWO)
    wait_for(lambda: not agent.attempts(), "all work to be done")
    root = agent.images()[DAILY_ONE].root
    done = squash(agent.folder / DAILY_ONE, tmp_path / DAILY_ONE, limits=SquashLimits(factor=1, depth=1))
    assert done.published is not None
    (agent.folder / DAILY_ONE).rename(tmp_path / "original")
    shutil.move(done.published.path, agent.folder / DAILY_ONE)
    squashed_root = done.published.root
    wait_for(lambda: agent.images()[DAILY_ONE].root == squashed_root, "the squashed image to be seen")
    agent.wait_good(DAILY_ONE)
    assert root != squashed_root
    for name in stock.names[1:]:
        (agent.folder / name).unlink()
    chain = load_chain(agent.folder, VOLUME)
    target = tmp_path / "restored.raw"
    restore(chain.path_to(chain.newest()), target)
    assert sha256_of(target) == stock.digests[-1]


def test_a_synthetic_full_stands_for_its_base(agent: AgentRun, stock: Stock, tmp_path: Path) -> None:
    """What it was made from may go; the rest of the chain hangs on it, and days are rolled up from there."""
    land(agent, stock, 4)
    full = agent.folder / f"{VOLUME}-b001-i003.spf"
    consolidate([agent.folder / name for name in stock.names[:4]], full)
    agent.wait_good(full.name)
    for name in stock.names[:4]:
        (agent.folder / name).unlink()
    wait_for(lambda: agent.states()[stock.names[0]] is ImageState.MISSING, "the base to be missed")
    agent.clock.set(DAY_TWO[-1])  # no image is younger than its first sight
    for image in stock.images[4:]:
        shutil.copyfile(image, agent.folder / image.name)
    agent.wait_good(*stock.names[4:])
    agent.clock.set(DAY_THREE)
    agent.wait_good(DAILY_TWO)
    assert {entry.subject for entry in agent.events(EventKind.CONSOLIDATED)} == {DAILY_TWO}
    shown = in_this_process("chain", agent.folder)
    assert "full" in shown.output
    assert "gap" not in shown.output
    target = tmp_path / "restored.raw"
    restore([full, agent.folder / DAILY_TWO], target)
    assert sha256_of(target) == stock.digests[-1]
