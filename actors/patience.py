"""Waiting for a folder that may never answer: a server that is gone, a drive that hangs.

The kernel lets a program wait for such a folder for as long as it likes, and there is no way to take the question
back. So it is asked from a thread of its own, which is left behind when nothing comes of it; until that thread has
ended nobody else of this process asks the same folder.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from policies.errors import StorageError

Result = TypeVar("Result")

Beat = Callable[[], None]
"""Called by the work whenever the folder has answered."""

_GLANCE_S: Final = 1.0


@dataclass(slots=True, eq=False)
class _Question(Generic[Result]):
    """What is asked, and what came of it."""

    place: str
    work: Callable[[Beat], Result]
    ended: threading.Event = field(default_factory=threading.Event)
    answered_at: float = field(default_factory=time.monotonic)
    is_abandoned: bool = False
    results: list[Result] = field(default_factory=list)
    error: BaseException | None = None

    def beat(self) -> None:
        if self.is_abandoned:
            raise StorageError("answered too late", path=self.place)
        self.answered_at = time.monotonic()

    def ask(self) -> None:
        try:
            self.results.append(self.work(self.beat))
        except BaseException as error:  # noqa: BLE001 - raised again where the answer is waited for
            self.error = error
        finally:
            with _LOCK:
                if _ABANDONED.get(self.place) is self:
                    del _ABANDONED[self.place]
                self.ended.set()

    def silent_for_s(self) -> float:
        return time.monotonic() - self.answered_at


_LOCK: Final = threading.Lock()
_ABANDONED: Final[dict[str, _Question[object]]] = {}
"""Questions that were given up, but whose threads still wait, by place."""


def patiently(place: str, limit_s: float, work: Callable[[Beat], Result]) -> Result:
    """Do something that touches a folder, as long as the folder answers.

    Args:
        place: the folder; while an earlier question to it still waits, no other is put.
        limit_s: after so long without an answer it is given up.
        work: done in a thread of its own; calls what it is given after each answer, and ends with an error from it
            once it was given up.

    Returns:
        What the work returns.

    Raises:
        StorageError: the folder does not answer; and whatever the work raises.
    """
    with _LOCK:
        earlier = _ABANDONED.get(place)
    if earlier is not None:
        raise _silence(place, earlier.silent_for_s())
    question = _Question(place, work)
    threading.Thread(target=question.ask, name="patience", daemon=True).start()
    while not question.ended.wait(min(_GLANCE_S, limit_s)):
        if question.silent_for_s() > limit_s and _give_up(question):
            raise _silence(place, question.silent_for_s())
    if question.error is not None:
        raise question.error
    return question.results[0]


def _give_up(question: _Question[Result]) -> bool:
    with _LOCK:
        if question.ended.is_set():
            return False
        question.is_abandoned = True
        _ABANDONED[question.place] = question  # type: ignore[assignment]  # only its place and time are looked at
    return True


def _silence(place: str, silent_s: float) -> StorageError:
    return StorageError(
        "does not answer",
        path=place,
        hint=f"Nothing has come from it for {silent_s:.0f} s: is its server or drive up?",
    )
