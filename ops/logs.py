"""Logs of the agent's processes: structured, for people on a terminal, as JSON lines elsewhere."""

from __future__ import annotations

import logging
import sys
from typing import Final, TextIO

import structlog
from structlog.typing import EventDict, Processor

from policies.errors import RollforwardError

_QUIET: Final = {"dramatiq": logging.WARNING, "watchdog": logging.WARNING}
REPEAT_AFTER_S: Final = 30.0
"""A library's message is written again after so long."""

_DIM, _BOLD, _GREEN, _YELLOW, _RED = "2", "1", "32", "33", "31"
_LEVEL_COLOURS: Final = {"warning": _YELLOW, "error": _RED, "critical": _RED}
_NOT_FOR_PEOPLE: Final = {"logger", "folder", "chain", "root"}
_IN_TEXT: Final = _NOT_FOR_PEOPLE | {"kind", "number", "point_time", "stored_bytes", "sources", "day"}
"""Fields that an entry's text says already."""


def set_up_logging(log_format: str, *, stream: TextIO | None = None) -> None:
    """Send every log line of this process, those of libraries too, to one stream in one form.

    Args:
        log_format: "json" for one object a line, anything else for people.
        stream: where to; standard output for JSON, standard error for people by default.
    """
    as_json = log_format == "json"
    out = stream or (sys.stdout if as_json else sys.stderr)
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
        structlog.processors.format_exc_info,
    ]
    last: list[Processor] = (
        [structlog.processors.JSONRenderer(ensure_ascii=False)]
        if as_json
        else [LineRenderer(colours=out.isatty())]
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    handler.addFilter(Sparingly())
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


class Sparingly(logging.Filter):
    """Lets a library repeat itself only now and then: six consumers that lost Redis say so many times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is to be written: all of ours, and those of a library that are not repetitions."""
        if record.name.partition(".")[0] not in _QUIET:
            return True
        what = str(record.msg)
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, RollforwardError):  # an outcome that was expected: said in words, not by its way
            what = f"a job failed, and is named again: {error}"
            record.msg, record.args, record.exc_info = what, (), None
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        if record.created < self._said.get(what, 0.0) + REPEAT_AFTER_S:
            return False
        self._said[what] = record.created
        return True


class LineRenderer:
    """Writes a log entry as one line for people: time, what happened, to what, in words, and further fields.

    Args:
        colours: whether the terminal shows them.
    """

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _logger: object, _method: str, entry: EventDict) -> str:
        """Return the line, and a traceback below it if there is one."""
        level = str(entry.pop("level", "info"))
        at, what = str(entry.pop("timestamp", "")), str(entry.pop("event", ""))
        trace = entry.pop("exception", None)
        subject, text = entry.pop("subject", entry.get("logger", "")), entry.pop("text", "")
        hidden = _IN_TEXT if text else _NOT_FOR_PEOPLE
        fields = "  ".join(f"{key}={value}" for key, value in entry.items() if key not in hidden)
        line = "  ".join(
            part
            for part in (
                self._paint(at, _DIM),
                self._paint(f"{what:<14}", _LEVEL_COLOURS.get(level, _GREEN)),
                self._paint(str(subject), _BOLD),
                str(text),
                self._paint(fields, _DIM),
            )
            if part
        )
        return f"{line}\n{trace}" if trace else line

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if text and self._colours else text
