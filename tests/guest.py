"""A disk that lives: served by a real qemu-storage-daemon, written to through its NBD export all the while."""

from __future__ import annotations

import contextlib
import json
import random
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from storage.qmp import QmpClient
from tests.commands import run, tool
from tests.nbd_client import WRITE, NbdClient

NODE = "disk0"
PAGE = 4096
PLACES = 100
"""How many pages of the disk are written to, again and again, apart from the first."""


class Guest:
    """A running qemu-storage-daemon with one disk and one writable export of it.

    Args:
        folder: where sockets lie.
        disk: the disk's file.
        kind: its format.
        export: name of the export that the guest writes to; None for no NBD server at all.
    """

    def __init__(self, folder: Path, disk: Path, kind: str, export: str | None = "guest") -> None:
        self.control, self.nbd = folder / "qmp", folder / "nbd"
        node = json.dumps(
            {"driver": kind, "node-name": NODE, "file": {"driver": "file", "filename": str(disk)}}
        )
        writable = {"type": "nbd", "id": "guest", "node-name": NODE, "name": export, "writable": True}
        served = [
            "--nbd-server", f"addr.type=unix,addr.path={self.nbd},max-connections=8",
            "--export", json.dumps(writable),
        ]  # fmt: skip
        self.process = subprocess.Popen(
            [tool("qemu-storage-daemon"), "--blockdev", node, *(served if export is not None else []),
             "--chardev", f"socket,path={self.control},server=on,wait=off,id=qmp",
             "--monitor", "chardev=qmp", "--pidfile", str(folder / "pid")],
        )  # fmt: skip
        try:
            while not (folder / "pid").exists():
                assert self.process.poll() is None, "qemu-storage-daemon did not start"
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.nbd}"

    def asked(self, command: str, **arguments: object) -> list[dict[str, Any]]:
        with QmpClient(self.control) as qmp:
            return cast("list[dict[str, Any]]", qmp.execute(command, **arguments))

    def bitmaps(self) -> list[str]:
        nodes = self.asked("query-named-block-nodes", flat=True)
        return [bitmap["name"] for node in nodes for bitmap in node.get("dirty-bitmaps", [])]

    def things(self) -> tuple[list[str], list[str], list[str]]:
        """Name jobs, exports and nodes."""
        jobs = [job["id"] for job in self.asked("query-jobs")]
        exports = [export["id"] for export in self.asked("query-block-exports")]
        nodes = [node["node-name"] for node in self.asked("query-named-block-nodes", flat=True)]
        return jobs, exports, [name for name in nodes if not name.startswith("#")]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@contextlib.contextmanager
def running_guest(
    folder: Path, disk: Path, kind: str = "raw", export: str | None = "guest"
) -> Iterator[Guest]:
    guest = Guest(folder, disk, kind, export)
    try:
        yield guest
    finally:
        guest.stop()


class Writer:
    """Writes pages in an order that shows: one after the other, each with its number in it.

    The first page of the disk counts: it is written after every other page, so that a state of the disk tells
    after which write it was taken.

    Args:
        guest: whose disk.
        content: what the disk holds now.
        seed: chooses places.
    """

    def __init__(self, guest: Guest, content: bytes, seed: int = 1) -> None:
        self._guest = guest
        self._first = content
        self._random = random.Random(seed)
        self._places = self._random.sample(range(1, len(content) // PAGE), PLACES)
        self.log: list[tuple[int, bytes]] = []
        self._stop = threading.Event()
        self._failure: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)
        self._moved = threading.Condition()

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert not self._failure, self._failure

    def write_more(self, count: int) -> None:
        """Wait until so many more writes have been answered."""
        with self._moved:
            goal = len(self.log) + count
            assert self._moved.wait_for(lambda: len(self.log) >= goal or self._failure, 60)

    def _run(self) -> None:
        try:
            with NbdClient(self._guest.nbd) as client:
                client.go(structured=False, name=b"guest")
                while not self._stop.is_set():
                    self._write(client)
        except BaseException as error:  # noqa: BLE001 - shown by the thread that waits
            self._failure.append(error)

    def _write(self, client: NbdClient) -> None:
        number = len(self.log)
        if number % 2:
            at, page = 0, struct.pack("<Q", number) * (PAGE // 8)
        else:
            at = self._random.choice(self._places) * PAGE
            page = bytes(PAGE) if number % 7 == 0 else struct.pack("<QQ", number, at) * (PAGE // 16)
        with self._moved:
            self.log.append((at, page))  # it may be on the disk from now on
            self._moved.notify_all()
        client.request(WRITE, at, PAGE)
        client.socket.sendall(page)
        assert client.simple_reply()[0] == 0

    def must_be_a_moment(self, state: bytes) -> int:
        """Check that a state is what the disk held after some write and before the next; say after how many.

        A write may change nothing: then it counts.
        """
        counted: int = struct.unpack_from("<Q", state)[0]
        sure = counted + 1 if counted < len(self.log) else 0
        expected = bytearray(self._first)
        for at, page in self.log[:sure]:
            expected[at : at + PAGE] = page
        moments = [sure] if state == expected else []
        for at, page in self.log[sure : sure + 1]:
            expected[at : at + PAGE] = page
            moments += [sure + 1] if state == expected else []
        assert moments, "the state is no moment of the disk"
        return moments[-1]


def new_disk(path: Path, content: bytes, kind: str) -> None:
    raw = path.with_suffix(".content")
    raw.write_bytes(content)
    run("qemu-img", "convert", "-f", "raw", "-O", kind, str(raw), str(path))
    raw.unlink()
