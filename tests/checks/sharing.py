"""A worker that keeps to its share of the processors while it verifies."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from actors.throttle import Throttle
from storage.capture import capture
from storage.verify import verify_image

_VOLUME_BYTES = 256 << 20
_HEADROOM = 0.15


def make_image(folder: Path) -> Path:
    """Capture a volume of random bytes."""
    source, chance = folder / "volume.raw", random.Random(5)
    piece = chance.randbytes(16 << 20)
    with source.open("wb") as file:
        for turn in range(_VOLUME_BYTES // len(piece)):
            file.write(piece[turn:] + piece[:turn])
    made = capture(source, folder, "SHARE").path
    source.unlink()
    return made


def measured_percent(image: Path, percent: float, seconds: float) -> float:
    """Verify an image over and over within a share of the processors; return the share that was used."""
    throttle = Throttle(percent)

    def pause(_done_bytes: int, _total_bytes: int) -> None:
        throttle.pause(None, time.sleep)

    pause(0, 0)
    wall_s, cpu_s = time.monotonic(), time.process_time()
    while time.monotonic() < wall_s + seconds:
        assert verify_image(image, from_medium=False, progress=pause).status == "good"
    used_s = time.process_time() - cpu_s
    return used_s / (time.monotonic() - wall_s) / (os.cpu_count() or 1) * 100


def keeps_within(image: Path, percent: float, seconds: float) -> str:
    """Hold what is measured against the share: within 15 % of it."""
    used = measured_percent(image, percent, seconds)
    assert abs(used - percent) <= percent * _HEADROOM, f"{used:.1f} % in place of {percent:.0f} %"
    return f"{used:.1f} % of all processors over {seconds:.0f} s, told to take {percent:.0f} %"
