"""The disk of a running guest as the source of a capture: one moment of it, while the guest writes on.

In one transaction, qemu begins to keep aside what the guest overwrites, starts a new dirty bitmap and copies the
marks of the old one. The moment is then exported over NBD. The old bitmap goes on recording until the image is
published; so whatever fails, the next capture finds a bitmap that knows all since the last published point.

Source: qemu's docs/interop/bitmaps.rst and docs/interop/live-block-operations.rst (image fleecing).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from policies.errors import SourceError
from storage.bitmap_names import bitmap_name, keeper_tag
from storage.guest_disk import GuestDisk
from storage.nbd_uri import NbdUri
from storage.qmp import QmpClient
from storage.source import CaptureStep
from storage.source_nbd import NbdSource

_SOCKET_NAME_MAX: Final = 107


class GuestAccess:
    """Opens one moment of a node of a running qemu, or qemu-storage-daemon.

    Args:
        control: its QMP socket.
        node: name of the node: the guest's disk.
        server: where its NBD server listens; None to have one started for the time of the capture.
        scratch: folder that qemu can write to; what the guest overwrites meanwhile is kept there.

    Attributes:
        notes: what the caller should be told.
        reads_marked: whether only what a bitmap marks was read.
    """

    def __init__(
        self, control: Path, node: str, *, server: NbdUri | None = None, scratch: Path | None = None
    ) -> None:
        self._control = control
        self._node = node
        self._server = server
        self._scratch = scratch or Path(tempfile.gettempdir())
        self.notes: list[str] = []
        self.reads_marked = False

    @contextmanager
    def open(self, step: CaptureStep) -> Iterator[GuestSource]:
        """Hold a moment of the disk while the context lasts.

        Raises:
            SourceError: qemu refuses, or hangs up.

        Crash: leaves job, export, nodes and server in qemu, a second bitmap, and a folder; the next capture of the
            volume removes them. The bitmap that began at the last published point records on.
        """
        tag = keeper_tag(step.keeper)
        with QmpClient(self._control) as qmp:
            disk = GuestDisk(qmp, self._node, tag)
            old, new = disk.bitmap_of(step), bitmap_name(step.point_id, tag)
            if old is None and step.parent is not None:
                number = step.parent.number
                self.notes.append(f"no dirty bitmap of {self._node} began at point {number}: all was read")
            self.reads_marked = old is not None
            before = disk.kept_bitmaps()
            disk.tidy(before, self.notes.append)
            kept = before
            try:
                with self._moment(disk, qmp.peer(), old, new) as source:
                    yield source
                kept = frozenset({new})
            finally:
                disk.tidy(kept, self.notes.append)

    @contextmanager
    def _moment(
        self, disk: GuestDisk, peer: tuple[int, int], old: str | None, new: str
    ) -> Iterator[GuestSource]:
        self._sweep(disk)
        with self._folder(disk, peer) as folder:
            if self._server is None:
                _refuse_long_name(disk.socket_in(Path(folder)))
            disk.hold(Path(folder), old, new)
            uri = disk.serve(self._server, Path(folder), with_marks=old is not None)
            called = f"{self._node} of {self._control}"
            with NbdSource(uri, bitmap=disk.marks if old else None, called=called) as source:
                yield GuestSource(source, disk)

    def _folder(self, disk: GuestDisk, peer: tuple[int, int]) -> tempfile.TemporaryDirectory[str]:
        """Make a folder that qemu can write to."""
        try:
            made = tempfile.TemporaryDirectory(
                prefix=disk.folder_prefix, dir=self._scratch, ignore_cleanup_errors=True
            )
            try:
                os.chown(made.name, *peer)
            except BaseException:
                made.cleanup()
                raise
        except OSError as error:
            raise SourceError(
                f"no folder for what the guest overwrites can be made: {error.strerror}",
                path=str(self._scratch),
                hint="Run this as root or as qemu's own user, and name a folder with room, with --scratch.",
            ) from error
        return made

    def _sweep(self, disk: GuestDisk) -> None:
        """Remove the folders of captures that were killed."""
        for stale in self._scratch.glob(f"{disk.folder_prefix}*"):
            try:
                shutil.rmtree(stale)
            except OSError as error:
                self.notes.append(f"{stale} is left of a capture that was killed: {error.strerror}")


def _refuse_long_name(socket: Path) -> None:
    """Make sure that a socket's name fits where qemu has to put it.

    Source: unix(7), `sun_path`: 108 bytes with the zero at its end.
    """
    if len(os.fsencode(socket)) > _SOCKET_NAME_MAX:
        raise SourceError(
            "its name is too long for the socket of qemu's NBD server",
            path=str(socket),
            expected=f"at most {_SOCKET_NAME_MAX} bytes",
            actual=f"{len(os.fsencode(socket))}",
            hint="Name a folder with a shorter name, with --scratch.",
        )


class GuestSource:
    """The export of a moment, which counts only as long as qemu keeps it.

    Args:
        source: the export.
        disk: whose moment it is.
    """

    def __init__(self, source: NbdSource, disk: GuestDisk) -> None:
        self._disk = disk
        self.name = source.name
        self.size_bytes = source.size_bytes
        self.facts: Mapping[str, object] = source.facts
        self.read_into = source.read_into
        self.read_pieces = source.read_pieces
        self.next_stored = source.next_stored
        self.marked = source.marked

    def confirm(self) -> None:
        """Make sure that whatever the guest overwrote until now was kept aside."""
        self._disk.confirm()
