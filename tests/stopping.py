"""Stopping whatever changes a disk at any step: before it, or right after it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from storage import own_folder

STEPS_MAX = 200
_CALLS = ("rename", "replace", "link", "unlink", "mkdir", "rmdir", "fsync", "write", "ftruncate")


class Stopped(BaseException):
    """Stands for the end of the process."""


@contextmanager
def stopped_at(step: int, patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Stop what the block does at a step; if it has fewer, it goes on to its end.

    Args:
        step: counted from 0; each call that changes a disk has two, one before it and one after.
        patch: restored when the block ends.

    Yields:
        The calls that were made, to be looked at afterwards.
    """
    calls: list[str] = []
    left = [step]

    def count(name: str) -> None:
        if left[0] == 0:
            raise Stopped(name)
        left[0] -= 1

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            count(name)
            calls.append(name)
            result = real(*arguments, **named)
            count(name)
            return result

        return call

    with patch.context() as patched:
        for name in _CALLS:
            patched.setattr(os, name, counted(name, getattr(os, name)))
        patched.setattr(own_folder, "rename_at", counted("rename_at", own_folder.rename_at))
        yield calls


def every_step(work: Callable[[], object], patch: pytest.MonkeyPatch, check: Callable[[int], None]) -> int:
    """Do work again and again, stopped one step later each time, until it comes to its end.

    Args:
        work: what is done; it finds what the last try left, or `check` sets all up anew.
        patch: the test's.
        check: looks at what a stop left, and prepares the next try.

    Returns:
        How many steps there are.
    """
    for step in range(STEPS_MAX):
        with stopped_at(step, patch):
            try:
                work()
            except Stopped:
                ended = False
            else:
                ended = True
        check(step)
        if ended:
            return step
    raise AssertionError(f"the work does not end within {STEPS_MAX} steps")
