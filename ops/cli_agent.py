"""`rollforward up`: the agent."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ops.path_type import FolderType


@click.command(
    short_help="Run the agent: watch folders, verify what lands, roll up what is due.",
    epilog="""\b
Examples:
  rollforward up --folder /srv/images
  rollforward up --folder /srv/images --time-zone America/New_York
  rollforward up --state /tmp/trial --folder /tmp/images --clock 2026-03-02T06:00:00Z@720

\b
Environment:
  REDIS_URL              a Redis server to use in place of the embedded one
  ROLLFORWARD_STATE      as --state
  ROLLFORWARD_CATALOGUE  database URL in place of STATE/catalogue.sqlite
  ROLLFORWARD_TIME_ZONE  as --time-zone
  ROLLFORWARD_CLOCK      as --clock
  ROLLFORWARD_SETTLE_S   seconds an incomplete file must stand still to be judged (30)
  ROLLFORWARD_RESCAN_S   seconds between scans of a folder without an event (900)
  ROLLFORWARD_POLL_S     seconds between looks at a folder on a network file system (5)
  ROLLFORWARD_SILENCE_S  seconds without an answer after which a folder counts as lost (60)
  ROLLFORWARD_WORKERS    worker processes (1)""",
)
@click.option(
    "--folder",
    "folders",
    multiple=True,
    metavar="PATH",
    type=FolderType(),
    help="Manage this folder from now on; it is remembered. May be given several times.",
)
@click.option(
    "--state",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Private directory of the agent (/var/lib/rollforward for root, else in ~/.local/state).",
)
@click.option(
    "--time-zone", metavar="ZONE", help="Days of the given folders follow it. Default: that of this machine."
)
@click.option(
    "--clock",
    metavar="CLOCK",
    help="For trials: START@RATE runs RATE times as fast, file:PATH shows the time in a file.",
)
@click.option("--json", "as_json", is_flag=True, help="Log as JSON, one object a line, on standard output.")
def up(
    folders: tuple[Path, ...], state: str | None, time_zone: str | None, clock: str | None, as_json: bool
) -> None:
    """Run the agent until it is asked to stop (Ctrl-C, SIGTERM).

    It notices images that land in its folders, reads each back and verifies it, and rolls the incrementals of
    each finished day up into a daily (-cd). It needs no other service: a small Redis runs inside. Whatever is
    interrupted, by a reboot too, goes on with the next start.
    """
    from ops.agent import run_agent
    from ops.logs import set_up_logging
    from ops.settings import Settings

    wants_json = as_json or ("ROLLFORWARD_LOG" not in os.environ and not sys.stderr.isatty())
    settings = Settings.from_environment(
        os.environ,
        state_dir=state,
        time_zone=time_zone,
        clock=clock,
        log_format="json" if wants_json else None,
    )
    set_up_logging(settings.log_format, stream=None if as_json else sys.stderr)
    run_agent(settings, folders, rezone=bool(time_zone or os.environ.get("ROLLFORWARD_TIME_ZONE")))
