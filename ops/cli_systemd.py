"""`rollforward systemd`: the unit that runs the agent."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Final

import click

_UNIT: Final = """\
# Written by `rollforward systemd`. To use it:
#   rollforward systemd > /etc/systemd/system/rollforward.service
#   systemctl daemon-reload && systemctl enable --now rollforward

[Unit]
Description=rollforward: verifies, rolls up and ages out backup images
Documentation=man:systemd.service(5)
# Folders, Redis and PostgreSQL may come later: the agent waits for them, and says so.
After=network-online.target remote-fs.target postgresql.service redis.service
Wants=network-online.target

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
# A database server that is not there yet is waited for.
TimeoutStartSec=infinity
WatchdogSec=120
Restart=always
RestartSec=5
# The agent asks its own processes to stop, and lets go of work unharmed.
KillMode=mixed
TimeoutStopSec={stop_s}
# The agent keeps to its own share of the processors (`rollforward settings`: performance.cpu_percent). This is
# an outer limit on top, over all its processes; 100% is one processor:
#CPUQuota=150%
Nice=5
IOSchedulingClass=idle
LimitNOFILE=65536
UMask=0077
StateDirectory=rollforward
StateDirectoryMode=0700
NoNewPrivileges=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes

[Install]
WantedBy=multi-user.target
"""

_STOP_S: Final = 90


@click.command(
    short_help="Print a systemd unit that runs the agent.",
    epilog="""\b
Examples:
  rollforward systemd > /etc/systemd/system/rollforward.service
  rollforward systemd --state /srv/rollforward > /etc/systemd/system/rollforward.service
  systemctl daemon-reload && systemctl enable --now rollforward""",
)
@click.option(
    "--state",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/var/lib/rollforward"),
    show_default=True,
    help="Private directory of the agent.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as a JSON object with the key `unit`.")
def systemd(state: Path, *, as_json: bool) -> None:
    """Print a systemd unit for this installation.

    systemd starts the agent, starts it again should it end or hang, and stops it gracefully.
    """
    program = Path(sys.argv[0]).absolute()
    command = [str(program)] if program.name == "rollforward" else [sys.executable, "-P", "-m", "ops"]
    words = [*command, "up", "--state", str(state.absolute()), "--json"]
    unit = _UNIT.format(command=" ".join(map(_escaped, words)), stop_s=_STOP_S)
    if as_json:
        import json

        click.echo(json.dumps({"unit": unit}))
    else:
        click.echo(unit, nl=False)


def _escaped(word: str) -> str:
    r"""Write a word as ExecStart= takes it.

    *Source:* systemd.service(5), command lines: % and $ are doubled, a word with spaces stands in quotes.
    """
    text = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    if shlex.quote(word) == word:
        return text
    return '"' + text.replace('"', '\\"') + '"'
