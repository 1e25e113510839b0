"""Commands of the administrator's that run before and after a capture."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from policies.errors import ConfigurationError, RollforwardError, SourceError

_END_LIMIT_S: Final = 10.0


@dataclass(slots=True)
class Outcome:
    """What became of a capture, for the command after it.

    Attributes:
        image: the image that was written; None if it failed.
    """

    image: Path | None = None


@dataclass(frozen=True, slots=True)
class Hooks:
    """The commands, run without a shell.

    Attributes:
        before: runs first; if it fails, nothing is captured.
        after: runs in the end, whatever happened.
        limit_s: how long each may take, in seconds.
        about: variables of their environment: volume, folder and source.
    """

    before: str | None
    after: str | None
    limit_s: float
    about: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def around(self) -> Iterator[Outcome]:
        """Run the commands around what is done in the context.

        Yields:
            To be told of the image.

        Raises:
            ConfigurationError: a command is empty, cannot be read, or is not to be found.
            SourceError: a command fails, or takes too long. That of the command after a capture that failed is
                named in the hint of the error that counts.

        Crash: the command after it does not run.
        """
        outcome, failure = Outcome(), None
        for when, command in (("before", self.before), ("after", self.after)):
            if command is not None:
                _words(when, command)
        try:
            if self.before is not None:
                self._run("before", self.before, {})
            yield outcome
        except BaseException as error:
            failure = error
            raise
        finally:
            if self.after is not None:
                self._run_after(self.after, outcome, failure)

    def _run_after(self, command: str, outcome: Outcome, failure: BaseException | None) -> None:
        told = {"ROLLFORWARD_RESULT": "failed" if outcome.image is None else "captured"}
        if outcome.image is not None:
            told["ROLLFORWARD_IMAGE"] = str(outcome.image)
        if failure is not None:
            told["ROLLFORWARD_ERROR"] = str(failure) or type(failure).__name__
        try:
            self._run("after", command, told)
        except RollforwardError as error:
            if failure is None:
                raise
            if isinstance(failure, RollforwardError):
                failure.hint = f"{failure.hint or ''} Besides: {error}".strip()

    def _run(self, when: str, command: str, told: Mapping[str, str]) -> None:
        words = _words(when, command)
        environment = {**os.environ, **self.about, **told, "ROLLFORWARD_WHEN": when}
        try:
            running = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=2, env=environment, start_new_session=True
            )
        except OSError as error:
            raise ConfigurationError(
                f"the command {when} the capture cannot be run: {error.strerror}", path=words[0]
            ) from error
        try:
            code = running.wait(self.limit_s)
        except BaseException as error:
            _end(running)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise SourceError(
                f"the command {when} the capture takes longer than {self.limit_s:g} seconds", path=command
            ) from error
        if code != 0:
            ended = f"exit {code}" if code > 0 else f"signal {-code}"
            raise SourceError(f"the command {when} the capture failed: {ended}", path=command)


def _words(when: str, command: str) -> list[str]:
    """Split a command into its words.

    Raises:
        ConfigurationError: there are none, or a quotation has no end.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigurationError(
            f"the command {when} the capture cannot be read: {str(error).lower()}", path=command
        ) from error
    if not words:
        raise ConfigurationError(f"the command {when} the capture is empty")
    return words


def _end(running: subprocess.Popen[bytes]) -> None:
    """End a command and all that it started, even where the command itself has ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(running.pid, number)
        with suppress(subprocess.TimeoutExpired):
            running.wait(_END_LIMIT_S)
