"""Logs of the agent's processes: structured, for people on a terminal, as JSON lines elsewhere."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import Processor

_QUIET = {"dramatiq": logging.WARNING, "watchdog": logging.WARNING}


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
        else [_for_people, structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=13)]
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
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _for_people(
    _logger: logging.Logger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Leave out what a person at a terminal does not need: digests, row numbers, logger names."""
    return {key: value for key, value in event.items() if key not in {"logger", "root", "folder", "chain"}}
