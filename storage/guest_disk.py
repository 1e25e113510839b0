"""What a capture does to a disk of a running qemu: holding one moment of it, and letting go without a trace.

Source: qemu's QMP reference, https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html, "Block device exports",
"blockdev-backup", "block-dirty-bitmap-add" and "transaction".
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from policies.errors import SourceError
from storage.bitmap_names import begins_at
from storage.nbd_uri import NbdUri
from storage.qmp import QmpClient, Told
from storage.source import CaptureStep

Wrong = Callable[[str], None]
"""Told what could not be tidied up."""

_PERSISTENT_FORMATS: Final = ("qcow2",)
_UNIX_SOCKETS: Final = Path("/proc/net/unix")


class GuestDisk:
    """A node of a running qemu, and our things about it, whose names begin with `rf-TAG-`.

    Args:
        qmp: the qemu.
        node: name of the node.
        tag: tells our things from those of other captures.

    Attributes:
        folder_prefix: how the name of the folder begins that qemu keeps our things in.
        marks: name of the bitmap that holds what is to be read.
    """

    def __init__(self, qmp: QmpClient, node: str, tag: str) -> None:
        self._qmp = qmp
        self._node = node
        self._prefix = f"rf-{tag}-"
        self.folder_prefix = f"rollforward-guest-{tag}-"
        self.marks = self._named("marks")

    def _named(self, what: str) -> str:
        return self._prefix + what

    @staticmethod
    def socket_in(folder: Path) -> Path:
        """Say where the socket of an NBD server goes, if one has to be started."""
        return folder / "nbd"

    def bitmap_of(self, step: CaptureStep) -> str | None:
        """Find the bitmap that began at the parent point and recorded all since.

        Returns:
            Its name; None if there is none, or a base is due.

        Raises:
            SourceError: there is no such node.
        """
        for bitmap in self._bitmaps():
            name = str(bitmap["name"])
            is_sound = bitmap.get("recording") and not bitmap.get("busy") and not bitmap.get("inconsistent")
            if step.parent is not None and begins_at(name, step.parent) and is_sound:
                return name
        return None

    def kept_bitmaps(self) -> frozenset[str]:
        """Name our bitmaps that began at some point: until a capture is published, each may be one that counts."""
        names = (str(bitmap["name"]) for bitmap in self._bitmaps())
        return frozenset(name for name in names if name.startswith(self._prefix) and name != self.marks)

    def hold(self, folder: Path, old: str | None, new: str) -> None:
        """Keep the present moment; nothing but its name tells it from a frozen disk.

        Args:
            folder: where qemu may keep what the guest overwrites; the file has no name there for long.
            old: the bitmap whose marks are copied to `marks`; None for no marks.
            new: name of the bitmap that begins at this moment.

        Raises:
            SourceError: qemu refuses; nothing was begun then.
        """
        node = self._node_info()
        size = cast("Told", node["image"])["virtual-size"]
        file, moment = self._named("file"), self._named("moment")
        path = folder / "overwritten"
        self._make({"driver": "file", "filename": str(path), "size": 0})
        no_flush = {"no-flush": True}  # what is kept here need not outlive qemu
        self._qmp.execute("blockdev-add", driver="file", node_name=file, filename=str(path), cache=no_flush)
        self._make({"driver": "qcow2", "file": file, "size": size})
        layers = {"file": file, "backing": self._node, "cache": no_flush}
        self._qmp.execute("blockdev-add", driver="qcow2", node_name=moment, **layers)
        backup = {"job-id": self._named("aside"), "device": self._node, "target": moment, "sync": "none"}
        persistent = node.get("drv") in _PERSISTENT_FORMATS
        begin = {"node": self._node, "name": new, "persistent": persistent}
        # Once the backup is prepared, no write gets through until the transaction ends: all below is one moment.
        actions = [("blockdev-backup", backup), ("block-dirty-bitmap-add", begin)]
        if old is not None:
            copy = {"node": self._node, "name": self.marks, "disabled": True}
            merge = {"node": self._node, "target": self.marks, "bitmaps": [old]}
            actions += [("block-dirty-bitmap-add", copy), ("block-dirty-bitmap-merge", merge)]
        self._qmp.execute("transaction", actions=[{"type": kind, "data": told} for kind, told in actions])
        path.unlink(
            missing_ok=True
        )  # qemu has it open; however we end, it takes no room when qemu lets go of it

    def _make(self, options: dict[str, object]) -> None:
        """Have an image made."""
        name = self._named("making")
        self._qmp.execute("blockdev-create", job_id=name, options=options)
        self._qmp.await_event("JOB_STATUS_CHANGE", {"id": name, "status": "concluded"})
        (job,) = [job for job in self._list("query-jobs") if job["id"] == name]
        self._qmp.execute("job-dismiss", id=name)
        if "error" in job:
            raise SourceError(
                f"qemu cannot make a file for what the guest overwrites: {job['error']}",
                path=str(options.get("filename", options.get("file"))),
                hint="Name a folder that qemu can write to, with --scratch.",
            )

    def serve(self, server: NbdUri | None, folder: Path, *, with_marks: bool) -> NbdUri:
        """Export the moment, until `tidy`.

        Args:
            server: where the qemu's NBD server listens; None to have one started.
            folder: where such a server's socket goes.
            with_marks: whether the marks are shown, too.

        Returns:
            Where it is.

        Raises:
            SourceError: qemu refuses.
        """
        uri = NbdUri(self.socket_in(folder), self._named("moment")) if server is None else server
        if server is None:
            self._start_server(self.socket_in(folder))
        self._qmp.execute(
            "block-export-add",
            type="nbd",
            id=self._export_id(is_own=server is None),
            node_name=self._named("moment"),
            name=self._named("moment"),
            writable=False,
            bitmaps=[self.marks] if with_marks else [],
        )
        return NbdUri(uri.address, self._named("moment"))

    def _start_server(self, socket: Path) -> None:
        """Have an NBD server started, in the place of one that a capture left behind when it was killed."""
        start = {"addr": {"type": "unix", "data": {"path": str(socket)}}}
        try:
            self._qmp.execute("nbd-server-start", **start)
        except SourceError as error:
            if not self._is_server_left_over():
                error.hint = "If its NBD server runs already, say where it listens, with --nbd-server."
                raise
            self._qmp.execute("nbd-server-stop")
            self._qmp.execute("nbd-server-start", **start)

    def _is_server_left_over(self) -> bool:
        """Tell whether the server that runs is ours, and nobody's use: nothing but its socket's name says so.

        Source: proc_net(5), `/proc/net/unix`, which lists sockets even after their names are gone.
        """
        is_used = any(export.get("type") == "nbd" for export in self._list("query-block-exports"))
        return not is_used and f"/{self.folder_prefix}".encode() in _UNIX_SOCKETS.read_bytes()

    def confirm(self) -> None:
        """Make sure that the moment was kept until now.

        Raises:
            SourceError: qemu gave up keeping aside what the guest overwrites.
        """
        jobs = [job for job in self._list("query-jobs") if job["id"] == self._named("aside")]
        if [job.get("status") for job in jobs] != ["running"]:
            raise SourceError(
                "qemu gave up keeping aside what the guest overwrites",
                path=self._node,
                hint="See that the folder named with --scratch has room.",
            )

    def tidy(self, keep: frozenset[str], wrong: Wrong) -> None:
        """Take away all our things, of this capture or of one that was killed, as far as they can be found.

        Args:
            keep: bitmaps that stay.
            wrong: told what could not be done.
        """
        for step in (self._drop_exports, self._drop_jobs, self._drop_nodes, lambda: self._drop_bitmaps(keep)):
            try:
                step()
            except SourceError as error:
                wrong(f"something of ours is left in qemu: {error}")

    def _drop_exports(self) -> None:
        for is_own in (True, False):
            name = self._export_id(is_own=is_own)
            if name in [export["id"] for export in self._list("query-block-exports")]:
                self._qmp.execute("block-export-del", id=name, mode="hard")
                self._qmp.await_event("BLOCK_EXPORT_DELETED", {"id": name})
                if is_own:
                    self._qmp.execute("nbd-server-stop")

    def _drop_jobs(self) -> None:
        for job in self._list("query-jobs"):
            name, status = str(job["id"]), job.get("status")
            if name == self._named("aside"):
                self._qmp.execute("block-job-cancel", device=name, force=True)
                self._qmp.await_event("JOB_STATUS_CHANGE", {"id": name, "status": "null"})
            elif name == self._named("making") and status == "concluded":
                self._qmp.execute("job-dismiss", id=name)

    def _drop_nodes(self) -> None:
        present = [node.get("node-name") for node in self._list("query-named-block-nodes", flat=True)]
        for name in (self._named("moment"), self._named("file")):
            if name in present:
                self._qmp.execute("blockdev-del", node_name=name)

    def _drop_bitmaps(self, keep: frozenset[str]) -> None:
        for bitmap in self._bitmaps():
            name = str(bitmap["name"])
            if name.startswith(self._prefix) and name not in keep:
                self._qmp.execute("block-dirty-bitmap-remove", node=self._node, name=name)

    def _bitmaps(self) -> list[Told]:
        return [
            each for each in cast("list[Told]", self._node_info().get("dirty-bitmaps", [])) if "name" in each
        ]

    def _node_info(self) -> Told:
        nodes = self._list("query-named-block-nodes", flat=True)
        for node in nodes:
            if node.get("node-name") == self._node:
                return node
        names = ", ".join(str(node.get("node-name")) for node in nodes) or "none"
        raise SourceError(
            f"qemu has no node named {self._node!r}", path=str(self._qmp.path), hint=f"It has: {names}."
        )

    def _export_id(self, *, is_own: bool) -> str:
        return self._named("own-export" if is_own else "export")

    def _list(self, command: str, **arguments: object) -> list[Told]:
        told = self._qmp.execute(command, **arguments)
        if not isinstance(told, list) or not all(isinstance(each, dict) for each in told):
            raise SourceError(f"qemu answers {command} otherwise than it should", path=str(self._qmp.path))
        return told
