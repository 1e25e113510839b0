"""Log lines for people and for programs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from ops.logs import LineRenderer, set_up_logging
from policies.errors import CatalogError


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_a_line_says_what_happened_to_what_and_how():
    entry = {
        "timestamp": "12:00:00",
        "level": "info",
        "event": "landed",
        "subject": "A-b001.spf",
        "text": "base landed",
    }
    entry |= {"stored_bytes": 7, "seconds": 0.5, "folder": 1}
    line = LineRenderer(colours=False)(None, "info", dict(entry))
    assert line == "12:00:00  landed          A-b001.spf  base landed  seconds=0.5"
    coloured = LineRenderer(colours=True)(None, "info", dict(entry) | {"level": "error"})
    assert "\x1b[31mlanded" in coloured


def test_without_words_the_fields_speak():
    line = LineRenderer(colours=False)(
        None, "info", {"event": "started", "logger": "supervisor", "pid": 3, "day": "x"}
    )
    assert line == "started         supervisor  pid=3  day=x"


@pytest.mark.usefixtures("restored_logging")
def test_json_has_one_object_a_line_from_libraries_too():
    out = io.StringIO()
    set_up_logging("json", stream=out)
    structlog.get_logger("agent").info("landed", subject="Ä")
    logging.getLogger("dramatiq").warning("connection lost")
    logging.getLogger("dramatiq").info("of no interest")
    try:
        raise ValueError("odd")
    except ValueError:
        structlog.get_logger("agent").exception("failed")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["landed", "connection lost", "failed"]
    assert lines[0]["subject"] == "Ä"
    assert lines[1]["logger"] == "dramatiq"
    assert "ValueError: odd" in lines[2]["exception"]


@pytest.mark.usefixtures("restored_logging")
def test_people_see_a_traceback_below_its_line():
    out = io.StringIO()
    set_up_logging("console", stream=out)
    try:
        raise ValueError("odd")
    except ValueError:
        structlog.get_logger("agent").exception("failed")
    first, *rest = out.getvalue().splitlines()
    assert "failed" in first
    assert rest[-1] == "ValueError: odd"


@pytest.mark.usefixtures("restored_logging")
def test_a_library_does_not_repeat_itself():
    out = io.StringIO()
    set_up_logging("json", stream=out)
    for consumer in ("verify", "consolidate"):
        for _ in range(3):
            logging.getLogger(f"dramatiq.worker.ConsumerThread({consumer})").critical("lost: %s", consumer)
            logging.getLogger("agent").warning("ours")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == [
        "lost: verify",
        *["ours"] * 6,
    ]


@pytest.mark.usefixtures("restored_logging")
def test_an_error_that_was_expected_is_said_in_words():
    out = io.StringIO()
    set_up_logging("json", stream=out)
    for reason in ("the disk is full", "the disk is full", "it is away"):
        try:
            raise CatalogError(reason, path="the catalogue")
        except CatalogError:
            logging.getLogger("dramatiq.worker").exception("Failed to process message %s", "reconcile(1)")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [
        "a job failed, and is named again: the catalogue: the disk is full",
        "a job failed, and is named again: the catalogue: it is away",
    ]
    assert {line["level"] for line in lines} == {"warning"}
    assert "Traceback" not in out.getvalue()
