"""How `rollforward status` asks the agent that runs: what would take long to start answers there already.

The herald listens on a Unix socket in the agent's private directory, so whoever may read the catalogue may ask. One
line of JSON goes there, one comes back. Whatever goes wrong, the one who asks reads the catalogue itself.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

SOCKET_NAME: Final = "status.sock"

_QUESTION_MAX: Final = 4096
"""Bytes of a question."""
_ASK_TIMEOUT_S: Final = 1.0
"""So long the herald waits for a question, and for room to answer: one that is silent keeps no other waiting longer."""
_ANSWER_TIMEOUT_S: Final = 5.0
"""So long a command waits for the herald, which may be at its accounts, before it reads the catalogue itself."""
_AGAIN_S: Final = 0.5
"""After a failed accept: not at once, since what is wrong takes a while to pass."""
_PIECE: Final = 1 << 16
"""Bytes read at once."""


class Question(NamedTuple):
    """What is asked.

    Attributes:
        folders_max: so many folders at most; None for all.
        as_json: whether the answer is to be JSON, and not a screen.
    """

    folders_max: int | None
    as_json: bool


class Answerer:
    """A thread that answers, one question after the other.

    Args:
        state_dir: the agent's private directory.
        answer: gives the text to print; what it raises leaves the question without an answer.
        on_trouble: told of what `answer` raised.

    Raises:
        OSError: it cannot listen there.

    Crash: a socket stays that nobody answers on; the next one takes its place.
    """

    def __init__(
        self, state_dir: Path, answer: Callable[[Question], str], on_trouble: Callable[[Exception], None]
    ) -> None:
        self._place = state_dir / SOCKET_NAME
        self._answer, self._on_trouble = answer, on_trouble
        with suppress(FileNotFoundError):
            self._place.unlink()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short_path(state_dir) as path:
                self._listener.bind(path)
            self._place.chmod(0o600)
            self._listener.listen()
        except OSError:
            self._listener.close()
            raise
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering."""
        self._stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        with suppress(OSError):
            self._place.unlink()

    def _run(self) -> None:
        while True:
            try:
                asker, _ = self._listener.accept()
            except OSError:  # it is to stop; or this process has too much open for a moment
                if self._stopping.wait(_AGAIN_S):
                    return
                continue
            with asker:
                self._answer_one(asker)

    def _answer_one(self, asker: socket.socket) -> None:
        """Answer, or hang up: whoever asked then finds out by itself, with a clear error if there is one."""
        with suppress(Exception):  # it is silent, it is gone, or it asks no question
            asker.settimeout(_ASK_TIMEOUT_S)
            question = _parse(_read_line(asker, _QUESTION_MAX))
            try:
                text = self._answer(question)
            except Exception as error:  # noqa: BLE001 - one question without an answer; the herald goes on
                self._on_trouble(error)
                return
            asker.sendall(json.dumps({"text": text}).encode() + b"\n")


def ask(state_dir: Path, question: Question) -> str | None:
    """Ask the agent that runs on a directory.

    Args:
        state_dir: the agent's private directory.
        question: what to ask.

    Returns:
        The text to print; None if no agent answers.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker, _short_path(state_dir) as path:
            asker.settimeout(_ANSWER_TIMEOUT_S)
            asker.connect(path)
            asker.sendall(json.dumps(question._asdict()).encode() + b"\n")
            text = json.loads(_read_line(asker, None))["text"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return text if isinstance(text, str) else None


@contextmanager
def _short_path(state_dir: Path) -> Iterator[str]:
    """Give a name of the socket that fits into its address, which has room for some 100 bytes."""
    directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{SOCKET_NAME}"
    finally:
        os.close(directory)


def _read_line(other: socket.socket, size_max: int | None) -> bytes:
    """Read up to the end of a line, which must come.

    Raises:
        OSError: the other is silent, or is gone.
        ValueError: the line does not end, or not soon enough.
    """
    read = bytearray()
    while not read.endswith(b"\n"):
        piece = other.recv(_PIECE)
        if not piece or (size_max is not None and len(read) > size_max):
            raise ValueError("a line that does not end")
        read += piece
    return bytes(read)


def _parse(line: bytes) -> Question:
    """Read a question.

    Raises:
        ValueError: it is none.
        KeyError: something is missing.
        TypeError: it is no object.
    """
    asked = json.loads(line)
    folders_max, as_json = asked["folders_max"], asked["as_json"]
    if not isinstance(as_json, bool) or not (folders_max is None or isinstance(folders_max, int)):
        raise ValueError("no question")
    return Question(folders_max, as_json)
