"""The options of `rollforward capture` that say how a volume is read, and what each combination means."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.capture_source import SourceArgument
from ops.hooks import Hooks
from policies.errors import ConfigurationError

if TYPE_CHECKING:
    from storage.nbd_uri import NbdUri
    from storage.source import Access


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """How the volume is read.

    Attributes:
        source: file, device or export; None if the disk of a guest is read.
        bitmap: name of a dirty bitmap of the export.
        or_whole: whether all is compared where the bitmap does not fit.
        control: QMP socket of the qemu that has the disk.
        node: the disk in it.
        server: where that qemu's NBD server listens, if it runs one already.
        scratch: where what the guest overwrites meanwhile is kept.
        snapshot: what kind of snapshot of the device is read.
        snapshot_size: its room.
        freeze: mount point of a file system that is frozen meanwhile.
        freeze_limit_s: for how many seconds at most.
        before: command that runs first.
        after: command that runs in the end.
        hook_limit_s: how many seconds each of these may take.
        used_only: whether free space of the file system counts as zero.
    """

    source: Path | NbdUri | None
    bitmap: str | None
    or_whole: bool
    control: Path | None
    node: str | None
    server: NbdUri | None
    scratch: Path | None
    snapshot: str | None
    snapshot_size: str
    freeze: Path | None
    freeze_limit_s: float
    before: str | None
    after: str | None
    hook_limit_s: float
    used_only: bool

    def hooks(self, volume: str, folder: Path) -> Hooks:
        """Return the commands that run before and after."""
        source = f"{self.node} of {self.control}" if self.source is None else str(self.source)
        about = {
            "ROLLFORWARD_VOLUME": volume,
            "ROLLFORWARD_FOLDER": str(folder),
            "ROLLFORWARD_SOURCE": source,
        }
        return Hooks(self.before, self.after, self.hook_limit_s, about)

    def access(self, folder: Path) -> Path | Access:
        """Choose the way to the volume.

        Args:
            folder: where images go.

        Raises:
            ConfigurationError: options do not go together.
        """
        from storage.source_bitmap import BitmapAccess
        from storage.source_guest import GuestAccess
        from storage.source_nbd import NbdAccess

        self._check()
        if self.control is not None and self.node is not None:
            return GuestAccess(self.control, self.node, server=self.server, scratch=self.scratch)
        if self.source is None or isinstance(self.source, Path):
            return self._of_path(self.source or Path(), folder)
        if self.bitmap is not None:
            return BitmapAccess(self.source, self.bitmap, or_whole=self.or_whole)
        return NbdAccess(self.source)

    def _of_path(self, path: Path, folder: Path) -> Path | Access:
        from storage.source_device import DeviceAccess, Stillness
        from storage.used_blocks import find_used_blocks

        is_snapshot = self.snapshot is not None
        vouched = self.before is not None and self.after is not None
        if not (is_snapshot or vouched or self.freeze or self.used_only):
            return path
        still = Stillness(self.freeze, self.freeze_limit_s, is_snapshot, self.snapshot_size, vouched)
        return DeviceAccess(path, still, folder, find_used_blocks if self.used_only else None)

    def _check(self) -> None:
        is_guest = self.control is not None or self.node is not None
        if is_guest != (self.source is None) or is_guest != (
            self.control is not None and self.node is not None
        ):
            raise ConfigurationError("name either SOURCE, or --qmp and --node")
        if not is_guest and (self.server is not None or self.scratch is not None):
            raise ConfigurationError("--nbd-server and --scratch go with --qmp")
        if self.bitmap is not None and (is_guest or isinstance(self.source, Path)):
            raise ConfigurationError("--bitmap goes with an NBD export as SOURCE")
        if not isinstance(self.source, Path) and (self.snapshot or self.freeze or self.used_only):
            raise ConfigurationError(
                "--snapshot, --freeze and --used-only go with a file or device as SOURCE"
            )
        if self.or_whole and self.bitmap is None:
            raise ConfigurationError("--or-whole goes with --bitmap")


_OPTIONS = (
    click.argument("source", required=False, type=SourceArgument()),
    click.option("--bitmap", metavar="NAME", help="Read what this dirty bitmap of the NBD export marks."),
    click.option("--or-whole", is_flag=True, help="If the bitmap began at another point, compare all."),
    click.option(
        "--qmp",
        "control",
        metavar="SOCKET",
        type=click.Path(path_type=Path),
        help="Capture the disk of a running guest: the QMP socket of its qemu.",
    ),
    click.option("--node", metavar="NODE", help="The disk in that qemu, by the name of its node."),
    click.option(
        "--nbd-server",
        "server",
        metavar="URI",
        type=SourceArgument(only_exports=True),
        help="Where that qemu's NBD server listens, if it runs one already.",
    ),
    click.option(
        "--scratch",
        metavar="FOLDER",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Where qemu keeps what the guest overwrites during the capture.",
    ),
    click.option(
        "--snapshot", type=click.Choice(["lvm"]), help="Capture a snapshot, made for it and removed after it."
    ),
    click.option(
        "--snapshot-size",
        metavar="SIZE",
        default="20%ORIGIN",
        show_default=True,
        help="Room for what is overwritten meanwhile, as lvcreate takes it.",
    ),
    click.option(
        "--freeze",
        metavar="MOUNTPOINT",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Freeze this file system for the capture, or while the snapshot is made.",
    ),
    click.option(
        "--freeze-limit",
        "freeze_limit_s",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        default=300.0,
        show_default=True,
        help="Thaw it after so long in any case; the capture fails then.",
    ),
    click.option("--before", metavar="COMMAND", help="Run this first; if it fails, nothing is captured."),
    click.option("--after", metavar="COMMAND", help="Run this in the end, whatever happened."),
    click.option(
        "--hook-limit",
        "hook_limit_s",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        default=600.0,
        show_default=True,
        help="End --before or --after when it takes so long.",
    ),
    click.option("--used-only", is_flag=True, help="Take free space of ext4, XFS or NTFS as zeros."),
)


def reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add SOURCE and all these options to a command; it gets them as `reading`."""
    names = [field.name for field in dataclasses.fields(Reading)]

    @functools.wraps(command)
    def gathered(**given: object) -> None:
        reading = Reading(**{name: given.pop(name) for name in names})  # type: ignore[arg-type]
        command(reading=reading, **given)

    wrapped: Callable[..., None] = gathered
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
