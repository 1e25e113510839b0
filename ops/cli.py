"""The one command, `rollforward`: a sub-command is imported when it is called, so that help is quick."""

from __future__ import annotations

import resource
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Final

import click

from policies.errors import RollforwardError

_COMMANDS = {
    "capture": ("ops.cli_capture:capture", "Capture a volume: a base first, then incrementals."),
    "verify": ("ops.cli_verify:verify", "Prove images, byte for byte."),
    "chain": ("ops.cli_chain:chain", "Show a folder's points, images, gaps and forks."),
    "consolidate": ("ops.cli_consolidate:consolidate", "Roll images up into one."),
    "squash": ("ops.cli_squash:squash", "Code anew what takes more room than it should."),
    "restore": ("ops.cli_restore:restore", "Restore a point in time to a file or a device."),
    "password": ("ops.cli_password:password", "Change, add or remove the password of a volume."),
    "serve": ("ops.cli_serve:serve", "Serve a point in time as a read-only disk over NBD."),
    "ls": ("ops.cli_files:ls", "List files at a point in time: ext4, NTFS."),
    "cp": ("ops.cli_files:cp", "Copy files out of a point in time."),
    "mount": ("ops.cli_mount:mount", "Mount a point in time, read-only."),
    "unmount": ("ops.cli_mount:unmount", "Take a mount away."),
    "import": ("ops.cli_import:import_image", "Capture the disk in a qcow2, VHD, VHDX, VMDK or raw image."),
    "export": ("ops.cli_export:export", "Write a point as a disk image for virtual machines."),
    "folder": ("ops.cli_folder:folder", "Manage folders: add, set, show, list, remove."),
    "settings": ("ops.cli_settings:settings", "Show and change what holds for all folders."),
    "config": ("ops.cli_config:config", "Write or apply all settings and folders as one file."),
    "plan": ("ops.cli_plan:plan", "Show what is due and why; play a year forward."),
    "why": ("ops.cli_why:why", "Say why an image is kept or will go."),
    "hold": ("ops.cli_hold:hold", "Keep an image or a point, whatever the policy says."),
    "release": ("ops.cli_hold:release", "Give a hold up."),
    "holds": ("ops.cli_hold:holds", "List the holds."),
    "freeze": ("ops.cli_freeze:freeze", "Have nothing removed from a folder."),
    "unfreeze": ("ops.cli_freeze:unfreeze", "Say that all is well: images may be removed again."),
    "start": ("ops.cli_start:start", "Do now whatever is due, whatever the control time."),
    "queue": ("ops.cli_queue:queue", "See what waits, runs or failed; retry it, or drop it."),
    "status": ("ops.cli_status:status", "Show how the agent and its folders stand."),
    "notify": ("ops.cli_notify:notify", "Notices: who is told of what, a test, what is open."),
    "catalogue": ("ops.cli_catalogue:catalogue", "Show the agent's catalogue; build a lost one anew."),
    "up": ("ops.cli_agent:up", "Run the agent: watch, verify, roll up."),
    "systemd": ("ops.cli_systemd:systemd", "Print a systemd unit that runs the agent."),
    "about": ("ops.cli_status:about", "Show the version, the licence, and what it runs on."),
    "demo": ("ops.cli_demo:demo", "See all of it at work on a small real volume."),
}


_OPEN_FILES = 65_536


class _LazyGroup(click.Group):
    """A group that knows its commands by name and short help, and imports one only when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in _COMMANDS.items()])


_HELP: Final = """Look after chains of volume backup images.

\b
rollforward capture /dev/vg/data --into /backup --volume DATA
rollforward verify /backup
rollforward chain /backup --volume DATA
rollforward restore /backup --volume DATA --at "2026-11-20 08:00" --to /tmp/data.raw
rollforward up --folder /backup

`rollforward COMMAND --help` says more, with examples.
"""


@click.group(
    cls=_LazyGroup,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="rollforward", prog_name="rollforward")
def cli() -> None:
    """Run the command line."""


def _allow_open_files() -> None:
    """Have as many open files as the system grants: a chain may have thousands of images, open all at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> None:
    """Run the command line; expected errors end with a message, a hint and the error's exit code."""
    _allow_open_files()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what a terminal's alphabet lacks is shown as an escape
            stream.reconfigure(errors="backslashreplace")
    try:
        cli()
    except RollforwardError as error:
        from ops.show import show_error

        show_error(error, as_json="--json" in sys.argv[1:])
        sys.exit(error.exit_code)
