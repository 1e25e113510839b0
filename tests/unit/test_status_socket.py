"""Asking the agent how things stand: answers, and all that leaves the command to look for itself."""

from __future__ import annotations

import errno
import json
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ops.status_socket import SOCKET_NAME, Answerer, Question, ask
from tests.checks.standing import fill_catalogue, herald

_SCREEN = Question(8, as_json=False)


@contextmanager
def answering(place: Path, answer: Callable[[Question], str]) -> Iterator[list[Exception]]:
    """Answer on a thread; what went wrong is gathered in the list."""
    troubles: list[Exception] = []
    answerer = Answerer(place, answer, troubles.append)
    answerer.start()
    try:
        yield troubles
    finally:
        answerer.stop()


def test_a_question_is_answered(tmp_path: Path):
    asked = []

    def answer(question: Question) -> str:
        asked.append(question)
        return "● Büro\n" + "x" * 1_000_000

    with answering(tmp_path, answer):
        assert ask(tmp_path, _SCREEN) == "● Büro\n" + "x" * 1_000_000
        assert ask(tmp_path, Question(None, as_json=True)) is not None
        assert stat.S_IMODE((tmp_path / SOCKET_NAME).stat().st_mode) == 0o600
    assert asked == [_SCREEN, Question(None, as_json=True)]
    assert ask(tmp_path, _SCREEN) is None  # it stopped
    assert not list(tmp_path.iterdir())


def test_in_a_directory_with_a_long_name(tmp_path: Path):
    place = tmp_path / ("state " * 30)
    place.mkdir()
    with answering(place, lambda _: "well"):
        assert ask(place, _SCREEN) == "well"


def test_what_a_killed_one_left_is_taken_over(tmp_path: Path):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / SOCKET_NAME))
    left.close()
    assert ask(tmp_path, _SCREEN) is None
    with answering(tmp_path, lambda _: "well"):
        assert ask(tmp_path, _SCREEN) == "well"


def test_nobody_there(tmp_path: Path):
    assert ask(tmp_path, _SCREEN) is None
    assert ask(tmp_path / "none", _SCREEN) is None
    (tmp_path / SOCKET_NAME).write_text("a file")
    assert ask(tmp_path, _SCREEN) is None


@pytest.mark.parametrize(
    "said", [b"", b"{", b"[]\n", b"[" * 4000 + b"\n", b'{"folders_max": "8", "as_json": 1}\n', b"x" * 70_000]
)
def test_an_asker_of_nonsense_gets_no_answer_and_the_next_one_does(tmp_path: Path, said: bytes):
    with answering(tmp_path, lambda _: "well") as troubles:
        with socket.socket(socket.AF_UNIX) as asker:
            asker.connect(str(tmp_path / SOCKET_NAME))
            asker.sendall(said)
            asker.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):  # it did not read all of it
                assert asker.recv(100) == b""
        assert ask(tmp_path, _SCREEN) == "well"
    assert not troubles


def test_what_cannot_be_answered_has_no_answer(tmp_path: Path):
    def fail(question: Question) -> str:
        raise RuntimeError

    with answering(tmp_path, fail) as troubles:
        assert ask(tmp_path, _SCREEN) is None
        assert ask(tmp_path, _SCREEN) is None
    assert [type(trouble) for trouble in troubles] == [RuntimeError, RuntimeError]


def test_one_that_has_too_much_open_for_a_moment_answers_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    refusals, accept = [OSError(errno.EMFILE, "Too many open files")], socket.socket.accept

    def refusing(listener: socket.socket) -> object:
        if refusals:
            raise refusals.pop()
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", refusing)
    with answering(tmp_path, lambda _: "well"):
        assert ask(tmp_path, _SCREEN) == "well"
    assert not refusals


@pytest.mark.parametrize("answer", [b"", b'{"text": "cut', b"[]\n", b'{"text": 1}\n'])
def test_an_answer_that_is_none(tmp_path: Path, answer: bytes):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / SOCKET_NAME))
        listener.listen()
        once = threading.Thread(target=_say_once, args=(listener, answer))
        once.start()
        assert ask(tmp_path, _SCREEN) is None
        once.join()


def _say_once(listener: socket.socket, answer: bytes) -> None:
    other, _ = listener.accept()
    with other:
        other.recv(1000)
        other.sendall(answer)


_SAY_WHAT_WAS_LOADED = """
import sys
from click.testing import CliRunner
from ops.cli import cli
shown = CliRunner().invoke(cli, ["status", "--json", "--state", sys.argv[1]])
assert shown.exit_code == 0, shown.output
print(shown.output.splitlines()[-1])
print(*(name for name in ("sqlalchemy", "numpy", "alembic", "rich") if name in sys.modules))
"""


def test_the_command_loads_little_where_the_agent_answers(tmp_path: Path):
    state = tmp_path / "state"
    fill_catalogue(state, 2, 20)

    def told() -> tuple[dict[str, object], set[str]]:
        done = subprocess.run(
            [sys.executable, "-c", _SAY_WHAT_WAS_LOADED, str(state)],
            check=True,
            capture_output=True,
            text=True,
        )
        values, loaded = done.stdout.split("\n")[:2]
        return json.loads(values), set(loaded.split())

    read, loaded = told()
    assert {"sqlalchemy"} <= loaded
    with herald(state):
        asked, loaded = told()
    assert not loaded
    assert {**asked, "time": None} == {**read, "time": None}
