"""Keeping a handful of child processes alive, and ending them together."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

import structlog

from ops.sd_notify import tell_systemd

_log = structlog.get_logger("supervisor")

FIRST_PAUSE_S: Final = 0.1
"""Pause before a child that ended is started again; it doubles each time."""

LONGEST_PAUSE_S: Final = 30.0
"""No pause is longer."""

SOUND_AFTER_S: Final = 30.0
"""A child that ran for so long begins with the first pause again."""

READY_WITHIN_S: Final = 10.0
"""So long the next child waits for one that it needs."""

_KILLED_WITHIN_S: Final = 1.0
"""A child that was killed is waited for so long: the kernel does not end what waits for a folder without an answer."""

_POLL_S: Final = 0.5
_GLANCE_S: Final = 0.2
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """A process to be kept alive.

    Attributes:
        name: for the log.
        command: command line.
        environment: all its variables.
        configuration: written to its standard input.
        is_ready: tells whether what comes after it may be started.
        is_silent: whether its standard output is dropped.
        is_kept: whether it goes on when the others are restarted.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    configuration: str = ""
    is_ready: Callable[[], bool] | None = None
    is_silent: bool = False
    is_kept: bool = False


@dataclass(slots=True)
class _Child:
    plan: ChildPlan
    running: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_after: float = 0.0
    pause_s: float = field(default=FIRST_PAUSE_S)


class Supervisor:
    """Starts children in order, restarts those that end, stops them in the opposite order.

    Use it from the main thread: children are tied to the thread that started them.

    Args:
        plans: the children, those that others need first.
        stop_within_s: how long a child may take to stop before it is killed.
        on_tick: called about twice a second; when it returns True all children are restarted but those to be kept.
    """

    def __init__(
        self,
        plans: Sequence[ChildPlan],
        *,
        stop_within_s: float,
        on_tick: Callable[[], bool] = lambda: False,
    ) -> None:
        self._children = [_Child(plan) for plan in plans]
        self._stop_within_s = stop_within_s
        self._on_tick = on_tick
        self._stopping = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """Keep the children alive until SIGTERM, SIGINT or SIGHUP, then stop them all.

        Crash: the children die with this process, by the kernel's hand.
        """
        previous = {number: signal.signal(number, self._asked_to_stop) for number in _STOP_SIGNALS}
        previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, self._wake)
        try:
            self._start_what_is_due()
            tell_systemd("READY=1", "STATUS=runs")
            while not self._stopping:
                self._start_what_is_due()
                tell_systemd("WATCHDOG=1")
                self._wait(_POLL_S)
                self._notice_ends()
                if self._on_tick():
                    self._stop([child for child in self._children if not child.plan.is_kept])
        finally:
            tell_systemd("STOPPING=1", "STATUS=stops: work is let go of")
            self._stop(self._children)
            for number, handler in previous.items():
                signal.signal(number, handler)
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _asked_to_stop(self, number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        self._wake(number, _frame)

    def _wake(self, _number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b".")

    def _wait(self, longest_s: float) -> None:
        select.select([self._wake_read], [], [], longest_s)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def _start_what_is_due(self) -> None:
        for child in self._children:
            if self._stopping:
                return
            if child.running is None and time.monotonic() >= child.start_after:
                self._start(child)

    def _start(self, child: _Child) -> None:
        plan = child.plan
        child.running = subprocess.Popen(
            plan.command,
            env=dict(plan.environment),
            stdin=subprocess.PIPE if plan.configuration else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if plan.is_silent else None,
            start_new_session=True,  # a Ctrl-C on the terminal is ours to pass on
        )
        child.started_at = time.monotonic()
        if child.running.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                child.running.stdin.write(plan.configuration.encode())
                child.running.stdin.close()
        _log.info("started", child=plan.name, pid=child.running.pid)
        if plan.is_ready is not None:
            self._await_ready(child, plan.is_ready)

    def _await_ready(self, child: _Child, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline and not self._stopping:
            if child.running is None or child.running.poll() is not None or is_ready():
                return
            self._wait(0.02)
        if not self._stopping:
            _log.warning("does not answer yet", child=child.plan.name)

    def _notice_ends(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.running is None or child.running.poll() is None:
                continue
            if now - child.started_at > SOUND_AFTER_S:
                child.pause_s = FIRST_PAUSE_S
            _log.warning(
                "ended, is started again",
                child=child.plan.name,
                status=_how_it_ended(child.running.returncode),
                pause_s=child.pause_s,
            )
            child.start_after = now + child.pause_s
            child.pause_s = min(child.pause_s * 2, LONGEST_PAUSE_S)
            child.running = None

    def _stop(self, children: Sequence[_Child]) -> None:
        """Stop children, the last first; those that are kept, which others need, once all others have ended."""
        for are_kept in (False, True):
            self._stop_together([child for child in reversed(children) if child.plan.is_kept is are_kept])

    def _stop_together(self, children: Sequence[_Child]) -> None:
        """Stop children: asked all at once, so that they share the time; killed if they take too long."""
        asked = [(child, child.running) for child in children if child.running is not None]
        deadline = time.monotonic() + self._stop_within_s
        for child, running in asked:
            child.running = None
            running.terminate()
        for child, running in asked:
            if not _has_ended(running, deadline - time.monotonic()):
                _log.warning("did not stop in time, is killed", child=child.plan.name)
                running.kill()
                _has_ended(running, _KILLED_WITHIN_S)
            if running.returncode is None:
                _log.warning("ends once a folder answers it, is not waited for", child=child.plan.name)
            else:
                status = (
                    "had not begun"
                    if running.returncode == -signal.SIGTERM
                    else _how_it_ended(running.returncode)
                )
                _log.info("stopped", child=child.plan.name, status=status)


def _has_ended(running: subprocess.Popen[bytes], within_s: float) -> bool:
    """Wait for the end of a process, though not for threads of it that wait in the kernel for what may never answer."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            running.wait(max(min(_GLANCE_S, deadline - time.monotonic()), 0.01))
        except subprocess.TimeoutExpired:
            if is_dead := _is_dead(running.pid):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.wait(_GLANCE_S)
            if is_dead or time.monotonic() > deadline:
                return is_dead
        else:
            return True


def _is_dead(pid: int) -> bool:
    """Tell whether only the remains of a process are there; a thread that the kernel cannot end keeps them."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"exit {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
