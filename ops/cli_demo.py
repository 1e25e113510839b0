"""`rollforward demo`: the whole of it at work, on a small real volume."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ops.demo_screen import Screen


@click.command(
    epilog="""\b
Examples:
  rollforward demo
  rollforward demo --keep /tmp/demo     then: rollforward chain /tmp/demo/images
  rollforward demo --json

Exit status: 0 if both restored points and the standby disk were proven, 1 if not.""",
)
@click.option(
    "--keep",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Work in this directory, which must be new or empty, and leave everything there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def demo(keep: Path | None, as_json: bool) -> None:
    """See all of it at work on a small real volume, in about half a minute.

    Makes an ext4 volume and starts the agent. Through two days on a fast clock, files in the volume change and
    each state is captured; the agent notices every image, reads it back, and rolls each day up. Then the last
    point and one in the middle are restored and held against the volume as it was: SHA-256 and e2fsck. So is a
    standby disk, which was rolled forward all the while, and is finalized then and read by qemu-img.
    Needs no root, mounts nothing, leaves nothing behind.
    """
    from ops.demo_story import Story
    from ops.interruption import Interruption
    from ops.settings import Settings
    from policies.errors import RollforwardError

    started = time.monotonic()
    time_zone = Settings.from_environment(os.environ).time_zone
    with Interruption() as interruption, _work_dir(keep) as work_dir, _screen(as_json) as screen:
        try:
            good = Story(work_dir, screen, time_zone, interruption.check).play()
            words = (
                "both points and the standby disk are what was captured, bit for bit"
                if good
                else "what came back is not what was captured"
            )
        except RollforwardError as error:
            good, words = False, str(error)
        screen.result(good=good, words=words, seconds=time.monotonic() - started)
    if keep is not None and not as_json:
        click.echo(f"Kept in {keep}: rollforward chain {keep / 'images'}")
    sys.exit(0 if good else 1)


def _screen(as_json: bool) -> Screen:
    """Choose the screen that fits: JSON if asked for, live on a terminal, else plain lines."""
    from rich.console import Console

    from ops.demo_lines import JsonScreen, PlainScreen
    from ops.demo_live import LiveScreen

    if as_json:
        return JsonScreen()
    console = Console(highlight=False)
    return LiveScreen(console) if console.is_terminal else PlainScreen()


@contextmanager
def _work_dir(keep: Path | None) -> Iterator[Path]:
    """Give a directory to work in: a temporary one that goes away, or one that is kept."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise click.UsageError(f"{keep} is not empty")
        yield keep.absolute()
        return
    made = Path(tempfile.mkdtemp(prefix="rollforward-demo-"))
    try:
        yield made
    finally:
        shutil.rmtree(made)
