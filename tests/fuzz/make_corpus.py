"""Makes the encrypted chain of the corpus: the states of the golden images, under a password.

    python -m tests.fuzz.make_corpus FOLDER

It was run once, so that a case means the same in every run; what is drawn at random in a chain stays as it fell.
"""

from __future__ import annotations

import os
import shutil
import sys
from datetime import timedelta
from pathlib import Path

from storage.capture import capture
from storage.consolidate import consolidate
from tests.golden.make_golden import START, states
from tests.unit.tiny import Password

VOLUME = "D_LOCK"
PASSWORD = Password(b"a password")


def make(folder: Path) -> None:
    """Write the images into a folder."""
    os.chdir(folder)
    for number, content in enumerate(states()):
        Path("volume.raw").write_bytes(content)
        now = START + timedelta(hours=number)
        capture(Path("volume.raw"), Path(), VOLUME, now=now, encrypt=True, passwords=PASSWORD)
    Path("volume.raw").unlink()
    shutil.rmtree(".rollforward")
    sources = [Path(f"{VOLUME}-b001-i{number:03d}.spi") for number in (1, 2)]
    consolidate(sources, Path(f"{VOLUME}-b001-i002-cd.spi"))
    consolidate([Path(f"{VOLUME}-b001.spf"), *sources], Path(f"{VOLUME}-b001-i002.spf"))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
