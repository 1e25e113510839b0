"""The command line as tests use it: `rollforward …`, in a process of its own or in this one."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ops.cli import main
from ops.passwords import VARIABLE

PROGRAM = str(Path(sys.executable).with_name("rollforward"))


@dataclasses.dataclass(frozen=True, slots=True)
class Ran:
    """What a command gave back."""

    arguments: tuple[str, ...]
    code: int
    output: str
    errors: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The JSON objects that it printed, one a line."""
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]

    def __str__(self) -> str:
        words = " ".join(self.arguments)
        return f"rollforward {words}: exit {self.code}\n{self.output[-2000:]}{self.errors[-2000:]}"


Command = Callable[..., Ran]
"""Takes arguments, runs `rollforward` with them, returns what it gave back."""


def in_own_process(*arguments: str | Path) -> Ran:
    """Run the installed command."""
    words = tuple(str(argument) for argument in arguments)
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, check=False)
    return Ran(words, done.returncode, done.stdout, done.stderr)


def in_this_process(*arguments: str | Path) -> Ran:
    """Run the command's own entry function here, which spares the start of an interpreter."""
    words = tuple(str(argument) for argument in arguments)
    output, errors = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        patch.object(sys, "argv", ["rollforward", *words]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    return Ran(words, code if isinstance(code, int) else 0, output.getvalue(), errors.getvalue())


def with_password(command: Command, file: Path) -> Command:
    """Give a command the password of a file, wherever it may need one; the others have to do without."""

    def run(*arguments: str | Path) -> Ran:
        name, *rest = arguments
        needed = name in ("capture", "restore", "squash") or (name == "verify" and "--deep" in rest)
        with patch.dict(os.environ, {VARIABLE: str(file)} if needed else {}):
            return command(*arguments)

    return run
