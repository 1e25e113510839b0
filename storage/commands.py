"""Running the system's own tools: without a shell, within a time limit, out of the reach of Ctrl-C."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final

from policies.errors import ConfigurationError, SourceError

_LIMIT_S: Final = 120.0
_WORDS_MAX: Final = 300


def tool_path(name: str, package: str) -> str:
    """Find a tool on PATH or where root's tools live.

    Raises:
        ConfigurationError: it is not installed.
    """
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        raise ConfigurationError(f"{name} is not installed", hint=f"Install the package {package}.")
    return found


def run_tool(name: str, *arguments: str, package: str, limit_s: float = _LIMIT_S) -> str:
    """Run a tool to its end.

    Args:
        name: its name.
        arguments: its arguments.
        package: the Debian package that has it.
        limit_s: how long it may take, in seconds.

    Returns:
        What it printed.

    Raises:
        ConfigurationError: it is not installed.
        SourceError: it fails, or takes too long.
    """
    command = [tool_path(name, package), *arguments]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=False,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"{name} takes longer than {limit_s:g} seconds", path=arguments[-1]) from error
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip()[:_WORDS_MAX]
        raise SourceError(f"{name} failed: {words}", path=arguments[-1])
    return done.stdout.decode(errors="replace")
