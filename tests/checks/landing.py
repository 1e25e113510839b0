"""Images land, many at once and one by one: each is verified once, and soon."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import func, select

from storage.capture import capture
from storage.catalog import Event, EventKind, Image, ImageState
from tests.integration.agent_run import AgentRun
from tests.waiting import wait_for

_FIRST = datetime(2026, 3, 2, 1, tzinfo=UTC)
_VOLUME_BYTES = 1 << 18


def make_images(work_dir: Path, count: int) -> list[Path]:
    """Capture a small volume again and again; return the images, oldest first."""
    source, folder, chance = work_dir / "volume.raw", work_dir / "stock", random.Random(count)
    folder.mkdir()
    source.write_bytes(chance.randbytes(_VOLUME_BYTES))
    made = []
    for number in range(count):
        with source.open("r+b") as file:
            file.seek(chance.randrange(_VOLUME_BYTES - 4096))
            file.write(chance.randbytes(4096))
        made.append(capture(source, folder, "V", now=_FIRST + number * timedelta(minutes=15)).path)
    return made


def make_folders(work_dir: Path, count: int) -> list[Path]:
    folders = [work_dir / "folders" / f"number {number}" for number in range(1, count + 1)]
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


def burst(run: AgentRun, images: Sequence[Path], folders: Sequence[Path], *, patience_s: float) -> str:
    """Copy all images into all folders as fast as that goes; wait until each was verified, once."""
    begun = time.monotonic()
    for image in images:
        for folder in folders:
            shutil.copyfile(image, folder / image.name)
    copied_s = time.monotonic() - begun
    wanted = len(images) * len(folders)
    wait_for(lambda: _count_good(run) == wanted, f"{wanted} good images", patience_s)
    taken_s = time.monotonic() - begun
    verified = Counter((event.folder_id, event.subject) for event in run.events(EventKind.VERIFIED))
    assert len(verified) == wanted, f"{len(verified)} of {wanted} images were verified"
    assert set(verified.values()) == {1}, [what for what, times in verified.items() if times > 1]
    return (
        f"{wanted:,} images in {len(folders)} folders, copied in {copied_s:.1f} s, each verified once within "
        f"{taken_s:.1f} s ({wanted / taken_s:.0f} a second)"
    )


def one_by_one(run: AgentRun, images: Sequence[Path], folder: Path) -> list[float]:
    """Let images land, each once the one before is verified; return seconds from closed to verification begun."""
    waits = []
    for image in images:
        target = folder / image.name
        shutil.copyfile(image, target)
        closed_at = time.time()
        wait_for(lambda name=image.name: _begun_at(run, name), f"{image.name} to be verified")
        waits.append(_begun_at(run, image.name) - closed_at)
    return sorted(waits)


def _count_good(run: AgentRun) -> int:
    with run.catalog() as catalog, catalog.read() as session:
        query = select(func.count()).select_from(Image).where(Image.state == ImageState.GOOD)
        return session.scalar(query) or 0


def _begun_at(run: AgentRun, name: str) -> float:
    """Return when verification of an image began, in seconds since 1970; 0 if it has not ended yet."""
    with run.catalog() as catalog, catalog.read() as session:
        query = select(Event.facts).where(Event.kind == EventKind.VERIFIED, Event.subject == name)
        facts = session.scalar(query)
    return 0.0 if facts is None else datetime.fromisoformat(str(facts["begun_at"])).timestamp()
