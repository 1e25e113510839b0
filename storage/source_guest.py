"""The disk of a running guest as the source of a capture: one moment of it, while the guest writes on.

In one transaction, qemu begins to keep aside what the guest overwrites, starts a new dirty bitmap and copies the
marks of the old one. The moment is then exported over NBD. The old bitmap goes on recording until the image is
published; so whatever fails, the next capture finds a bitmap that knows all since the last published point.

Source: qemu's docs/interop/bitmaps.rst and docs/interop/live-block-operations.rst (image fleecing).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from storage.bitmap_names import bitmap_name, keeper_tag
from storage.guest_disk import GuestDisk
from storage.nbd_uri import NbdUri
from storage.qmp import QmpClient
from storage.source import CaptureStep
from storage.source_nbd import NbdSource


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

        Crash: leaves job, export and nodes in qemu, and a second bitmap; the next capture of the volume removes
            them. The bitmap that began at the last published point records on.
        """
        tag = keeper_tag(step.keeper)
        with QmpClient(self._control) as qmp:
            disk = GuestDisk(qmp, self._node, tag)
            old, new = disk.bitmap_of(step), bitmap_name(step.point_id, tag)
            if old is None and step.parent is not None:
                number = step.parent.number
                self.notes.append(f"no dirty bitmap of {self._node} began at point {number}: all was read")
            self.reads_marked = old is not None
            before = frozenset({old} if old else ())
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
        with tempfile.TemporaryDirectory(prefix="rollforward-guest-", dir=self._scratch) as folder:
            os.chown(folder, *peer)
            disk.hold(Path(folder), old, new)
            uri = disk.serve(self._server, Path(folder), with_marks=old is not None)
            called = f"{self._node} of {self._control}"
            with NbdSource(uri, bitmap=disk.marks if old else None, called=called) as source:
                yield GuestSource(source, disk)


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
