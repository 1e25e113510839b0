"""A guest that runs."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from hsr.booting.machine import Accelerator, Machine, machine_command, promising_accelerators
from hsr.booting.overlay import Overlay
from hsr.exchange.qemu import Complaint, Tether, begin_tool
from policies.errors import RestoreError, SourceError
from storage.qmp import QmpClient
from storage.scratch import scratch_folder

_READY_S: Final = 60.0
_END_S: Final = 10.0
_LOOK_S: Final = 0.02
_ROOM_S: Final = 1.0
_NO_ROOM: Final = "io-error"


class Guest:
    """A guest that runs.

    Attributes:
        accelerator: what runs it.
        control: where it is asked and told.
        started_s: when it was started, on the monotonic clock.
        ready_s: how long it took until it ran.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], accelerator: Accelerator, control: QmpClient, started_s: float
    ) -> None:
        self._process = process
        self.accelerator = accelerator
        self.control = control
        self.started_s = started_s
        self.ready_s = time.monotonic() - started_s

    @property
    def lacks_room(self) -> bool:
        """Whether it stands still since there is no room for what it writes."""
        return self._status() == _NO_ROOM

    @property
    def is_running(self) -> bool:
        """Whether it runs: it has neither ended nor been switched off."""
        return self._process.poll() is None and self._status() == "running"

    def go(self) -> None:
        """Have it go, if it waits for that; its time counts from now on."""
        self.started_s = time.monotonic()
        self.control.execute("cont")

    def wait(self, tell: Callable[[str], None]) -> int:
        """Wait until it ends, by itself or since somebody told it to.

        Where there is no room for what it writes, it stands still, and goes on when there is.

        Args:
            tell: told, in words, when it begins to stand still.

        Returns:
            Its status.
        """
        was_full = False
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(_ROOM_S)
            is_full = self.lacks_room
            if is_full and not was_full:
                tell("there is no room for what the guest writes; it stands still until there is")
            if is_full:
                with contextlib.suppress(SourceError):
                    self.control.execute("cont")
            was_full = is_full

    def _status(self) -> object:
        try:
            told = self.control.execute("query-status")
        except SourceError:  # it is just ending
            return None
        return told.get("status") if isinstance(told, dict) else None

    def screenshot(self, path: Path, kind: str) -> None:
        """Have what is on its screen written to a file.

        Args:
            path: the file.
            kind: `png` or `ppm`.

        Raises:
            SourceError: it has ended, or cannot.
        """
        self.control.execute("screendump", filename=str(path), format=kind)


@contextlib.contextmanager
def running_guest(machine: Machine, point: Path, overlay: Overlay, tethered: Tether) -> Iterator[Guest]:
    """Run a guest for as long as the context lasts.

    Args:
        machine: what it is made of.
        point: the NBD socket from which its disk is read.
        overlay: where it writes to.
        tethered: makes it end with this process.

    Raises:
        ConfigurationError: qemu is not installed.
        RestoreError: it does not start.

    Crash: the guest ends with this process; a scratch folder, which the next command sweeps away.
    """
    tries = promising_accelerators() if machine.accelerator is None else (machine.accelerator,)
    with contextlib.ExitStack() as stack:
        for accelerator in tries:
            try:
                guest = stack.enter_context(_started(machine, accelerator, point, overlay, tethered))
            except RestoreError:
                if accelerator is tries[-1]:
                    raise
            else:
                break
        yield guest


@contextlib.contextmanager
def _started(
    machine: Machine, accelerator: Accelerator, point: Path, overlay: Overlay, tethered: Tether
) -> Iterator[Guest]:
    with scratch_folder("guest") as folder:
        control = folder / "qmp.sock"
        machine = replace(machine, control=(control, *machine.control))
        words = machine_command(machine, accelerator, point, overlay.name, folder)
        started_s = time.monotonic()
        process = begin_tool(
            tethered(*words, *overlay.options), fds=overlay.fds, at_terminal=machine.serial_here
        )
        complaint = Complaint(process)
        try:
            with _connected(process, control, complaint) as qmp:
                yield Guest(process, accelerator, qmp, started_s)
        finally:
            _end(process, complaint)


@contextlib.contextmanager
def _connected(process: subprocess.Popen[bytes], control: Path, complaint: Complaint) -> Iterator[QmpClient]:
    deadline = time.monotonic() + _READY_S
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise RestoreError(f"the machine does not start: {complaint.words()}")
        try:
            client = QmpClient(control)
        except SourceError:
            time.sleep(_LOOK_S)
            continue
        with client:
            client.execute("query-status")
            yield client
        return


def _end(process: subprocess.Popen[bytes], complaint: Complaint) -> None:
    """End it as if its plug was pulled; what it wrote to a kept overlay is written out first."""
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    complaint.words()
    if process.stdout is not None:
        process.stdout.close()
