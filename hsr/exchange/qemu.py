"""Running qemu's tools: never through a shell, and with every option of theirs that may open something spelt out."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Final

from policies.errors import ConfigurationError

Tether = Callable[..., list[str]]
"""Turns a command line into one whose program ends when this process does."""

_PACKAGES: Final = {
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "qemu-system-x86_64": "qemu-system-x86",
}
_WORDS_MAX: Final = 2000


def find_tool(name: str) -> str:
    """Return where a tool of qemu's is.

    Raises:
        ConfigurationError: it is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise ConfigurationError(
            f"{name} is not installed", hint=f"Install it; on Debian, the package is {_PACKAGES[name]}."
        )
    return found


def begin_tool(
    command: Sequence[str], *, fds: Sequence[int] = (), at_terminal: bool = False
) -> subprocess.Popen[bytes]:
    """Start a tool that says what is wrong in English.

    Args:
        command: program and arguments.
        fds: what it inherits.
        at_terminal: whether it has our input and output; else none, and one that can be read.
    """
    return subprocess.Popen(
        command,
        stdin=None if at_terminal else subprocess.DEVNULL,
        stdout=None if at_terminal else subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
        pass_fds=fds,
    )


class Complaint:
    """Gathers what a tool writes on its standard error, so that it never waits for us to read it."""

    def __init__(self, running: subprocess.Popen[bytes]) -> None:
        self._running = running
        self._words = bytearray()
        self._thread = threading.Thread(target=self._gather, name="rollforward-complaint", daemon=True)
        self._thread.start()

    def _gather(self) -> None:
        stream = self._running.stderr
        while stream is not None and (piece := os.read(stream.fileno(), 4096)):
            if len(self._words) < _WORDS_MAX:
                self._words += piece

    def words(self) -> str:
        """Return the last line that it wrote; to be called when the tool has ended."""
        self._thread.join()
        if self._running.stderr is not None:
            self._running.stderr.close()
        lines = self._words.decode(errors="replace").strip().splitlines()
        return lines[-1].partition(": ")[2] or lines[-1] if lines else "it does not say why"
