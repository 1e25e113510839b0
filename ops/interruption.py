"""Ending a command on a signal, wherever it stands."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Final, NoReturn, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Turns Ctrl-C, SIGTERM and SIGHUP into SystemExit, so that everything is cleaned up. A context manager.

    Python drops an exception that a signal raises within a finaliser or a callback of the garbage collector. Work
    that lasts therefore calls `check` now and then, which raises it again.
    """

    def __init__(self) -> None:
        self._number: int | None = None

    def check(self) -> None:
        """Go on, or leave.

        Raises:
            SystemExit: a signal came; its code is 128 and the signal's number.
        """
        if self._number is not None:
            raise SystemExit(128 + self._number)

    def checking(self, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """Return a progress that checks, too."""

        def checked(done_bytes: int, total_bytes: int) -> None:
            self.check()
            progress(done_bytes, total_bytes)

        return checked

    def _leave(self, number: int, _frame: FrameType | None) -> NoReturn:
        self._number = number
        raise SystemExit(128 + number)

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._leave) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if error is None:
            self.check()
