"""`rollforward boot`."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ops.address_type import AddressType
from ops.interruption import Interruption
from ops.logs import set_up_logging
from ops.machine_options import MachineWishes, disk_and_machine, machine_options, network_of
from ops.point_options import ChosenPoint, choose_point, point_options
from ops.show import plain, print_json
from ops.tether import tethered
from policies.errors import ConfigurationError, RestoreError

if TYPE_CHECKING:
    from hsr.booting.guest import Guest
    from hsr.booting.machine import Machine
    from hsr.booting.overlay import Overlay

    Dressed = Callable[[Machine], Machine]

_VNC_PORTS = range(5900, 65_536)


_Command = TypeVar("_Command", bound=Callable[..., None])


def _own_options(command: _Command) -> _Command:
    """Add what only a machine has that somebody works with."""
    options = (
        click.option(
            "--network",
            "told_network",
            default="none",
            metavar="none|user|bridge:NAME",
            help="Network of the guest: none (if not given), what this user reaches, or a bridge.",
        ),
        click.option(
            "--display",
            type=click.Choice(("none", "gtk", "sdl")),
            default="none",
            help="A window of its own.",
        ),
        click.option(
            "--vnc", type=AddressType(), help="Show its screen by VNC; loopback only, port 5900 or more."
        ),
        click.option(
            "--serial",
            type=click.Path(path_type=Path),
            help="File for what it says on its serial port; - for here.",
        ),
        click.option(
            "--qmp",
            type=click.Path(path_type=Path),
            help="Socket on which others control it; its disk is disk0.",
        ),
        click.option(
            "--keep-overlay",
            "kept",
            type=click.Path(path_type=Path),
            help="File for what it writes: made, or gone on with. Else that is gone when it ends.",
        ),
        click.option(
            "--stay",
            is_flag=True,
            help="When it switches itself off, keep its disk: to be captured by --qmp.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command(
    epilog="""\b
Examples:
  rollforward boot /backup --volume WEB01 --vnc 127.0.0.1:5901
  rollforward boot /backup --volume WEB01 --point 17 --serial - --memory 4096
  rollforward boot /backup --volume SYSTEM --wrap mbr --display gtk
  rollforward boot /backup --volume DB01 --network bridge:br0 --keep-overlay db01.qcow2 --qmp /run/db01.qmp

\b
While the last one runs, what the guest writes goes on the chain of its volume:
  rollforward capture --qmp /run/db01.qmp --node disk0 --into /backup --volume DB01
"""
)
@point_options
@machine_options
@_own_options
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON object when it runs, and one when it ended."
)
def boot(
    folder: Path,
    volume: str,
    point: int | None,
    at: datetime | None,
    base: int | None,
    without: tuple[str, ...],
    password_file: Path | None,
    wishes: MachineWishes,
    told_network: str,
    display: str,
    vnc: tuple[str, int] | None,
    serial: Path | None,
    qmp: Path | None,
    kept: Path | None,
    stay: bool,
    as_json: bool,
) -> None:
    """Start a virtual machine on a point in time, in seconds, straight from its images.

    The machine reads the point as `serve` would give it, and writes to an overlay: the images stay as they are. It has
    no network unless told. It runs until it switches itself off, or until Ctrl-C, which is like pulling its plug.
    """
    _check_vnc(vnc)
    _check_names(serial, qmp)
    network = network_of(told_network)
    chosen = choose_point(folder, volume, point, at, base, without, password_file)
    set_up_logging("json" if as_json else "text")

    def dressed(machine: Machine) -> Machine:
        here = serial == Path("-")
        return replace(
            machine,
            network=network,
            display=display,
            vnc=vnc,
            serial=None if here else serial,
            serial_here=here,
            control=(qmp,) if qmp is not None else (),
            stays=stay,
        )

    with Interruption():
        _boot(chosen, wishes, dressed, kept, as_json)


def _check_names(serial: Path | None, qmp: Path | None) -> None:
    """Keep qemu from writing over what is there: it empties the one file and replaces the other."""
    if serial is not None and serial.is_file():
        raise ConfigurationError(
            "exists already", path=str(serial), hint="Name a file that is not there yet."
        )
    if qmp is not None and os.path.lexists(qmp) and not qmp.is_socket():
        raise ConfigurationError("exists already, and is no socket", path=str(qmp))


def _check_vnc(vnc: tuple[str, int] | None) -> None:
    if vnc is None:
        return
    if not ipaddress.ip_address(vnc[0]).is_loopback:
        raise ConfigurationError(
            "is not a loopback address: whoever reaches it would be at the guest's keyboard",
            path=vnc[0],
            hint="Say --vnc 127.0.0.1:5901, and reach it through an SSH tunnel.",
        )
    if vnc[1] not in _VNC_PORTS:
        raise ConfigurationError("is no port for VNC", path=str(vnc[1]), expected="5900 or more")


def _boot(
    chosen: ChosenPoint, wishes: MachineWishes, dressed: Dressed, kept: Path | None, as_json: bool
) -> None:
    from hsr.booting.guest import running_guest
    from hsr.booting.overlay import kept_overlay, passing_overlay
    from hsr.serving.background import served_in_background
    from hsr.serving.memory import default_cache_bytes
    from hsr.serving.point import PointReader

    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(PointReader(chosen.images, default_cache_bytes(), key=chosen.key))
        disk, machine = disk_and_machine(reader, wishes)
        machine = dressed(machine)
        over = f"rollforward-{chosen.point.id.hex()}-{wishes.wrap}"
        overlay: Overlay = (
            stack.enter_context(passing_overlay(disk.size_bytes))
            if kept is None
            else kept_overlay(kept, disk.size_bytes, over)
        )
        served = stack.enter_context(served_in_background(disk, "serve"))
        guest = stack.enter_context(running_guest(machine, served.socket, overlay, tethered))
        _tell_running(chosen, machine, guest, as_json)
        try:
            status = guest.wait(lambda words: click.echo(f"note: {words}", err=True))
        finally:
            if served.failure is not None:
                click.echo(f"note: the guest met damage: {plain(str(served.failure))}", err=True)
        if status != 0:
            raise RestoreError(f"the machine ended with status {status}")
        if as_json:
            print_json({"kind": "boot", "status": "ended"} | chosen.fields())
        else:
            click.echo("The guest switched itself off.")


def _tell_running(chosen: ChosenPoint, machine: Machine, guest: Guest, as_json: bool) -> None:
    vnc = None if machine.vnc is None else f"{machine.vnc[0]}:{machine.vnc[1]}"
    if as_json:
        told: dict[str, object] = {"kind": "boot", "status": "running"}
        own = {
            "accelerator": guest.accelerator.value,
            "firmware": machine.firmware.value,
            "ready_s": round(guest.ready_s, 3),
            "vnc": vnc,
        }
        print_json(told | chosen.fields() | own)
        return
    seen = f", screen at {vnc}" if vnc else ""
    click.echo(f"Running {plain(chosen.words)}{seen}, by {guest.accelerator}\nCtrl-C pulls its plug.")
