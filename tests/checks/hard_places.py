"""Places that refuse: read-only, not readable, full. Each is a clear state, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

from storage.catalog import EventKind
from tests.checks.landing import make_images
from tests.command import in_this_process
from tests.commands import run as run_tool
from tests.commands import sha256_of
from tests.integration.agent_run import AgentRun, wait_for
from tests.loop import small_file_system

EVENING = datetime(2026, 3, 2, 20, tzinfo=UTC)
NEXT_DAY = datetime(2026, 3, 3, 1, tzinfo=UTC)
HELPLESS = "exec setpriv --bounding-set=-dac_override,-dac_read_search --"
"""Runs root's programs without root's leave to read whatever it likes."""

_SMALL_BYTES = 24 << 20


def read_only_folder(place: Path, images: int) -> str:
    """A folder is mounted read-only when its day ends; what is there stays good, and work goes on once it may."""
    stock = make_images(place, images)
    with _bound(place) as folder, AgentRun(place / "agent", more_folders=[folder]) as run:
        run.clock.set(EVENING)
        _land(stock, folder)
        run.wait_good(*_names(stock))
        run_tool("mount", "-o", "remount,bind,ro", str(folder))
        run.clock.set(NEXT_DAY)
        said = _until_told(run, "Read-only file system")
        assert run.is_good(*_names(stock))
        run_tool("mount", "-o", "remount,bind,rw", str(folder))
        run.advance_until(lambda: run.is_good(_daily(stock)))
        _must_be_whole(run, stock, folder)
    return f"told ({said}), rolled up once it could be written"


def unreadable_folder(place: Path, images: int) -> str:
    """A folder may not be read any more: it is lost, its images stay as they were, and it comes back by itself."""
    stock = make_images(place, images)
    with _helpless(place) as run:
        run.clock.set(EVENING)
        _land(stock, run.folder)
        run.wait_good(*_names(stock))
        run.folder.chmod(0)
        try:
            wait_for(lambda: run.folders()[0].problem, "the folder to be lost")
            said = str(run.folders()[0].problem)
            run.clock.set(NEXT_DAY)
            told = in_this_process("status", "--state", run.state_dir)
            assert said in told.output, str(told)
            assert run.is_good(*_names(stock))
            assert len(run.events(EventKind.FOLDER_LOST)) == 1
        finally:
            run.folder.chmod(0o755)
        run.advance_until(lambda: run.is_good(_daily(stock)))
        _must_be_whole(run, stock, run.folder)
        assert not run.events(EventKind.MISSING)
    return f"lost ({said}), and back by itself"


def full_folder(place: Path, images: int) -> str:
    """A folder's disk is full when its day ends: that is told, nothing half-written stays, and room is all it takes."""
    stock = make_images(place, images)
    with small_file_system(place, _SMALL_BYTES) as disk:
        folder = disk / "the accountant's büro"
        folder.mkdir()
        with AgentRun(place / "agent", more_folders=[folder]) as run:
            run.clock.set(EVENING)
            _land(stock, folder)
            run.wait_good(*_names(stock))
            _fill(disk)
            run.clock.set(NEXT_DAY)
            said = _until_told(run, "disk is full")
            assert {path.name for path in folder.glob("*.sp?")} == set(_names(stock))
            assert run.is_good(*_names(stock))
            (disk / "ballast").unlink()
            run.advance_until(lambda: run.is_good(_daily(stock)))
            _must_be_whole(run, stock, folder)
    return f"told ({said}), rolled up once there was room"


def full_state(place: Path, images: int) -> str:
    """The disk of the state directory is full while images land: that is told; with room each is verified."""
    stock = make_images(place, images)
    with small_file_system(place, _SMALL_BYTES) as disk:
        run = AgentRun(place / "agent")
        run.state_dir = disk / "state"
        with run:
            run.clock.set(EVENING)
            _land(stock[:1], run.folder)
            run.wait_good(stock[0].name)
            _fill(disk)
            _land(stock[1:], run.folder)
            wait_for(lambda: _is_said(run, "full"), "the full disk to be told in the log")
            _must_say_nothing_of(run, stock[1:])
            (disk / "ballast").unlink()
            run.advance_until(lambda: run.is_good(*_names(stock)))
            run.clock.set(NEXT_DAY)
            run.advance_until(lambda: run.is_good(_daily(stock)))
            _must_be_whole(run, stock, run.folder)
            for image in stock:
                assert len(run.events(EventKind.VERIFIED, image.name)) == 1
            assert not run.events(EventKind.QUARANTINED)
    return f"{len(stock):,} images verified once there was room"


Check = Callable[[Path, int], str]
CHECKS: tuple[Check, ...] = (read_only_folder, unreadable_folder, full_folder, full_state)


@contextmanager
def _bound(place: Path) -> Iterator[Path]:
    """Give a folder that can be made read-only: it is mounted on itself."""
    folder = place / "büro's share"
    folder.mkdir()
    run_tool("mount", "--bind", str(folder), str(folder))
    try:
        yield folder
    finally:
        run_tool("umount", str(folder))


@contextmanager
def _helpless(place: Path) -> Iterator[AgentRun]:
    """Run an agent that may only read what it is allowed to."""
    python = place / "python"
    python.write_text(f'#!/bin/sh\n{HELPLESS} {sys.executable} "$@"\n')
    python.chmod(0o755)
    with ExitStack() as stack:
        with patch.object(sys, "executable", str(python)):
            run = stack.enter_context(AgentRun(place / "agent"))
        yield run


def _land(stock: list[Path], folder: Path) -> None:
    for image in stock:
        shutil.copyfile(image, folder / image.name)


def _names(stock: list[Path]) -> list[str]:
    return [image.name for image in stock]


def _daily(stock: list[Path]) -> str:
    return f"{stock[-1].name.removesuffix('.spi')}-cd.spi"


def _until_told(run: AgentRun, words: str) -> str:
    """Wait until the event log tells of trouble in these words; a person who asks for the plan is told, too."""

    def told() -> list[str]:
        return [event.text for event in run.events(EventKind.FAILED) if words in event.text]

    wait_for(told, f"failed work for {words!r}")
    wait_for(lambda: words in _plan(run), f"a plan that waits for {words!r}")
    assert not run.events(EventKind.QUARANTINED)
    return words


def _plan(run: AgentRun) -> str:
    asked = in_this_process("plan", "--state", run.state_dir)
    assert asked.code == 0, str(asked)
    return asked.output


def _is_said(run: AgentRun, words: str) -> bool:
    return any(words in str(line["event"]) for line in run.log_lines())


def _must_say_nothing_of(run: AgentRun, images: list[Path]) -> None:
    """Nothing is said to have happened that was not recorded."""
    said = [line for line in run.log_lines() if line.get("subject") in _names(images)]
    assert len(said) == len([name for name in _names(images) if name in run.images()]), said


def _fill(disk: Path) -> None:
    """Leave no byte of room."""
    with (disk / "ballast").open("wb") as file:
        for piece in (1 << 20, 4096):
            try:
                while True:
                    os.write(file.fileno(), bytes(piece))
            except OSError:
                continue


def _must_be_whole(run: AgentRun, stock: list[Path], folder: Path) -> None:
    """Each image is what was captured, nothing half-written is left, and no program came to grief."""
    for image in stock:
        assert sha256_of(folder / image.name) == sha256_of(image)
    assert not list(folder.glob(".*.rf-partial*"))
    assert "Traceback" not in run.log.read_text()
