"""The commands on docs/headstart.md and docs/wrapping.md exist, with the options that are named there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from hsr.testing_restore.file_systems import _CHECKERS
from hsr.testing_restore.record import Ending, Verdict
from ops.cli import cli

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "headstart.md").read_text()


def command_lines() -> list[str]:
    joined = PAGE.replace("\\\n", " ")
    return [
        line.strip() for line in joined.splitlines() if line.startswith("    ") and "rollforward " in line
    ]


@pytest.mark.parametrize("line", command_lines())
def test_a_command_is_one(line: str, tmp_path: Path) -> None:
    words = [str(tmp_path) if word.startswith("/") else word for word in shlex.split(line)[1:]]
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
    command.make_context("a command", words, resilient_parsing=False)


def test_there_are_three_scenarios() -> None:
    headings = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    assert headings[:3] == [
        "Moving a server into a virtual machine",
        "A disk array fails",
        "A virtual standby",
    ]
    assert len(command_lines()) > 15


def test_words_of_the_record() -> None:
    for word in (*Verdict, *(set(Ending) - {Ending.MARKER, Ending.SETTLED})):
        assert f"`{word.value}`" in PAGE
    assert len(_CHECKERS) == 4
