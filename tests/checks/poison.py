"""Poison: images that end whatever process reads them. They alone are set aside; everything else goes on.

Beside them runs work that takes long: the roll-up of another folder, which is cut off whenever the worker ends.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select

from storage.catalog import Attempt, EventKind, Folder, Image, ImageState, WorkKind
from tests.checks.landing import make_folders, make_images
from tests.command import in_this_process
from tests.integration.agent_run import AgentRun, wait_for

EVENING = datetime(2026, 3, 2, 20, tzinfo=UTC)
NEXT_DAY = datetime(2026, 3, 3, 1, tzinfo=UTC)
REASON = "the worker ended before the work did (3 times)"
_RETRY = ("queue", "retry", "--all", "--state-is", "quarantined")

_IN_THE_WORKER = """
import os, pathlib, signal, sys, time
if "ops.worker" in sys.orig_argv:
    import storage.consolidate as rolling
    import storage.verify as engine
    verify_image, consolidate = engine.verify_image, rolling.consolidate
    def crash(path, **more):
        if str(path) in {poison!r} and pathlib.Path({deadly!r}).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return verify_image(path, **more)
    def take_long(*sources, **more):
        while pathlib.Path({slow!r}).exists():
            time.sleep(0.01)
        return consolidate(*sources, **more)
    engine.verify_image, rolling.consolidate = crash, take_long
"""


def set_aside(place: Path, *, images: int, folders: int, poisoned: int) -> str:
    """Let images land in folders, one of them poison in each of the first few; cure them in the end.

    Args:
        place: for all of it.
        images: how many each folder gets.
        folders: how many there are, besides that of the long work.
        poisoned: how many of them get poison.

    Returns:
        What was shown, in words.
    """
    stock, places = make_images(place, images), make_folders(place, folders)
    poison = [
        folder / stock[number % (images - 1) + 1].name for number, folder in enumerate(places[:poisoned])
    ]
    deadly, slow = place / "deadly", place / "slow"
    for switch in (deadly, slow):
        switch.touch()
    words = {"poison": [str(path) for path in poison], "deadly": str(deadly), "slow": str(slow)}
    (place / "sitecustomize.py").write_text(_IN_THE_WORKER.format(**words))
    with AgentRun(place / "agent", {"PYTHONPATH": str(place)}, more_folders=places) as run:
        run.clock.set(EVENING)
        _land(stock, [run.folder])
        wait_for(lambda: len(_paths(run, ImageState.GOOD)) == images, "the folder of the long work")
        run.clock.set(NEXT_DAY)
        wait_for(lambda: _attempts(run, WorkKind.CONSOLIDATE), "the long work to begin")
        _land(stock, places)
        run.advance_until(lambda: any(one.crashes == 2 for one in _attempts(run, WorkKind.VERIFY)))
        slow.unlink()
        daily = f"{stock[-1].name.removesuffix('.spi')}-cd.spi"
        healthy = {folder / image.name for folder in (*places, run.folder) for image in stock} - set(poison)
        healthy |= {folder / daily for folder in (run.folder, *places[poisoned:])}
        run.advance_until(lambda: _paths(run, ImageState.GOOD) == healthy)
        run.advance_until(lambda: len(run.events(EventKind.QUARANTINED)) >= poisoned)
        _must_be_set_aside(run, poison)
        ends = [line for line in run.log_events("ended, is started again") if line["child"] == "worker 1"]
        assert len(ends) == 3 * poisoned, ends
        deadly.unlink()  # as a version would that reads them
        told = in_this_process(*_RETRY, "--state", run.state_dir, "--json")
        assert told.code == 0, str(told)
        cured = healthy | set(poison) | {folder / daily for folder in places}
        run.advance_until(lambda: _paths(run, ImageState.GOOD) == cured)
        _must_be_once(run, cured)
    return (
        f"{poisoned} of {(folders + 1) * images:,} images ended their worker {len(ends)} times and were set aside; "
        f"{len(healthy):,} others and their roll-ups good; cured by `queue retry`"
    )


def _land(stock: list[Path], folders: list[Path]) -> None:
    for image in stock:
        for folder in folders:
            shutil.copyfile(image, folder / image.name)


def _must_be_set_aside(run: AgentRun, poison: list[Path]) -> None:
    """Just the poison is in quarantine, and whoever looks at the queues is told why."""
    told = run.events(EventKind.QUARANTINED)
    assert sorted(event.subject for event in told) == sorted(path.name for path in poison)
    assert {event.text for event in told} == {REASON}
    listed = in_this_process("queue", "list", "--state", run.state_dir, "--json")
    assert listed.code == 0, str(listed)
    aside = [one for one in listed.objects if one.get("state") == "quarantined"]
    assert len(aside) == len(poison), listed
    assert {one["why"] for one in aside} == {REASON}
    why = in_this_process("why", poison[0], "--state", run.state_dir)
    assert REASON in why.output, str(why)


def _must_be_once(run: AgentRun, cured: set[Path]) -> None:
    assert len(run.events(EventKind.VERIFIED)) == len(cured)
    dailies = [path for path in cured if path.stem.endswith("-cd")]
    assert len(run.events(EventKind.CONSOLIDATED)) == len(dailies)
    assert not _attempts(run)


def _paths(run: AgentRun, state: ImageState) -> set[Path]:
    with run.catalog() as catalog, catalog.read() as session:
        query = select(Folder.path, Image.name).join(Image, Image.folder_id == Folder.id)
        return {Path(folder) / name for folder, name in session.execute(query.where(Image.state == state))}


def _attempts(run: AgentRun, kind: WorkKind | None = None) -> list[Attempt]:
    return [attempt for attempt in run.attempts() if kind in (None, attempt.kind)]
