"""What the system's own tools print, read while they print it: there may be much of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final, cast

from policies.errors import SourceError
from storage.commands import tool_path

_WORDS_MAX: Final = 300


@contextmanager
def tool_output(name: str, *arguments: str, package: str, silent: bool = False) -> Iterator[IO[bytes]]:
    """Run a tool, and give what it prints; it must be read to its end.

    Args:
        name: its name.
        arguments: its arguments.
        package: the Debian package that has it.
        silent: whether any complaint counts as failing, for tools whose exit status does not tell.

    Raises:
        ConfigurationError: it is not installed.
        SourceError: it failed; raised at the end of the context.

    Crash: the tool, which only reads, ends by itself.
    """
    with _complaints() as complaints, _started(name, arguments, package, complaints) as running:
        try:
            yield cast("IO[bytes]", running.stdout)
        except BaseException:
            running.kill()
            raise
        _judge(name, arguments, running.wait(), complaints, silent=silent)


def first_of_output(name: str, *arguments: str, package: str, count: int) -> bytes:
    """Run a tool until it has printed so many bytes, or ends.

    Args:
        name: its name.
        arguments: its arguments.
        package: the Debian package that has it.
        count: how many bytes are wanted.

    Returns:
        What it printed, at most `count` bytes.

    Raises:
        ConfigurationError: it is not installed.
        SourceError: it failed before it had printed so much.
    """
    with _complaints() as complaints, _started(name, arguments, package, complaints) as running:
        printed = cast("IO[bytes]", running.stdout).read(count)
        if len(printed) == count:
            running.kill()
        else:
            _judge(name, arguments, running.wait(), complaints, silent=False)
    return printed


def _complaints() -> IO[bytes]:
    """Make room for a tool's complaints, in memory: a folder for them may lie on what is frozen now."""
    return os.fdopen(os.memfd_create("complaints"), "w+b")


def _started(
    name: str, arguments: tuple[str, ...], package: str, complaints: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a tool out of the reach of Ctrl-C, in plain English."""
    return subprocess.Popen(
        [tool_path(name, package), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=complaints,
        start_new_session=True,
        env={**os.environ, "LC_ALL": "C"},
    )


def _judge(
    name: str, arguments: tuple[str, ...], status: int, complaints: IO[bytes], *, silent: bool
) -> None:
    """Raise SourceError if a tool that has ended failed."""
    complaints.seek(0)
    words = complaints.read(_WORDS_MAX).decode(errors="replace").strip().partition("\n")[0]
    if status != 0 or (silent and words):
        raise SourceError(f"{name} failed: {words or f'exit {status}'}", path=arguments[-1])
