"""Compile all kernels once, by doing a little of everything; run at set-up, so that the first real run is quick.

Run as `python -m ops.warm_up`.
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from hsr.disks.form import DiskKind
from hsr.restore import restore
from hsr.rolling.cursor_file import Place
from hsr.rolling.disk import RollingDisk
from hsr.serving.point import PointReader
from storage.capture import capture
from storage.consolidate import consolidate
from storage.image import ImageReader
from storage.verify import verify_image

_VOLUME_BYTES = 1 << 20


def warm_up() -> None:
    """Capture, verify, consolidate, restore, serve and roll forward a tiny volume in a temporary folder.

    Raises:
        RollforwardError: the machine cannot do it.
    """
    with tempfile.TemporaryDirectory(prefix="rollforward-") as name:
        folder = Path(name)
        volume = folder / "volume.raw"
        content = bytearray(_VOLUME_BYTES)
        images = []
        for state in range(3):
            content[state * 70_000 : state * 70_000 + 5_000] = (
                b"rollforward" * 454 + b"state" + bytes([state])
            )
            volume.write_bytes(content)
            images.append(capture(volume, folder, "WARM", now=datetime.now(UTC)).path)
        verify_image(images[0], deep=True)
        rolled_up = consolidate(images[1:], folder / "WARM-b001-i002-cd.spi")
        restore([images[0], rolled_up.path], folder / "restored.raw")
        with PointReader(images):
            pass  # it loads all that it needs at once
        with ImageReader(images[0]) as image:
            place, chain_id = Place.whole(_VOLUME_BYTES), image.header.chain_id
        with RollingDisk.begin(
            folder / "disk.vhdx", DiskKind.VHDX, place, job_uid=bytes(16), chain_id=chain_id
        ) as disk:
            disk.apply(images[:1])
            disk.apply(images[1:])


if __name__ == "__main__":
    warm_up()
