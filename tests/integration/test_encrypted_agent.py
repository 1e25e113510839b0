"""The agent looks after an encrypted volume, and is never told a password."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

from hsr.restore import restore
from ops.passwords import VARIABLE
from storage.capture import capture
from storage.catalog import ImageState
from storage.header import ImageHeader
from storage.key_area import key_file_path
from storage.key_files import unlock
from storage.verify import verify_image
from tests.commands import sha256_of
from tests.integration.agent_run import AgentRun, wait_for
from tests.integration.conftest import DAY_ONE, DAY_TWO, VOLUME
from tests.integration.test_rollup import DAILY_ONE, DAILY_TWO, DAY_THREE, DURING_DAY_TWO
from tests.unit.tiny import Password


def test_days_of_an_encrypted_volume_are_rolled_up(agent: AgentRun, tmp_path: Path) -> None:
    assert VARIABLE not in os.environ
    images, digests, headers = capture_days(tmp_path)
    agent.clock.set(DURING_DAY_TWO)
    for path in images:
        shutil.copyfile(path, agent.folder / path.name)
    key_file = key_file_path(images[0].parent, VOLUME, 1)
    shutil.copyfile(key_file, agent.folder / key_file.name)
    agent.wait_good(*(path.name for path in images))
    agent.clock.set(DAY_THREE)
    agent.wait_good(DAILY_ONE, DAILY_TWO)
    wait_for(lambda: not agent.attempts(), "all work to be done")
    assert set(agent.states().values()) == {ImageState.GOOD}
    assert key_file.name not in agent.states()

    key = unlock(agent.folder / key_file.name, headers, Password().password).key
    way = [agent.folder / name for name in (images[0].name, DAILY_ONE, DAILY_TWO)]
    restore(way, tmp_path / "restored.raw", key=key)
    assert sha256_of(tmp_path / "restored.raw") == digests[-1]
    for path in way:
        assert verify_image(path, deep=True, key=key).status == "good"


def capture_days(home: Path) -> tuple[list[Path], list[str], list[ImageHeader]]:
    """Capture two days of a volume, encrypted."""
    folder, source = home / "captured", home / "volume.raw"
    folder.mkdir()
    chance = random.Random(1)
    source.write_bytes(chance.randbytes(1 << 20) + bytes(1 << 20))
    made, digests = [], []
    for now in (*DAY_ONE, *DAY_TWO):
        with source.open("r+b") as file:
            for _ in range(20):
                file.seek(chance.randrange((2 << 20) - 4096))
                file.write(chance.randbytes(4096))
        made.append(capture(source, folder, VOLUME, now=now, encrypt=True, passwords=Password()))
        digests.append(sha256_of(source))
    return [image.path for image in made], digests, [image.header for image in made]
