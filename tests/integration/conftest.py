"""A chain to land: captured once, copied by every test."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage.capture import capture
from tests.commands import sha256_of
from tests.integration.agent_run import AgentRun

VOLUME = "D VÖL'1"
DAY_ONE = [datetime(2026, 3, 2, hour, tzinfo=UTC) for hour in (7, 9, 12, 15)]
DAY_TWO = [datetime(2026, 3, 3, hour, tzinfo=UTC) for hour in (9, 15)]


@dataclass(frozen=True)
class Stock:
    """Images ready to land, oldest first: a base and three incrementals of one day, two of the next.

    Attributes:
        images: the files.
        digests: SHA-256 of the volume at each.
    """

    images: tuple[Path, ...]
    digests: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(image.name for image in self.images)


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    work_dir = tmp_path_factory.mktemp("stock")
    images = work_dir / "images"
    images.mkdir()
    return make_stock(work_dir / "volume.raw", images, volume_bytes=4 << 20, seed=1)


def make_stock(
    source: Path, folder: Path, *, volume_bytes: int, seed: int, part_bytes: int | None = None
) -> Stock:
    chance = random.Random(seed)
    source.write_bytes(chance.randbytes(volume_bytes // 2) + bytes(volume_bytes // 2))
    made, digests = [], []
    for now in (*DAY_ONE, *DAY_TWO):
        with source.open("r+b") as file:
            for _ in range(20):
                file.seek(chance.randrange(volume_bytes - 4096))
                file.write(chance.randbytes(4096))
        made.append(capture(source, folder, VOLUME, now=now, part_bytes=part_bytes).path)
        digests.append(sha256_of(source))
    return Stock(tuple(made), tuple(digests))


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentRun]:
    """An agent that is started; the test may stop and start it as it likes."""
    with AgentRun(tmp_path) as run:
        yield run


@pytest.fixture
def patient_agent(tmp_path: Path) -> Iterator[AgentRun]:
    """An agent that lets incomplete files stand for longer than any test takes."""
    with AgentRun(tmp_path, {"ROLLFORWARD_SETTLE_S": "120"}) as run:
        yield run
