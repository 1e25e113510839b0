"""The options by which a new HeadStart job is told what its disks are to be, and where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click

if TYPE_CHECKING:
    from ops.headstart_keeping import JobWishes
    from policies.restore_tests import RestoreTesting

_Command = TypeVar("_Command", bound=Callable[..., None])

_KINDS: Final = ("vhd", "vhd-fixed", "vmdk", "vmdk-flat", "vhdx", "qcow2", "raw")


@dataclass(frozen=True, slots=True)
class DiskWords:
    """What was typed in; see `JobWishes`."""

    location: str
    subfolder: str | None
    kind: str | None
    device: Path | None
    overwrite: bool
    wrap: str
    lag: str
    volumes: tuple[str, ...]

    def wishes(self, job: str, folder: Path, testing: RestoreTesting) -> JobWishes:
        """Return what is wished of a job.

        Args:
            job: its name.
            folder: the managed folder.
            testing: how its disks are tested.

        Raises:
            click.UsageError: it does not go together.
        """
        from hsr.disks.form import DiskKind
        from hsr.wrapping.wrapping import Wrap
        from ops.headstart_keeping import JobWishes

        if self.device is None and self.overwrite:
            raise click.UsageError("--overwrite needs --device: files are never overwritten.")
        if self.device is not None and self.kind not in (None, "raw"):
            raise click.UsageError("A device is raw: leave --format out.")
        return JobWishes(
            job,
            folder,
            self.location,
            self.subfolder,
            DiskKind.DEVICE if self.device is not None else DiskKind(self.kind or "vhd"),
            Wrap(self.wrap),
            self.lag,
            self.volumes,
            testing,
            self.device,
            self.overwrite,
        )


def disk_options(command: _Command) -> _Command:
    """Add the options to a command, which gets `disks`."""

    @wraps(command)
    def gathered(**given: Any) -> None:
        names = DiskWords.__slots__
        disks = DiskWords(**{name: given.pop(name) for name in names})
        command(disks=disks, **given)

    made = cast("_Command", gathered)
    for option in reversed(_OPTIONS):
        made = option(made)
    return made


_OPTIONS: Final = (
    click.option(
        "--location",
        required=True,
        metavar="NAME",
        help="Where its disks are to lie; of a device, what tells of it.",
    ),
    click.option(
        "--subfolder", metavar="PATH", help='Below the location. Default: the folder\'s name; "" for none.'
    ),
    click.option(
        "--format", "kind", type=click.Choice(_KINDS), help="Of its disks. Default: vhd, or raw on a device."
    ),
    click.option(
        "--device",
        type=click.Path(path_type=Path),
        metavar="DEVICE",
        help="Take a block device for the disk of the one volume, instead of a file.",
    ),
    click.option("--overwrite", is_flag=True, help="Whatever lies on the device may go."),
    click.option(
        "--wrap",
        type=click.Choice(("none", "mbr", "gpt")),
        default="none",
        show_default=True,
        help="Put each volume into a partition of its disk.",
    ),
    click.option(
        "--lag", default="0", show_default=True, metavar="0|1h-23h|1d-30d", help="How long it stays behind."
    ),
    click.option(
        "--volume",
        "volumes",
        multiple=True,
        metavar="NAME",
        help="Of which volume; repeatable. Default: all.",
    ),
)
