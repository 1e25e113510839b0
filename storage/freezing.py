"""Keeping a mounted file system still while its device is read."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Self, cast

from policies.errors import ConfigurationError, SourceError
from storage.thaw_watch import FIFREEZE, FITHAW

_START_LIMIT_S: Final = 30.0
_FREEZE_LIMIT_S: Final = 120.0
_THAW_LIMIT_S: Final = 60.0
_HINT_THAW: Final = "If nobody else keeps it frozen, thaw it: fsfreeze --unfreeze."


class Frozen:
    """A file system that is frozen while the context lasts. It takes root.

    Another process freezes it, and thaws it when this one ends, however that happens, or when the time is up.

    Args:
        mount_point: where the file system is mounted.
        limit_s: after how many seconds it is thawed in any case; what was read until then does not count.
        never: a folder that will be written to meanwhile, and must not lie on that file system.

    Raises:
        ConfigurationError: nothing is mounted there, or the folder lies on it.
        SourceError: it cannot be frozen.

    Crash: the file system is thawed at once.
    """

    def __init__(self, mount_point: Path, limit_s: float, never: Path | None = None) -> None:
        self.mount_point = mount_point
        self._limit_s = limit_s
        self._never = never

    def __enter__(self) -> Self:
        if not self.mount_point.is_mount():
            raise ConfigurationError("no file system is mounted there", path=str(self.mount_point))
        if self._never is not None and self._never.stat().st_dev == self.mount_point.stat().st_dev:
            raise ConfigurationError(
                "holds the folder that images go to: it cannot be frozen meanwhile",
                path=str(self.mount_point),
            )
        self._fd = os.open(self.mount_point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._watch = subprocess.Popen(
            [sys.executable, "-P", "-m", "storage.thaw_watch", str(self.mount_point), str(self._limit_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        self._to_watch = cast("IO[bytes]", self._watch.stdin)
        self._from_watch = cast("IO[bytes]", self._watch.stdout)
        try:
            self._must_say("ready", _START_LIMIT_S)
            self._tell(b"freeze\n")
            self._must_say("frozen", _FREEZE_LIMIT_S)
        except BaseException:
            self._end()
            raise
        return self

    def confirm(self) -> None:
        """Make sure that it has been frozen until now.

        Raises:
            SourceError: the time was up, or somebody else thawed it.
        """
        if self._watch.poll() is not None or self._said(0.0) or not self._is_frozen():
            raise SourceError(
                f"was thawed before all was read; {self._limit_s:g} seconds are allowed",
                path=str(self.mount_point),
                hint="Allow more time with --freeze-limit, or capture a snapshot.",
            )

    def _is_frozen(self) -> bool:
        """Try to freeze it again, which fails as long as it is frozen."""
        try:
            fcntl.ioctl(self._fd, FIFREEZE, 0)
        except OSError as error:
            return error.errno == errno.EBUSY
        fcntl.ioctl(self._fd, FITHAW, 0)
        return False

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        try:
            with suppress(BrokenPipeError):
                self._to_watch.close()
            try:
                code = self._watch.wait(_THAW_LIMIT_S)
            except subprocess.TimeoutExpired as error:
                raise SourceError(
                    f"is not thawed after {_THAW_LIMIT_S:g} seconds: the kernel does not answer",
                    path=str(self.mount_point),
                    hint=_HINT_THAW,
                ) from error
            if code != 0:  # it was killed, or could not thaw: it is our turn
                with suppress(OSError):
                    fcntl.ioctl(self._fd, FITHAW, 0)
        finally:
            self._from_watch.close()
            os.close(self._fd)

    def _tell(self, line: bytes) -> None:
        with suppress(BrokenPipeError):
            self._to_watch.write(line)

    def _must_say(self, word: str, limit_s: float) -> None:
        said = self._said(limit_s)
        if said != word:
            is_frozen = said == os.strerror(errno.EBUSY)
            raise SourceError(
                f"cannot be frozen: {said or 'the freezing process does not answer'}",
                path=str(self.mount_point),
                hint=f"It is frozen already. {_HINT_THAW}"
                if is_frozen
                else "Freezing takes root, and a file system that can be frozen.",
            )

    def _said(self, limit_s: float) -> str:
        if not select.select([self._from_watch], [], [], limit_s)[0]:
            return ""
        return self._from_watch.readline().decode().strip()
