"""A process that is killed at a step of our choice, where a medium makes something durable, or changes it."""

from __future__ import annotations

from typing import Any

import pytest

from hsr.disks.medium import LocalMedium, _LocalFile


class Killed(BaseException):
    """The process is gone."""


class Killer:
    """Kills whoever uses a medium, once so many steps are done.

    Args:
        monkeypatch: undoes it.
        deeds: what counts beside names: deeds of open files.

    Attributes:
        left: how many steps are left; None for no end.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *deeds: str) -> None:
        self.left: int | None = None
        for name in ("rename", "remove", "sync_folder"):
            monkeypatch.setattr(LocalMedium, name, self._deadly(getattr(LocalMedium, name)))
        for name in deeds:
            monkeypatch.setattr(_LocalFile, name, self._deadly(getattr(_LocalFile, name)))

    def _deadly(self, real: Any) -> Any:
        def done(*given: Any) -> Any:
            self._step()
            result = real(*given)
            self._step()
            return result

        return done

    def _step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed
