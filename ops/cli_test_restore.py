"""`rollforward test-restore`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ops.interruption import Interruption
from ops.logs import set_up_logging
from ops.machine_options import MachineWishes, disk_and_machine, machine_options
from ops.point_options import ChosenPoint, choose_point, point_options
from ops.show import plain, print_json
from ops.testing_options import checked_marker
from ops.tether import tethered
from ops.words import VERDICT_COLOURS
from policies.errors import ConfigurationError, RestoreError

if TYPE_CHECKING:
    from hsr.testing_restore.record import RestoreTest
    from hsr.testing_restore.starting import Waiting


_Command = TypeVar("_Command", bound=Callable[..., None])


def _own_options(command: _Command) -> _Command:
    """Add what says when a start went well."""
    options = (
        click.option("--marker", help="Words on its serial console that say that it is up; not blank."),
        click.option(
            "--settled",
            "settled_s",
            type=click.FloatRange(min=1),
            default=20.0,
            metavar="SECONDS",
            help="Without --marker: it is up when its screen stays as it is so long; 20 if not given.",
        ),
        click.option(
            "--limit",
            "limit_s",
            type=click.FloatRange(min=1),
            default=600.0,
            metavar="SECONDS",
            help="Give up then; 600 if not given.",
        ),
        click.option("--screenshot", type=click.Path(path_type=Path), help="File for its last screen, PNG."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command(
    name="test-restore",
    epilog="""\b
Examples:
  rollforward test-restore /backup --volume DATA
  rollforward test-restore /backup --volume WEB01 --boot --marker "login:" --screenshot web01.png
  rollforward test-restore /backup --volume SYSTEM --boot --wrap mbr --settled 30 --json

\b
It ends with 0 if all is good, else with 1, or with what stood in the way of a test. A screen that settled is for you
to look at.
""",
)
@point_options
@click.option("--boot", "starts", is_flag=True, help="Start it, too, on a machine without a network.")
@machine_options
@_own_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def test_restore(
    folder: Path,
    volume: str,
    point: int | None,
    at: datetime | None,
    base: int | None,
    without: tuple[str, ...],
    password_file: Path | None,
    starts: bool,
    wishes: MachineWishes,
    marker: str | None,
    settled_s: float,
    limit_s: float,
    screenshot: Path | None,
    as_json: bool,
) -> None:
    """Test a restore of a point, without restoring it.

    The file systems in it, or in its partitions, are checked by their own programs: ext4, XFS, NTFS, FAT. With --boot
    it is started on a machine without a network, until words appear on its serial console or its screen settles. The
    images stay as they are.
    """
    if not starts and (marker is not None or screenshot is not None):
        raise click.UsageError("--marker and --screenshot take --boot.")
    if screenshot is not None:
        _refuse_screenshot(screenshot)
    marker = checked_marker("--marker", marker)
    from hsr.testing_restore.starting import Waiting

    chosen = choose_point(folder, volume, point, at, base, without, password_file)
    set_up_logging("json" if as_json else "text")
    with Interruption():
        found = _test(chosen, wishes if starts else None, Waiting(marker, settled_s, limit_s))
    if as_json:
        told: dict[str, object] = {"kind": "test-restore", "status": found.verdict.value}
        print_json(told | chosen.fields() | found.fields())
    else:
        _print_words(chosen, found)
    if screenshot is not None and found.start is not None and found.start.screenshot:
        _keep(screenshot, found.start.screenshot)
    sys.exit(0 if found.verdict == "good" else 1)


def _refuse_screenshot(path: Path) -> None:
    """Make sure, before anything is tested, that a screenshot can be written.

    Raises:
        ConfigurationError: the name is taken, or there is no such folder that may be written to.
    """
    if os.path.lexists(path):
        raise ConfigurationError("exists already", path=str(path), hint="--screenshot takes another name.")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        why = "is no folder" if not path.parent.is_dir() else "may not be written to"
        raise ConfigurationError(
            why, path=str(path.parent), hint="--screenshot takes a file in a folder that is there."
        )


def _keep(path: Path, picture: bytes) -> None:
    """Write a screenshot, or nothing.

    Raises:
        RestoreError: it cannot be written; what was found is printed by then.

    Crash: a file that holds a part of it.
    """
    try:
        with path.open("xb") as file:
            try:
                file.write(picture)
                file.flush()
            except OSError:
                path.unlink()
                raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise RestoreError(f"the screenshot is not kept: {reason}", path=str(path)) from error


def _test(chosen: ChosenPoint, wishes: MachineWishes | None, waiting: Waiting) -> RestoreTest:
    from hsr.serving.memory import default_cache_bytes
    from hsr.serving.point import PointReader
    from hsr.testing_restore.file_systems import check_file_systems
    from hsr.testing_restore.record import RestoreTest
    from hsr.testing_restore.starting import start_and_look

    tested_at = datetime.now(UTC)
    with PointReader(chosen.images, default_cache_bytes(), key=chosen.key) as reader:
        file_systems = check_file_systems(reader, tethered)
        start = None
        if wishes is not None:
            disk, machine = disk_and_machine(reader, wishes)
            start = start_and_look(disk, machine, waiting, tethered)
    return RestoreTest(chosen.point.id, tested_at, file_systems, start)


def _print_words(chosen: ChosenPoint, found: RestoreTest) -> None:
    for check in found.file_systems:
        click.echo(f"{_colored(check.verdict)}  {check.place}: {check.contents}, {check.seconds:.1f} s")
        if check.verdict != "good":
            for line in check.words.splitlines()[-8:]:
                click.echo(f"         {plain(line)}")
    if found.start is not None:
        click.echo(f"{_colored(found.start.verdict)}  {found.start.summary}")
    click.echo(f"{_colored(found.verdict)}  {plain(chosen.words)}")


def _colored(verdict: str) -> str:
    return click.style(f"{verdict:7}", fg=VERDICT_COLOURS[verdict])
