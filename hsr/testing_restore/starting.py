"""Starting a point to see whether it comes up: until a marker on its console, or until its screen settles."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from hsr.booting.guest import Guest, running_guest
from hsr.booting.machine import Machine
from hsr.booting.overlay import passing_overlay
from hsr.exchange.qemu import Tether
from hsr.serving.background import served_in_background
from hsr.serving.readable import Readable
from hsr.testing_restore.record import Ending, StartCheck
from policies.errors import ConfigurationError, RestoreError, SourceError
from policies.restore_tests import MARKER_MAX, can_mark
from storage.scratch import scratch_folder

_LOOK_S: Final = 0.25
_CONSOLE_BYTES_MAX: Final = 4000
_BLINKING_SHARE: Final = 0.002
"""A cursor that blinks, or a clock that goes on, is no news: so much of a screen may differ."""
_NOTHING_STARTS: Final = b"No bootable device"
"""What SeaBIOS says when it has tried everything; it says nothing of the kind on a machine that starts."""
_SAID_BYTES_MAX: Final = 64 << 20
"""A guest that says more has lost its way, and would fill the disk."""
_PANIC: Final = b"Kernel panic - not syncing"

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is waited for.

    Attributes:
        marker: words on the serial console; None to wait for the screen to settle.
        settled_s: so long the screen stays as it is.
        limit_s: then it is given up.

    Raises:
        ConfigurationError: the marker cannot be one; every console would be found to say blank words.
    """

    marker: str | None = None
    settled_s: float = 20.0
    limit_s: float = 600.0

    def __post_init__(self) -> None:
        """Refuse words that prove nothing, wherever they come from."""
        if self.marker is not None and not can_mark(self.marker):
            raise ConfigurationError(
                f"{self.marker!r} is no marker",
                expected=f"1 to {MARKER_MAX} letters that can be seen",
                hint="Say another one, or none: rollforward hsr test",
            )


def start_and_look(disk: Readable, machine: Machine, waiting: Waiting, tethered: Tether) -> StartCheck:
    """Start a disk, without a network, and see what comes of it.

    Args:
        disk: the point, as a disk.
        machine: what to start it on; its network, serial port and screen are taken care of.
        waiting: what is waited for.
        tethered: makes the guest end with this process.

    Returns:
        What was found.

    Raises:
        ConfigurationError: qemu is not installed.
        FormatError: an image is damaged.
        RestoreError: the machine cannot be made, or there is no room for what it writes.
        StorageError: an image cannot be read: what came of the start says nothing of the point.

    Crash: the guest ends with this process; scratch folders, which the next command sweeps away.
    """
    with (
        scratch_folder("look", Path(tempfile.gettempdir())) as folder,
        passing_overlay(disk.size_bytes) as overlay,
        served_in_background(disk, "look") as served,
    ):
        machine = replace(
            machine,
            network=None,
            display="none",
            vnc=None,
            serial=folder / "console",
            serial_here=False,
            firmware_log=folder / "firmware",
            waits=True,
            stays=True,  # so that its last screen can be seen
            may_reset=False,
        )
        with running_guest(machine, served.socket, overlay, tethered) as guest:
            watch = _Watch(guest, folder, waiting)
            guest.go()
            ending = watch.until_it_ends()
            seconds = time.monotonic() - guest.started_s
            found = StartCheck(
                ending, seconds, guest.accelerator.value, watch.console_end(), watch.screenshot()
            )
        if served.failure is not None:
            raise served.failure
        return found


class _Watch:
    """Looks at a guest now and then."""

    def __init__(self, guest: Guest, folder: Path, waiting: Waiting) -> None:
        self._guest, self._folder, self._waiting = guest, folder, waiting
        self._seen_bytes = 0
        self._blank = self._look()
        """What is shown before the guest has a screen."""
        self._picture: Picture | None = None
        self._still_since_s = time.monotonic()
        self._marks = {_PANIC: Ending.PANIC}
        if waiting.marker is not None:
            self._marks[waiting.marker.encode()] = Ending.MARKER
        self._back_bytes = max(map(len, self._marks))
        self._found: Ending | None = None

    def until_it_ends(self) -> Ending:
        deadline = self._guest.started_s + self._waiting.limit_s
        while True:
            is_running = self._guest.is_running  # asked before the console is read: last words count
            self._listen()
            if self._found:
                return self._found
            if self._guest.lacks_room:
                raise RestoreError(
                    "there is no room for what the guest writes",
                    path=tempfile.gettempdir(),
                    hint="Let TMPDIR name a folder that has some.",
                )
            if not is_running:
                return Ending.ENDED
            if _NOTHING_STARTS in _content(self._folder / "firmware"):
                return Ending.NOTHING_STARTS
            if self._waiting.marker is None and self._has_settled():
                return Ending.SETTLED
            if time.monotonic() > deadline or self._seen_bytes > _SAID_BYTES_MAX:
                return Ending.LATE
            time.sleep(_LOOK_S)

    def _listen(self) -> None:
        """Look for words in what the guest said since, and a little before that."""
        with (self._folder / "console").open("rb") as file:
            file.seek(max(self._seen_bytes - self._back_bytes, 0))
            fresh = file.read()
            self._seen_bytes = file.tell()
        places = {fresh.find(mark): ending for mark, ending in self._marks.items() if mark in fresh}
        self._found = places[min(places)] if places else None

    def _has_settled(self) -> bool:
        picture = self._look()
        if picture is None or not _differ(self._blank, picture) or _differ(self._picture, picture):
            self._still_since_s = time.monotonic()
            self._picture = picture
        return time.monotonic() - self._still_since_s >= self._waiting.settled_s

    def _look(self) -> Picture | None:
        path = self._folder / "screen.ppm"
        try:
            self._guest.screenshot(path, "ppm")
        except SourceError:  # it is just ending
            return None
        return np.frombuffer(_content(path), np.uint8)

    def console_end(self) -> str:
        return _content(self._folder / "console")[-_CONSOLE_BYTES_MAX:].decode(errors="replace")

    def screenshot(self) -> bytes:
        path = self._folder / "screen.png"
        with contextlib.suppress(SourceError):
            self._guest.screenshot(path, "png")
        return _content(path)


def _differ(before: Picture | None, picture: Picture) -> bool:
    """Tell whether a screen changed by more than blinks; one without any content has not settled."""
    if not picture.any() or before is None or len(before) != len(picture):
        return True
    return bool(np.count_nonzero(before != picture) > _BLINKING_SHARE * len(picture))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
