"""The options by which commands are told what virtual machine to start a point on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, TypeVar, cast

import click

from ops.show import plain
from policies.errors import ConfigurationError

if TYPE_CHECKING:
    from hsr.booting.machine import Machine
    from hsr.serving.point import PointReader
    from hsr.serving.readable import Readable

_Command = TypeVar("_Command", bound=Callable[..., None])

BUSES = ("sata", "virtio", "scsi", "nvme", "ide")


@dataclass(frozen=True, slots=True)
class MachineWishes:
    """What was asked for.

    Attributes:
        wrap: what the volume is wrapped in.
        memory_mib: memory, in MiB.
        processors: how many.
        bus: what the disk hangs on.
        firmware: bios or uefi; None for what the disk is made for.
        accelerator: kvm or tcg; None for the best that works.
    """

    wrap: str
    memory_mib: int
    processors: int
    bus: str
    firmware: str | None
    accelerator: str | None


def wrap_option(command: _Command) -> _Command:
    """Add --wrap to a command."""
    return click.option(
        "--wrap",
        type=click.Choice(("none", "mbr", "gpt")),
        default="none",
        help="Put the volume into a partition of a disk. Only if it was no whole disk.",
    )(command)


def machine_options(command: _Command) -> _Command:
    """Add --wrap, --memory, --processors, --bus, --firmware and --accelerator to a command, which gets `wishes`."""

    @wraps(command)
    def gathered(
        *,
        wrap: str,
        memory: int,
        processors: int,
        bus: str,
        firmware: str | None,
        accelerator: str | None,
        **others: object,
    ) -> None:
        command(wishes=MachineWishes(wrap, memory, processors, bus, firmware, accelerator), **others)

    options = (
        wrap_option,
        click.option(
            "--memory", type=click.IntRange(min=16), default=2048, metavar="MIB", help="2,048 if not given."
        ),
        click.option("--processors", type=click.IntRange(1, 255), default=2, help="2 if not given."),
        click.option(
            "--bus",
            type=click.Choice(BUSES),
            default="sata",
            help="What the disk hangs on: the guest needs a driver for it. sata if not given.",
        ),
        click.option(
            "--firmware",
            type=click.Choice(("bios", "uefi")),
            help="What starts the disk. If not given, uefi only for a disk that nothing else could start.",
        ),
        click.option(
            "--accelerator",
            type=click.Choice(("kvm", "tcg")),
            help="If not given, kvm where it works, else tcg, which is slow.",
        ),
    )
    made = cast("_Command", gathered)
    for option in reversed(options):
        made = option(made)
    return made


def disk_and_machine(reader: PointReader, wishes: MachineWishes) -> tuple[Readable, Machine]:
    """Make a disk of a point, and choose a machine for it. A disk that says nowhere that it starts is told of.

    Raises:
        ConfigurationError: the volume cannot be wrapped like that.
        FormatError: an image is damaged.
        StorageError: one cannot be read.
    """
    from hsr.booting.machine import Accelerator, Bus, Firmware, Machine
    from hsr.wrapping.contents import has_efi_system, is_startable
    from hsr.wrapping.wrapped_point import disk_at, read_start
    from hsr.wrapping.wrapping import Wrap

    disk = disk_at(reader, Wrap(wishes.wrap))
    start = read_start(disk if wishes.wrap == "none" else reader)
    chosen = Firmware.UEFI if has_efi_system(start) and not any(start[:440]) else Firmware.BIOS
    firmware = Firmware(wishes.firmware) if wishes.firmware else chosen
    if firmware is Firmware.BIOS and not is_startable(start):
        click.echo(
            "note: nothing says that this starts; see docs/wrapping.md for what does, with --wrap or without",
            err=True,
        )
    return disk, Machine(
        memory_mib=wishes.memory_mib,
        processors=wishes.processors,
        bus=Bus(wishes.bus),
        firmware=firmware,
        accelerator=Accelerator(wishes.accelerator) if wishes.accelerator else None,
    )


def network_of(told: str) -> str | None:
    """Read what --network says: none, user, or bridge:NAME.

    Raises:
        ConfigurationError: it is none of these.
    """
    if told == "none":
        return None
    kind, _, name = told.partition(":")
    if told == "user" or (kind == "bridge" and name and name.isascii() and name.isprintable()):
        return name or told
    raise ConfigurationError(
        f"is no network: {plain(told)}", path="--network", hint="Say none, user, or bridge:NAME."
    )
