"""A client of QMP, qemu's control protocol: one JSON object a line, answers and events on one socket.

Source: qemu's docs/interop/qmp-spec.txt.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self, cast

from policies.errors import SourceError

_LIMIT_S: Final = 60.0
_LINE_BYTES_MAX: Final = 64 << 20
_EVENTS_MAX: Final = 10_000

Told = Mapping[str, object]
"""An object that qemu sent."""


class QmpClient:
    """A connection to a qemu or qemu-storage-daemon. A context manager; for one thread.

    Args:
        path: its QMP socket, which must be free: it serves one client at a time.

    Raises:
        SourceError: nobody answers there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rest = b""
        self._number = 0
        self._lines: deque[bytes] = deque()
        self._events: deque[Told] = deque(maxlen=_EVENTS_MAX)
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(_LIMIT_S)
            try:
                self._socket.connect(str(path))
            except OSError as error:
                raise self._failed(f"cannot be reached: {error.strerror or error}") from error
            if "QMP" not in self._message(time.monotonic() + _LIMIT_S):
                raise self._failed("what answers there is not QMP")
            self.execute("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def peer(self) -> tuple[int, int]:
        """Return user and group of the process at the other end."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, user, group = struct.unpack("3i", credentials)
        return user, group

    def execute(self, command: str, **arguments: object) -> object:
        """Have a command carried out.

        Args:
            command: its name.
            arguments: its arguments, with `_` for `-`.

        Returns:
            What it gives.

        Raises:
            SourceError: qemu refuses, hangs up or says nothing.
        """
        self._number += 1
        told = {name.replace("_", "-"): value for name, value in arguments.items()}
        line = json.dumps({"execute": command, "arguments": told, "id": self._number})
        try:
            self._socket.sendall(line.encode() + b"\n")
        except OSError as error:
            raise self._failed(f"hung up: {error.strerror or error}") from error
        deadline = time.monotonic() + _LIMIT_S
        while True:
            message = self._message(deadline)
            if "event" not in message and message.get("id") != self._number:
                continue  # answers a command that a signal broke off
            if "return" in message:
                return message["return"]
            if "error" in message:
                why = message["error"]
                words = why.get("desc", "") if isinstance(why, dict) else why
                raise self._failed(f"refuses {command}: {words}")
            self._note(message)

    def await_event(self, name: str, about: Told) -> None:
        """Wait for an event, or take one that came already.

        Args:
            name: of the event.
            about: what its data must say; they may say more.

        Raises:
            SourceError: it does not come.
        """
        deadline = time.monotonic() + _LIMIT_S
        while True:
            while self._events:
                event = self._events.popleft()
                told = event.get("data", {})
                if event.get("event") == name and isinstance(told, dict) and about.items() <= told.items():
                    return
            self._note(self._message(deadline))

    def _note(self, message: Told) -> None:
        if "event" in message:
            self._events.append(message)

    def _message(self, deadline: float) -> Told:
        while not self._lines:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or len(self._rest) > _LINE_BYTES_MAX:
                raise self._failed("says nothing" if left_s <= 0 else "sends a line without end")
            self._socket.settimeout(left_s)
            try:
                got = self._socket.recv(1 << 16)
            except TimeoutError as error:
                raise self._failed("says nothing") from error
            except OSError as error:
                raise self._failed(f"hung up: {error.strerror or error}") from error
            if not got:
                raise self._failed("hung up")
            *lines, self._rest = (self._rest + got).split(b"\n")
            self._lines.extend(line for line in lines if line.strip())
        try:
            message = json.loads(self._lines.popleft())
        except ValueError as error:
            raise self._failed("does not send JSON") from error
        if not isinstance(message, dict):
            raise self._failed("does not send JSON objects")
        return cast("Told", message)

    def _failed(self, words: str) -> SourceError:
        return SourceError(
            f"qemu's control socket {words}", path=str(self.path), hint="See that no other client holds it."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
